"""Sessions end to end on a tiny model: SPEC sections 2, 3 and 7."""

import itertools

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx_lm.sample_utils import make_logits_processors, make_sampler
from streams import TEXT, reads, run, writes

import mlx_simul
from mlx_simul import Finished, Policy, Read, SimulSession, WaitK, Write
from mlx_simul.archs.streaming_config import StreamingConfig
from mlx_simul.cache.positions import FollowStart
from mlx_simul.errors import InvalidOptionError, PromptError

quick = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def cut(text, places):
    bounds = [0, *sorted(p % (len(text) + 1) for p in places), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


# The laws of a session


@quick
@given(st.lists(st.integers(0, 1000), max_size=30))
def test_any_chunks_give_the_same_events(model, tokenizer, places):
    whole = run(model, tokenizer, TEXT)
    assert run(model, tokenizer, cut(TEXT, places)) == whole
    assert run(model, tokenizer, [*TEXT]) == whole


def test_other_text_gives_other_events(model, tokenizer):
    """Negative control of the chunking law."""
    assert run(model, tokenizer, TEXT) != run(model, tokenizer, TEXT.replace("today", "now"))


@quick
@given(
    st.text(alphabet="ab .é好ش\u0301👩\u200d🚀", min_size=1, max_size=40),
    st.lists(st.integers(0, 100), max_size=8),
)
def test_any_text_in_any_chunks_gives_the_same_events(model, tokenizer, text, places):
    whole = run(model, tokenizer, text, max_tokens=6)
    assert run(model, tokenizer, cut(text, places), max_tokens=6) == whole
    assert isinstance(whole[-1], Finished)


@pytest.mark.parametrize("k", [1, 3, 100])
@pytest.mark.parametrize("early_eos", ["read", "stop"])
def test_the_policy_is_kept_and_every_event_tells_the_truth(model, tokenizer, k, early_eos):
    events = run(model, tokenizer, TEXT, policy=WaitK(k), early_eos=early_eos)
    *said, finished = events
    n_words, n_read, n_written, text = len(TEXT.split()), 0, 0, ""
    for event in said:
        if isinstance(event, Read):
            n_read += not event.source_finished
            assert event.source_words_read == n_read
        else:
            assert n_read >= min(k + n_written, n_words)
            assert event.source_words_read == n_read
            n_written += event.word_complete
            assert event.target_words_generated == n_written
            text += event.text
    assert finished.target_text == text == tokenizer.decode(list(finished.token_ids))
    assert finished.token_ids == tuple(event.token for event in writes(said))
    assert len(finished.delays) == n_written == len(finished.word_times_ms)
    assert list(finished.delays) == sorted(finished.delays)
    assert all(delay <= n_words for delay in finished.delays)
    assert TEXT.startswith("".join(event.source for event in said))


def test_a_session_writes_while_the_source_arrives(model, tokenizer):
    session = SimulSession(model, tokenizer, policy=WaitK(2), max_tokens=40)
    assert [event.source for event in session.feed("Good mor")] == ["Good"]
    assert session.feed("ning,") == []
    events = session.feed(" how")
    assert [event.source for event in reads(events)] == [" morning,"]
    assert writes(events)
    assert isinstance(session.finish()[-1], Finished)
    assert session.finish() == []


def test_the_source_is_read_no_further_than_the_policy_needs(model, tokenizer):
    taken = []

    def chunks():
        for word in TEXT.split():
            taken.append(word)
            yield word + " "

    for event in mlx_simul.stream_generate(model, tokenizer, chunks(), policy=WaitK(2)):
        if isinstance(event, Write):
            break
    assert len(taken) <= 4


# Limits


@pytest.mark.parametrize(
    ("limit", "reason"),
    [({"max_words": 3}, "max_words"), ({"max_tokens": 7}, "max_tokens")],
    ids=["words", "tokens"],
)
def test_limits_end_a_session(model, tokenizer, limit, reason):
    finished = run(model, tokenizer, TEXT, **limit)[-1]
    assert finished.reason == reason
    reached = len(finished.delays) if reason == "max_words" else len(finished.token_ids)
    assert reached == next(iter(limit.values()))


def test_a_ratio_limit_reads_on_and_ends_with_the_source(model, tokenizer):
    *said, finished = run(
        model, tokenizer, TEXT, max_target_source_ratio=0.5, policy=WaitK(1), max_tokens=500
    )
    assert finished.reason == "max_target_source_ratio"
    assert len(finished.delays) == len(TEXT.split()) / 2
    for event in writes(said):
        assert event.target_words_generated <= 0.5 * event.source_words_read
    assert reads(said)[-1].source_finished


def test_words_are_cut_at_their_limit(model, tokenizer):
    words, length = writes(run(model, tokenizer, TEXT, max_tokens_per_word=2)), 0
    for event in words:
        length += 1
        assert length <= 2
        if event.word_complete:
            length = 0


@pytest.mark.parametrize(
    "option",
    [
        {"max_words": 0},
        {"max_tokens": 0},
        {"max_tokens_per_word": 0},
        {"max_target_source_ratio": 0.0},
        {"max_target_source_ratio": float("nan")},
        {"max_target_source_ratio": float("inf")},
        {"early_eos": "perhaps"},
        {"max_words": "5"},
        {"max_tokens": None},
        {"max_target_source_ratio": "2"},
        {"target_start": -1},
        {"target_start": 10**30},
        {"target_start": FollowStart},
        {"policy": 3},
        {"policy": WaitK},
        {"gpe_compat": True, "max_target_source_ratio": 2.0},
        {"glossary": ["a"]},
        {"frame": "few-shot", "examples": [("a",)]},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(model, tokenizer, option):
    with pytest.raises((InvalidOptionError, PromptError)):
        SimulSession(model, tokenizer, **option)


def test_a_policy_that_answers_something_else_is_refused(model, tokenizer):
    class Vague(Policy):
        def decide(self, progress):
            return "read"

    with pytest.raises(InvalidOptionError, match=r"Action\.READ"):
        run(model, tokenizer, TEXT, policy=Vague())


def test_an_object_that_is_no_policy_is_told_what_to_subclass(model, tokenizer):
    class OnlyDecides:
        def decide(self, progress):
            return mlx_simul.Action.WRITE

    class Subclassed(OnlyDecides, Policy):
        pass

    for policy in (OnlyDecides(), WaitK, 3):
        with pytest.raises(InvalidOptionError, match=r"subclasses mlx_simul\.Policy"):
            SimulSession(model, tokenizer, policy=policy)
    assert writes(run(model, tokenizer, TEXT, policy=Subclassed()))


def test_reference_mode_knows_wait_k_only(model, tokenizer):
    class ReadAll(Policy):
        def decide(self, progress):
            return mlx_simul.Action.READ

    with pytest.raises(InvalidOptionError, match="wait-k only"):
        SimulSession(model, tokenizer, policy=ReadAll(), gpe_compat=True)
    events = run(model, tokenizer, TEXT, policy=ReadAll())
    assert all(isinstance(event, Read) for event in events[: len(TEXT.split()) + 1])
    assert writes(events)


# Sampling


def test_samplers_and_processors_are_mlx_lms(model, tokenizer):
    mx.random.seed(7)
    options = {
        "sampler": make_sampler(temp=1.5, top_p=0.95, min_p=0.01),
        "logits_processors": make_logits_processors(repetition_penalty=1.3),
    }
    sampled = run(model, tokenizer, TEXT, **options)
    mx.random.seed(7)
    assert run(model, tokenizer, TEXT, **options) == sampled
    assert sampled[-1].token_ids != run(model, tokenizer, TEXT)[-1].token_ids


def test_processors_see_the_target_only(model, tokenizer):
    seen = []

    def record(tokens, logits):
        seen.append(tuple(tokens.tolist()))
        return logits

    finished = run(model, tokenizer, TEXT, logits_processors=[record])[-1]
    assert seen[0] == ()
    assert all(tokens == finished.token_ids[: len(tokens)] for tokens in seen)


# Where the target starts


@pytest.mark.parametrize("target_start", [0, 64, "follow", "auto"])
def test_every_target_start_streams(model, tokenizer, target_start):
    assert writes(run(model, tokenizer, TEXT, target_start=target_start))


def test_follow_stays_just_behind_the_source(model, tokenizer):
    session = SimulSession(
        model,
        tokenizer,
        policy=WaitK(1),
        target_start=FollowStart(margin_tokens=4),
        max_tokens=200,
    )
    engine, starts = session._engine, set()
    for word in TEXT.split():
        session.feed(word + " ")
        if engine.start is not None:
            starts.add(engine.start)
            assert engine.source_tokens <= engine.start + 2
    assert len(starts) > 2


def test_outgrowing_the_trained_length_is_said_once(model, tokenizer, monkeypatch):
    monkeypatch.setattr(model.args, "max_position_embeddings", 40)
    with pytest.warns(mlx_simul.SimulWarning, match="max_position_embeddings") as caught:
        events = run(model, tokenizer, TEXT)
    assert isinstance(events[-1], Finished)
    assert len(caught) == 1


def test_a_checkpoint_is_told_what_it_was_trained_to_do(model, tokenizer):
    """Unless the caller says something else."""

    def first_pass(**options):
        session = mlx_simul.SimulSession(model, tokenizer, frame="few-shot", **options)
        return session.encode_prefix().token_ids

    plain = first_pass()
    model.streaming_config = StreamingConfig(source_language="Dutch", target_language="Latin")
    try:
        trained = first_pass()
        assert trained == first_pass(source_language="Dutch", target_language="Latin") != plain
        assert first_pass(target_language="Welsh") not in (plain, trained)
    finally:
        del model.streaming_config
