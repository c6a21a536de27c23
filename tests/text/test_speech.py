"""How much speech a text is: the same in any script, whatever words and tokens it is cut into."""

from dataclasses import replace
from fractions import Fraction

import pytest
from article_one import ARTICLE
from hypothesis import given
from hypothesis import strategies as st
from mlx_simul.loop.judging import JudgingLoop

from mlx_simul.loop.limits import Limits
from mlx_simul.loop.loop import NEED_SOURCE, SimulLoop
from mlx_simul.loop.requests import Pass, Reply
from mlx_simul.options import DEFAULT_MAX_RATIO
from mlx_simul.policies import LocalAgreement, WaitK
from mlx_simul.text.boundary import WordBoundaryStoppingCriteria
from mlx_simul.text.characters import is_spaceless
from mlx_simul.text.segmenter import SourceSegmenter
from mlx_simul.text.speech import speech

SPACED = ("French", "German", "Finnish", "Russian", "Arabic", "Hindi", "Korean")
SPACELESS = ("Chinese", "Japanese", "Thai", "Lao", "Khmer", "Burmese")
PIECES = [" ", "a", "don't", "1.5", "é", "e\u0301", "한국", "手", "カ", "ー", "か\u3099", "ที่"]
PIECES += ["ខ្ញុំ", "མི་", "。", "！", "\u200b", "\u200d", "\ufeff", "\u0301", "\u0e34"]
PIECES += ["👩\u200d🚀", "ሰው፡"]
texts = st.lists(st.sampled_from(PIECES), max_size=20).map("".join)


def words_of(text):
    segmenter = SourceSegmenter()
    return [*segmenter.feed(text), *segmenter.finish()]


@pytest.mark.parametrize("language", ARTICLE)
def test_a_text_is_as_much_speech_in_any_script(language):
    """The whole declaration in 521 languages is 0.29 to 1.95 of the English one."""
    english = speech(ARTICLE["English"])
    assert english == len(ARTICLE["English"].split())
    assert 0.6 < speech(ARTICLE[language]) / english < 1.7


@pytest.mark.parametrize("language", SPACELESS)
def test_words_as_policies_count_them_are_not_as_much_speech(language):
    """Negative control: a grapheme is no word."""
    assert len(words_of(ARTICLE[language])) > 1.4 * len(ARTICLE["English"].split())


@given(texts)
def test_a_text_is_what_its_words_are_together(text):
    assert sum(map(speech, words_of(text)), Fraction(0)) == speech(text)


@given(st.characters())
def test_no_character_is_more_than_a_word_and_a_spaceless_one_is_less(character):
    assert 0 <= speech(character) <= 1
    assert not is_spaceless(character) or speech(character) < 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("\u200b \ufeff", 0),
        ("Good morning, how are you?", 5),
        ("안녕하세요 여러분", 2),
        ("你好吗", 2),
        ("ありがとうございます", Fraction(5, 2)),
        ("ที่นี่", Fraction(1, 2)),
        ("iPhone手", Fraction(5, 3)),
        ("葛\U000e0100", Fraction(2, 3)),
    ],
)
def test_how_much_a_text_is(text, words):
    assert speech(text) == words


# Limits, with a model that knows what it wants to write


class Spelling:
    """A tokenizer whose entries are given as bytes; one that is no whole character is a byte."""

    eos_token_ids = (0,)
    added_tokens_decoder = ()

    def __init__(self, entries):
        self.entries = [b"<end>", *dict.fromkeys(entries)]
        self.vocab_size = len(self.entries)

    def decode(self, tokens):
        return b"".join(self.entries[token] for token in tokens).decode("utf-8", "replace")

    def get_vocab(self):
        return {str(entry): i for i, entry in enumerate(self.entries)}

    def encode(self, text, add_special_tokens=True):
        return []

    def batch_decode(self, rows, **options):
        return [self.decode(row) for row in rows]


class NoText:
    """A detokenizer that is not asked: what is written is judged by its tokens."""

    is_holding = False

    def add(self, token):
        return ""

    def flush(self):
        return ""


def in_characters(text):
    return [char.encode() for char in text]


def in_bytes(text):
    """As a tokenizer with byte fallback spells a script that it does not know."""
    return [bytes([byte]) for byte in text.encode()]


def in_threes(text):
    """Tokens of several characters, as large vocabularies have."""
    return [text[i : i + 3].encode() for i in range(0, len(text), 3)]


def translate(source, target, policy=None, cut=in_characters, **limits):
    """What a loop writes of a target that its model would write whole."""
    policy = policy or WaitK(3)
    entries = cut(target)
    spelling = Spelling(entries)
    script = [*(spelling.entries.index(entry) for entry in entries), 0]
    boundary = WordBoundaryStoppingCriteria(spelling)
    limits = Limits(**{"max_tokens": 100_000, **limits})
    parts = (policy, (1,), boundary, (0,), NoText(), limits)
    kind = SimulLoop if isinstance(policy, WaitK) else JudgingLoop
    loop = kind(*parts, stop_early=False, clock_ms=lambda: 0.0)
    loop.add_segment([1])
    for word in words_of(source):
        loop.add_segment([1], word)
    loop.close_source([1])
    steps, events, n_fed, reply = loop.steps(), [], 0, None
    while not events or not hasattr(events[-1], "reason"):
        step = steps.send(reply)
        reply = None
        assert step != NEED_SOURCE
        if not isinstance(step, Pass):
            events.append(step)
        elif step.target_ids:
            # The header is one token; those behind it are the script's.
            n_fed += len(step.target_ids) - step.n_rewind
            predicted = [script[min(n_fed - 1, len(script) - 1)]]
            for draft in step.draft_ids:
                if draft != predicted[-1]:
                    break
                n_fed += 1
                predicted.append(script[min(n_fed - 1, len(script) - 1)])
            reply = Reply(tuple(predicted), 1)
        else:
            n_fed -= step.n_rewind
            reply = Reply((), 1)
    return replace(events[-1], text=spelling.decode(events[-1].token_ids))


CUTS = [in_characters, in_bytes, in_threes]
POLICIES = [WaitK(3), LocalAgreement(2)]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("language", [*SPACED, *SPACELESS])
def test_the_default_ratio_cuts_no_translation(language, policy, cut):
    for source, target in (("English", language), (language, "English"), (language, "Korean")):
        limits = {"max_target_source_ratio": DEFAULT_MAX_RATIO}
        finished = translate(ARTICLE[source], ARTICLE[target], policy, cut, **limits)
        assert (finished.reason, finished.target_text) == ("end_of_turn", ARTICLE[target])


def test_by_words_as_policies_count_them_it_would():
    """Negative control: what the ratio would come to in loop words."""
    finished = translate(ARTICLE["English"], ARTICLE["Burmese"])
    assert len(finished.delays) > DEFAULT_MAX_RATIO * finished.source_words


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("Congratulations!", "おめでとうございます！"),
        ("Congratulations!", "ขอแสดงความยินดีด้วยนะครับ"),
        ("Congratulations!", "ဂုဏ်ယူဝမ်းမြောက်ပါတယ်ခင်ဗျာ။"),
        ("Congratulations!", "សូមអបអរសាទរ!"),
        ("Cheers!", "À votre santé !"),
        ("愛", "I love you so much."),
        ("はい。", "Yes, of course, sir."),
        ("ครับ", "Yes, sir, that is right."),
    ],
)
def test_the_shortest_texts_are_whole(source, target):
    finished = translate(source, target, max_target_source_ratio=DEFAULT_MAX_RATIO)
    assert (finished.reason, finished.target_text) == ("end_of_turn", target)


@pytest.mark.parametrize("cut", [in_characters, in_bytes])
@pytest.mark.parametrize("language", ["English", "Korean", *SPACELESS])
@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_a_model_that_rambles_is_cut_after_as_much_speech_in_any_script(language, policy, cut):
    source = "one two three four five six seven eight"
    for ratio in (0.5, 3.0):
        limits = {"max_target_source_ratio": ratio}
        finished = translate(source, " ".join([ARTICLE[language]] * 2), policy, cut, **limits)
        assert finished.reason == "max_target_source_ratio"
        assert ratio * 8 <= speech(finished.target_text) < ratio * 8 + 1
    finished = translate(source, ARTICLE[language], policy, cut, max_words=5)
    assert finished.reason == "max_words"
    assert 5 <= speech(finished.target_text) < 6


def test_a_ratio_is_the_decimal_that_was_given():
    finished = translate("a b c d e", "v w x y z", max_target_source_ratio=0.6)
    assert finished.target_text == "v w x"
