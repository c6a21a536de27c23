"""Turns (SPEC section 8): a chain of one-turn streams, each as a session of its own."""

from __future__ import annotations

import itertools

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from streams import reads, writes
from tiny_models import first_of, tiny_model

import mlx_simul
from mlx_simul import (
    Action,
    Finished,
    Policy,
    Sessions,
    SimulSession,
    SimulWarning,
    TurnEnd,
    Write,
)
from mlx_simul.errors import InvalidOptionError, SessionClosedError
from mlx_simul.loop.drafters import NGramDrafter
from mlx_simul.loop.remarks import remark

SENTENCES = (
    "Good morning, how are you today?",
    "I would like a ticket to Paris.",
    "Thank you very much!",
    "See you on Monday.",
)
TALK = " ".join(SENTENCES)
POLICIES = ["wait-k:1", "wait-k:3", "whole", "confidence:0.5", "local-agreement:2", "hold-n:1"]
OPTIONS = {
    "turns": "sentence",
    "max_tokens": 48,
    "max_tokens_per_word": 3,
    "max_target_source_ratio": 1.0,
}

quick = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])


def talk(model, tokenizer, source=TALK, **options):
    """All events of a stream with turns."""
    return list(mlx_simul.stream_generate(model, tokenizer, source, **(OPTIONS | options)))


def alone(model, tokenizer, sentence, **options):
    """The token ids of a session that is fed one sentence."""
    options = OPTIONS | options | {"turns": None, "history": 0}
    return list(mlx_simul.stream_generate(model, tokenizer, sentence, **options))[-1].token_ids


def turns(events):
    return [event for event in events if isinstance(event, TurnEnd)]


def cut(text, places):
    bounds = [0, *sorted(p % (len(text) + 1) for p in places), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


# T1 and T2: a turn is a session of its own


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", ["group", "reencode", "interleaved"])
def test_each_turn_is_as_a_session_that_is_fed_its_sentence_alone(model, tokenizer, policy, mode):
    ends = turns(talk(model, tokenizer, policy=policy, mode=mode))
    assert [end.source_text for end in ends] == list(SENTENCES)
    for end, sentence in zip(ends, SENTENCES, strict=True):
        assert end.token_ids == alone(model, tokenizer, sentence, policy=policy, mode=mode)


@pytest.mark.parametrize(
    "more", [{"kv_bits": 8, "kv_group_size": 32}, {"draft": "ngram"}, {"target_start": 40}]
)
def test_it_is_so_with_options_of_every_kind(tokenizer, more):
    model = tiny_model(first_of("llama", head_dim=32, hidden_size=128, vocab_size=1024))
    ends = turns(talk(model, tokenizer, **more))
    for end, sentence in zip(ends, SENTENCES, strict=True):
        assert end.token_ids == alone(model, tokenizer, sentence, **more)


def test_a_turn_that_keeps_the_last_ones_cache_is_told_apart(model, tokenizer, monkeypatch):
    """Negative control of T1."""
    from mlx_simul.engine.group import StreamingEngine

    wanted = turns(talk(model, tokenizer))
    state = StreamingEngine.state
    monkeypatch.setattr(StreamingEngine, "state", property(state.fget, lambda self, value: None))
    kept = turns(talk(model, tokenizer))
    assert [end.token_ids for end in kept[1:]] != [end.token_ids for end in wanted[1:]]


@pytest.mark.parametrize("history", [1, 2])
def test_history_puts_the_last_pairs_before_the_turn(model, tokenizer, history):
    ends = turns(talk(model, tokenizer, history=history))
    pairs = [(end.source_text, end.target_text) for end in ends if end.target_text]
    for i, end in enumerate(ends):
        before = [p for p in pairs[:i]][-history:]
        assert end.token_ids == alone(model, tokenizer, SENTENCES[i], pairs=before)
    off_by_one = alone(model, tokenizer, SENTENCES[2], pairs=pairs[:1])
    assert ends[2].token_ids != off_by_one or (history == 1 and pairs[0] == pairs[1])


def test_a_history_that_is_too_long_is_cut_to_what_a_prompt_holds_and_said(
    model, tokenizer, monkeypatch
):
    monkeypatch.setattr("mlx_simul.text.frames.MAX_PROMPT_CHARS", 160)
    with pytest.warns(SimulWarning, match="pairs stand before this turn"):
        ends = turns(talk(model, tokenizer, history=8))
    pairs = [(end.source_text, end.target_text) for end in ends]
    for i, end in enumerate(ends):
        n = next(n for n in range(i, -1, -1) if sum(map(len, sum(pairs[i - n : i], ()))) <= 160)
        before = pairs[i - n : i]
        assert end.token_ids == alone(model, tokenizer, SENTENCES[i], pairs=before)


def test_given_pairs_stand_before_every_turn(model, tokenizer):
    pairs = [("Yes.", "Oui.")]
    ends = turns(talk(model, tokenizer, pairs=pairs))
    for end, sentence in zip(ends, SENTENCES, strict=True):
        assert end.token_ids == alone(model, tokenizer, sentence, pairs=pairs)
    assert [end.token_ids for end in ends] != [
        end.token_ids for end in turns(talk(model, tokenizer))
    ]


# T3: chunks


@quick
@given(st.lists(st.integers(0, 1000), max_size=20), st.sampled_from(POLICIES))
def test_any_chunks_give_the_same_events(model, tokenizer, places, policy):
    whole = talk(model, tokenizer, policy=policy)
    assert talk(model, tokenizer, cut(TALK, places), policy=policy) == whole
    assert talk(model, tokenizer, [*TALK], policy=policy) == whole


# T4: batches


@pytest.mark.parametrize("policy", POLICIES)
def test_in_a_batch_as_alone(model, tokenizer, policy):
    batch = Sessions(model, tokenizer, policy=policy, **OPTIONS)
    texts = [TALK, " ".join(SENTENCES[::-1]), SENTENCES[1]]
    sessions = [batch.add() for _ in texts]
    said = {session: [] for session in sessions}
    for at in range(0, len(TALK), 7):
        for session, text in zip(sessions, texts, strict=True):
            if text[at : at + 7]:
                session.push(text[at : at + 7])
        for session, event in batch.events():
            said[session].append(event)
    for session in sessions:
        session.close()
    for session, event in batch.events():
        said[session].append(event)
    for session, text in zip(sessions, texts, strict=True):
        assert said[session] == talk(model, tokenizer, text, policy=policy)


def test_sessions_of_a_batch_that_begin_alike_encode_their_prefix_once(model, tokenizer):
    batch = Sessions(model, tokenizer, **OPTIONS, instruction="Say it again")
    passes = []
    for instruction in ("Say it again", "Say it again", "Say it thrice"):
        session = batch.add(instruction=instruction)
        session.push(TALK)
        session.close()
        events = [event for _, event in batch.events()]
        alone = talk(model, tokenizer, instruction=instruction)
        assert events == alone
        passes.append(events[-1].n_passes - alone[-1].n_passes)
    assert passes == [0, -1, 0]


# What the events tell


def test_counts_go_on_and_texts_join(model, tokenizer):
    events = talk(model, tokenizer)
    ends, finished = turns(events), events[-1]
    assert "".join(event.source for event in events) == TALK
    assert "".join(event.text for event in events) == " ".join(
        end.target_text for end in ends if end.target_text
    )
    n_source = n_target = 0
    for end in ends:
        assert end.source_span_words == (n_source, n_source + len(end.source_text.split()))
        assert end.target_span_words == (n_target, n_target + len(end.delays))
        assert all(n_source < delay <= end.source_span_words[1] for delay in end.delays)
        n_source, n_target = end.source_span_words[1], end.target_span_words[1]
    assert reads(events)[-1].source_words_read == n_source == finished.source_words
    assert [e for e in writes(events) if e.word_complete][-1].target_words_generated == n_target
    assert finished.target_words == n_target
    assert (finished.turns, finished.delays, finished.target_text) == (len(ends), (), "")


def test_blank_lines_stay_between_paragraphs(model, tokenizer):
    source = f"{SENTENCES[0]} {SENTENCES[1]}\n\n \n{SENTENCES[2]}"
    events = talk(model, tokenizer, [*source])
    texts = [end.target_text for end in turns(events)]
    assert "".join(event.text for event in events) == f"{texts[0]} {texts[1]}\n\n{texts[2]}"


def test_a_limit_cuts_a_turn_and_loses_no_word(model, tokenizer):
    events = talk(model, tokenizer, max_tokens=2, policy="wait-k:1")
    ends = turns(events)
    assert " ".join(end.source_text for end in ends) == TALK
    cut_off = [end for end in ends if end.ended_by == "limit"]
    assert cut_off
    assert all(end.reason == "max_tokens" for end in cut_off)
    assert not events[-1].is_complete
    assert events[-1].source_words == len(TALK.split())


def test_max_words_ends_the_stream(model, tokenizer):
    events = talk(model, tokenizer, max_words=5)
    assert events[-1].reason == "max_words"
    assert events[-1].target_words == 5
    assert not events[-1].source_finished


def test_max_words_holds_where_the_end_of_a_turn_completes_the_last_of_them(model, tokenizer):
    def ends_soon(tokens, logits):
        return logits if len(tokens) < 5 else mx.where(mx.arange(logits.shape[-1]) == 2, 99, logits)

    options = {"policy": "whole", "logits_processors": [ends_soon]}
    first = turns(talk(model, tokenizer, **options))[0]
    assert first.ended_by == "sentence" and first.reason != "max_words"
    max_words = first.target_span_words[1]
    (end, finished) = talk(model, tokenizer, max_words=max_words, **options)[-2:]
    assert end == first
    assert (finished.reason, finished.source_finished) == ("max_words", False)
    # Where no source is left, no limit has cut anything.
    finished = talk(model, tokenizer, SENTENCES[0], max_words=max_words, **options)[-1]
    assert (finished.reason, finished.source_finished) == (first.reason, True)


@pytest.mark.parametrize("max_words", [1, 5])
def test_what_is_fed_behind_max_words_changes_nothing(tmp_path, model, tokenizer, max_words):
    session = SimulSession(
        model, tokenizer, **OPTIONS, max_words=max_words, journal=tmp_path / "talk"
    )
    session.feed(TALK)
    assert session.finished
    before = (tmp_path / "talk").read_bytes(), len(session._turns._waiting)
    assert session.feed(TALK) == []
    session.end_turn()
    session.update(history=1)
    assert session.finish() == []
    assert ((tmp_path / "talk").read_bytes(), len(session._turns._waiting)) == before


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 4])
def test_what_ended_a_turn_does_not_depend_on_chunks_where_a_limit_cuts_it(
    model, tokenizer, max_tokens
):
    """The limit is reached behind the last word, and its end may have come or not."""
    source = "See it \n\nThank you very\n\nGo home now "
    options = {"policy": "wait-k:1", "max_tokens": max_tokens}
    whole = talk(model, tokenizer, source, **options)
    assert talk(model, tokenizer, [*source], **options) == whole
    assert {end.ended_by for end in turns(whole)} & {"limit", "blank_line"}


def test_nothing_but_white_space_is_an_empty_source(model, tokenizer):
    events = talk(model, tokenizer, " \n\n \n ")
    assert [type(event) for event in events] == [Finished]
    assert events[-1].reason == "empty_source"


# end_turn, update, and what is refused


def test_end_turn_ends_a_turn_in_the_middle_of_a_word(model, tokenizer):
    session = SimulSession(model, tokenizer, **OPTIONS)
    session.feed("I would like a tick")
    session.end_turn()
    (end,) = turns(session.events())
    assert (end.source_text, end.ended_by) == ("I would like a tick", "end_turn")
    session.end_turn()  # no turn has begun
    assert turns(session.events()) == []
    (end,) = turns([*session.feed("et to Paris."), *session.finish()])
    assert end.source_text == "et to Paris."


@pytest.mark.parametrize("chunks", [[TALK], SENTENCES])
def test_update_holds_from_the_next_turn_on(model, tokenizer, chunks):
    session = SimulSession(model, tokenizer, policy="wait-k:1", **OPTIONS)
    events = session.feed(SENTENCES[0][:9])
    session.update(policy="whole", instruction="Say it again")
    events += session.feed(SENTENCES[0][9:] + " " + SENTENCES[1] + " ")
    events += session.finish()
    first, second = turns(events)
    assert first.token_ids == alone(model, tokenizer, SENTENCES[0], policy="wait-k:1")
    wanted = alone(model, tokenizer, SENTENCES[1], policy="whole", instruction="Say it again")
    assert second.token_ids == wanted
    assert session.options.policy == "whole"


def test_another_source_language_has_other_rules_from_the_next_turn_on(model, tokenizer):
    """In German "z.B." ends no sentence, in English "B." may."""
    languages = {"source_language": "English", "target_language": "French"}
    session = SimulSession(model, tokenizer, **OPTIONS, **languages)
    events = session.feed("It is late. We")
    session.update(source_language="German")
    events += session.feed(" go. Ich mag Obst, z.B. Birnen. Ende.") + session.finish()
    sources = [end.source_text for end in turns(events)]
    assert sources == ["It is late.", "We go.", "Ich mag Obst, z.B. Birnen.", "Ende."]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"max_tokens": 5}, "max_tokens is fixed for a session"),
        ({"policy": "wait-k:0"}, "at least 1"),
        ({"source_language": "French"}, "without a target_language"),
        ({"policy": "wait-token:<|none|>"}, "no token '<|none|>'"),
        ({"policy": "align-att:1"}, "does not say which"),
        ({"policy": "align-att:1,heads=99-0"}, "layer 99"),
        ({"pairs": [("a", "b" * 40_000)]}, "40001 characters"),
        ({"pairs": [("a",)]}, "must be pairs"),
    ],
)
def test_what_cannot_change_is_refused_and_changes_nothing(model, tokenizer, changed, says):
    session = SimulSession(model, tokenizer, **OPTIONS)
    before = session.options
    with pytest.raises(mlx_simul.SimulError, match=says):
        session.update(**changed)
    assert session.options == before
    events = [*session.feed(TALK), *session.finish()]
    assert events == talk(model, tokenizer)


def test_an_observer_is_told_by_policies_with_evidence_only(model, tokenizer):
    session, told = SimulSession(model, tokenizer, policy="wait-k:2", **OPTIONS), []
    with pytest.raises(InvalidOptionError, match="no evidence"):
        session.observe(told.append)
    session.update(policy="confidence:0.5")
    session.observe(told.append)
    events = session.feed(SENTENCES[0] + " ")
    with pytest.raises(InvalidOptionError, match="no evidence"):
        session.update(policy="wait-k:2")
    events += [*session.feed(SENTENCES[1]), *session.finish()]
    assert events == talk(model, tokenizer, " ".join(SENTENCES[:2]), policy="confidence:0.5")
    assert len(told) == events[-1].target_words


def test_a_stream_without_turns_has_none_to_end_or_to_wait_for(model, tokenizer):
    session = SimulSession(model, tokenizer, turns=None)
    for act in (session.end_turn, session.update):
        with pytest.raises(InvalidOptionError, match='turns="sentence"'):
            act()
    session = SimulSession(model, tokenizer, **OPTIONS)
    session.close()
    with pytest.raises(SessionClosedError, match="ended"):
        session.end_turn()


def test_turns_are_for_translation_unless_asked_for(model, tokenizer):
    assert not SimulSession(model, tokenizer).has_turns
    assert SimulSession(model, tokenizer, target_language="French").has_turns
    assert not SimulSession(model, tokenizer, target_language="French", gpe_compat=True).has_turns
    assert not SimulSession(model, tokenizer, target_language="French", turns=None).has_turns
    with pytest.raises(InvalidOptionError, match="gpe_compat"):
        SimulSession(model, tokenizer, turns="sentence", gpe_compat=True)


class Eager(Policy):
    """Writes before it has read anything."""

    def decide(self, progress):
        return Action.WRITE


def test_a_limit_that_lets_no_word_be_read_ends_the_stream(model, tokenizer):
    """Otherwise the same turn would begin again for ever."""
    options = {"policy": Eager(), "max_tokens": 2, "max_target_source_ratio": None}
    end, finished = (
        event for event in talk(model, tokenizer, **options) if not isinstance(event, Write)
    )
    assert (end.source_span_words, end.reason) == ((0, 0), "max_tokens")
    assert (finished.reason, finished.source_finished) == ("max_tokens", False)
    assert "first 0 words was left unread" in remark(finished)


@pytest.mark.parametrize(
    "option", [{"history": 1}, {"max_turn_words": 9}, {"splitter": lambda text: [text]}]
)
def test_options_of_turns_are_refused_where_there_are_none(model, tokenizer, option):
    (name,) = option
    with pytest.raises(InvalidOptionError, match=f"{name}: only a stream with turns"):
        SimulSession(model, tokenizer, turns=None, **option)
    SimulSession(model, tokenizer, turns="sentence", **option)


def test_a_drafter_that_would_remember_every_turn_is_refused(model, tokenizer):
    with pytest.raises(InvalidOptionError, match="remember every turn"):
        SimulSession(model, tokenizer, **OPTIONS, draft=NGramDrafter())
    SimulSession(model, tokenizer, **OPTIONS, draft="ngram")
    SimulSession(model, tokenizer, turns=None, draft=NGramDrafter())


# Flat


def test_pieces_that_complete_no_word_are_not_remembered(model, tokenizer):
    session = SimulSession(model, tokenizer, **OPTIONS)
    session.feed("How are you, my fr")
    n_given = len(session._turns._turn.record)
    for piece in ["", "i"] * 50:
        assert session.feed(piece) == []
    assert len(session._turns._turn.record) == n_given
    assert session.feed("end ") and len(session._turns._turn.record) > n_given


def test_nothing_that_a_session_holds_grows(model, tokenizer):
    session = SimulSession(model, tokenizer, **OPTIONS)

    def held():
        rows = session._engine.source_tokens, session._engine.target_tokens
        chain = session._turns
        sizes = [len(v) for v in vars(chain).values() if hasattr(v, "__len__")]
        return (*rows, *sizes)

    sizes = []
    for _ in range(12):
        for sentence in SENTENCES:
            session.feed(f"{sentence} ")
        sizes.append(held())
    assert sizes[4:] == [sizes[4]] * len(sizes[4:])


def test_a_prefix_serves_sessions_with_turns(model, tokenizer):
    prefix = SimulSession(model, tokenizer, **OPTIONS).encode_prefix()
    events = talk(model, tokenizer, prefix=prefix)
    assert events == talk(model, tokenizer)
    again = SimulSession(model, tokenizer, **OPTIONS, prefix=prefix).encode_prefix()
    assert talk(model, tokenizer, prefix=again) == events
    assert events[-1].n_passes == talk(model, tokenizer)[-1].n_passes - bool(prefix.token_ids)
