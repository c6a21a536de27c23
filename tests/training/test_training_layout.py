"""Examples hold the tokens that a session reads and writes."""

from itertools import pairwise

import pytest
from golden_cases import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tiny_chat import CHAT_TEMPLATE
from transformers import PreTrainedTokenizerFast

from mlx_simul.evaluation.pairs import Pair
from mlx_simul.text.prompts import StreamingDataPreparator
from mlx_simul.training.layout import Example, StreamingLayout
from mlx_simul.training.options import LayoutOptions

OPTIONS = LayoutOptions(instruction="Translate into French.", frame="chat")
WORDS = st.text("abéç ,.:;?!<|im_end>'-", min_size=1, max_size=8).filter(str.strip)
TEXTS = st.lists(WORDS, min_size=1, max_size=6).map(lambda words: " ".join(" ".join(words).split()))


def golden_tokenizer(**special) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_file=str(GOLDEN / "tokenizer.json"), **special)


@pytest.fixture(scope="module")
def chat():
    fast = golden_tokenizer(eos_token="<|im_end|>")
    fast.chat_template = CHAT_TEMPLATE
    return TokenizerWrapper(fast)


@pytest.fixture(scope="module")
def layout(chat):
    return StreamingLayout(chat, OPTIONS)


@settings(max_examples=60)
@given(sources=st.lists(TEXTS, min_size=1, max_size=3), target=TEXTS)
def test_the_source_is_what_a_session_reads(chat, layout, sources, target):
    prompt = StreamingDataPreparator(chat, instruction=OPTIONS.instruction)
    example = layout.example([Pair(source, target) for source in sources])
    read = prompt.tokenize(" ".join(sources))
    assert example.source == read.segments
    assert example.target[0] == read.header


@settings(max_examples=30)
@given(history=st.lists(st.tuples(TEXTS, TEXTS), max_size=3), source=TEXTS, target=TEXTS)
def test_earlier_turns_stand_in_the_prefix_and_change_nothing_behind_it(
    layout, chat, history, source, target
):
    alone = layout.example([Pair(source, target)])
    example = layout.example([Pair(source, target)], [Pair(*pair) for pair in history])
    prompt = StreamingDataPreparator(chat, instruction=OPTIONS.instruction)
    assert example.source == prompt.behind(history).tokenize(source).segments
    assert (example.source[1:], example.target) == (alone.source[1:], alone.target)
    n_more = len(example.source[0]) - len(alone.source[0])
    assert n_more >= 2 * len(history)
    for wait_k in (1, None):
        assert example.visible(wait_k) == [n + n_more for n in alone.visible(wait_k)]


@settings(max_examples=60)
@given(target=TEXTS)
def test_the_target_says_its_text_and_ends_once(chat, layout, target):
    example = layout.example([Pair("a", target)])
    words = [token for word in example.target[1:-1] for token in word]
    ends = StreamingDataPreparator(chat).end_of_turn_ids
    assert chat.decode(words) == target
    assert ends.isdisjoint(words)
    assert example.target[-1] == (2,)


@settings(max_examples=60)
@given(target=TEXTS)
def test_target_words_begin_at_spaces_or_behind_punctuation(chat, layout, target):
    words = [chat.decode(list(word)) for word in layout.example([Pair("a", target)]).target[1:-1]]
    assert "".join(words) == target
    for before, word in pairwise(words):
        assert word[0] == " " or before[-1] in ".,:;?!"
    assert all(" " not in word.lstrip() for word in words)


def test_a_long_word_is_cut_where_a_session_cuts_it(chat):
    layout = StreamingLayout(chat, LayoutOptions(max_tokens_per_word=3))
    ids = [40, 41, 42, 43, 44, 45, 46]
    assert layout.target_words(ids) == [(40, 41, 42), (43, 44, 45), (46,)]


@pytest.mark.parametrize(
    ("wait_k", "visible"),
    [
        # Header of 2, words of 1 and 2; a row sees what the token after it may see.
        (1, [3, 3, 5, 5, 6, 6]),
        (2, [5, 5, 6, 6, 6, 6]),
        (None, [6, 6, 6, 6, 6, 6]),
    ],
)
def test_rows_see_the_words_that_wait_k_has_read(wait_k, visible):
    example = Example(((1, 2), (3,), (4, 5), (6,)), ((7, 8), (9,), (10, 11), (2,)))
    assert example.visible(wait_k) == visible


def test_in_the_reference_the_header_sees_one_word_less():
    example = Example(((1, 2), (3,), (4, 5), (6,)), ((7, 8), (9,), (10, 11), (2,)))
    assert example.visible(1, gpe_compat=True) == [2, 3, 5, 5, 6, 6]


def test_a_base_model_is_taught_the_space_behind_the_label(tokenizer):
    layout = StreamingLayout(
        tokenizer, LayoutOptions(source_language="English", target_language="French")
    )
    example = layout.example([Pair("Good morning.", "Bonjour.")])
    header_and_target = tokenizer.decode([t for word in example.target[:-1] for t in word])
    assert header_and_target.endswith("French: Bonjour.")


@pytest.mark.parametrize(
    ("template", "closing"),
    [
        (CHAT_TEMPLATE, "<|im_end|>"),
        ("{{ messages[0].content }}{% if add_generation_prompt %}:{% endif %}", "<|endoftext|>"),
        (None, "\n"),
    ],
    ids=["end of turn", "end of text", "end of line"],
)
def test_a_target_ends_as_the_prompt_says(template, closing):
    fast = golden_tokenizer(eos_token="<|endoftext|>")
    fast.chat_template = template
    layout = StreamingLayout(TokenizerWrapper(fast), LayoutOptions(instruction=None))
    (end,) = layout.example([Pair("a", "b")]).target[-1]
    assert fast.decode([end]) == closing
