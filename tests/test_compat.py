"""The founding documents' names and examples, on what sessions run on (SPEC section 6)."""

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_chat import write_chat_folder

import mlx_simul
from mlx_simul import compat
from mlx_simul.errors import CacheStateError, InvalidOptionError
from mlx_simul.events import Write

SOURCE = "Translate to French: Hello, how are you?"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return mlx_simul.load(write_chat_folder(tmp_path_factory.mktemp("compat") / "model"))


# The examples, with the names of our modules


def test_the_usage_example_of_phase_3(loaded, capsys):
    model, tokenizer = loaded
    preparator = compat.StreamingDataPreparator(tokenizer)
    formatted_text, token_ids, seg_lens = preparator.prepare_source_text(SOURCE)

    mx.random.seed(0)
    for output in compat.stream_generate_streaming(
        model=model,
        tokenizer=tokenizer,
        source_token_ids=token_ids,
        source_seg_len=seg_lens,
        wait_k=3,
        max_new_words=50,
        temp=0.7,
    ):
        if output["word_complete"]:
            print(output["text"], end=" ", flush=True)
            print(f"[read {output['source_words_read']} source words]")

    assert "Hello, how are you?" in formatted_text
    printed = capsys.readouterr().out.splitlines()
    read = [line.rpartition("[")[2] for line in printed if "source words]" in line]
    assert read[0] == "read 3 source words]"
    assert read[-1] == "read 7 source words]"


def test_the_quick_smoke_test_of_phase_3():
    source_seg_len = [5, 3, 4, 2, 6]
    wait_k = 2

    wait_words = compat.calculate_wait_words(source_seg_len, 0, wait_k)
    assert wait_words == 2, f"Expected 2, got {wait_words}"

    state = compat.StreamingState(source_seg_len, wait_k, max_target_words=5)
    assert state.source_words_read == 0
    assert state.target_words_generated == 0
    assert state.is_reading == True  # noqa: E712


def test_the_api_of_phase_1():
    keys = mx.random.normal((1, 4, 10, 64))
    values = mx.random.normal((1, 4, 10, 64))
    cache = compat.DualStreamingCache()

    source_keys, source_values = cache.update_source(keys, values)
    assert mx.array_equal(source_keys, keys) and mx.array_equal(source_values, values)
    target_keys, target_values = cache.update_target(keys, values)
    assert mx.array_equal(target_keys, keys) and mx.array_equal(target_values, values)

    cache.merge_source_target()
    merged_k, merged_v = cache.get_merged()
    assert merged_k.shape == merged_v.shape == (1, 4, 20, 64)
    with pytest.raises(RuntimeError):
        cache.update_source(keys, values)
    cache.separate_source_target()
    with pytest.raises(CacheStateError):
        cache.get_merged()

    cache.reset_target()
    assert (cache.source_tokens, cache.target_tokens) == (10, 0)
    cache.reset()
    assert (cache.source_tokens, cache.target_tokens) == (0, 0)


def test_the_quick_smoke_test_of_phase_1():
    cache = compat.DualStreamingCache()
    keys = mx.random.normal((1, 4, 10, 64))
    values = mx.random.normal((1, 4, 10, 64))
    cache.update_source(keys, values)
    cache.merge_source_target()
    merged_k, _merged_v = cache.get_merged()
    assert merged_k.shape[-2] == 10


def test_the_stopping_criteria(loaded):
    _, tokenizer = loaded
    ends_word = compat.WordBoundaryStoppingCriteria(tokenizer, max_tokens_per_word=50)
    letter, comma, space_a = (tokenizer.encode(text)[-1] for text in ("a", ",", " a"))
    assert ends_word([letter]) == (False, False)
    assert ends_word([letter, space_a]) == (True, True)
    assert ends_word([letter, comma]) == (True, False)
    assert ends_word([letter, tokenizer.eos_token_id])[0]
    assert [compat.MaxLengthStoppingCriteria(2)([1] * n) for n in (1, 2)] == [False, True]
    assert [compat.EOSStoppingCriteria(7)([n]) for n in (1, 7)] == [False, True]


# A thin view of the session


def written(loaded, token_ids, lengths, **options):
    return list(compat.stream_generate_streaming(*loaded, token_ids, lengths, **options))


@settings(max_examples=10)
@given(
    words=st.lists(st.sampled_from(["red", "houses,", "and", "3", "trees."]), min_size=1),
    k=st.integers(1, 5),
    limit=st.integers(1, 6),
)
def test_each_token_is_a_write_of_the_session(loaded, words, k, limit):
    model, tokenizer = loaded
    prompt = compat.StreamingDataPreparator(tokenizer)
    text = " ".join(words)
    _, token_ids, lengths = prompt.prepare_source_text(text)
    *events, finished = mlx_simul.stream_generate(
        model,
        tokenizer,
        prompt.tokenize(text),
        policy=mlx_simul.WaitK(k),
        max_words=limit,
        max_target_source_ratio=None,
    )
    names = compat.WrittenToken.__annotations__
    wanted = [{n: getattr(e, n) for n in names} for e in events if isinstance(e, Write)]
    got = written(loaded, token_ids, lengths, wait_k=k, max_new_words=limit)
    assert got == wanted
    assert "".join(each["text"] for each in got) == finished.target_text


def test_every_option_reaches_the_session(loaded):
    _, token_ids, lengths = compat.StreamingDataPreparator(loaded[1]).prepare_source_text(SOURCE)

    def after(**options):
        mx.random.seed(1)
        return written(loaded, token_ids, lengths, **{"max_new_words": 12, **options})

    usual = after()
    assert after() == usual == after(top_p=0.5)
    for changed in (
        {"wait_k": 1},
        {"max_new_words": 2},
        {"max_tokens_per_word": 1},
        {"temp": 1.5},
        {"repetition_penalty": 5.0},
    ):
        assert after(**changed) != usual, changed
    assert after(temp=1.5, top_p=0.001) == usual
    penalised = {"repetition_penalty": 5.0, "repetition_context_size": 1}
    assert after(**penalised) != after(repetition_penalty=5.0)


@pytest.mark.parametrize("lengths", [[], [3, 4], [-1, 9, 4]])
def test_segments_that_do_not_fit_the_ids_are_refused(loaded, lengths):
    with pytest.raises(InvalidOptionError, match=r"split the 12 .*prepare_source_text"):
        compat.stream_generate_streaming(*loaded, range(12), lengths)


def test_all_names_are_there_and_said():
    for name in compat.__all__:
        assert getattr(compat, name).__doc__
