"""Stops in whole streams: in every mode, turn by turn, in a batch and from a journal."""

import pytest
from streams import run, writes

import mlx_simul
from mlx_simul import Finished, Read, SimulSession, TurnEnd
from mlx_simul.loop.remarks import remark
from mlx_simul.serving.sessions import Sessions

SENTENCES = ("Good morning, how are you today?", "I would like a ticket.", "See you on Monday.")
TALK = " ".join(SENTENCES)
OPTIONS = {"policy": "wait-k:2", "max_tokens": 40, "max_tokens_per_word": 3}
ONE_TURN = {**OPTIONS, "turns": None}
TURNS = {**OPTIONS, "turns": "sentence", "max_target_source_ratio": 1.0}
WAYS = {
    "group": {"mode": "group"},
    "reencode": {"mode": "reencode"},
    "interleaved": {"mode": "interleaved"},
    "reference": {"gpe_compat": True},
    "judged": {"policy": "local-agreement:2"},
    "drafts": {"draft": "ngram"},
}


@pytest.fixture
def model(golden_models):
    return golden_models["qwen2-tiny-0"]


@pytest.mark.parametrize("way", WAYS)
def test_the_target_ends_where_the_stop_begins(model, tokenizer, way):
    options = ONE_TURN | WAYS[way]
    whole = run(model, tokenizer, TALK, **options)[-1]
    middle = len(whole.target_text) // 2
    for stop in (whole.target_text[middle : middle + 3], whole.token_ids[5:7]):
        events = run(model, tokenizer, TALK, stop=[stop], **options)
        end = events[-1]
        assert (end.reason, end.stop) == ("stop", stop)
        assert "".join(event.text for event in writes(events)) == end.target_text
        assert tuple(event.token for event in writes(events)) == end.token_ids
        assert end.delays == whole.delays[: len(end.delays)]
        if isinstance(stop, str):
            assert end.target_text == whole.target_text[: whole.target_text.index(stop)]
        else:
            assert end.token_ids + stop == whole.token_ids[: len(end.token_ids) + len(stop)]


def parts(events):
    return [
        (end.source_text, end.target_text, end.reason) for end in events if type(end) is TurnEnd
    ]


def test_each_turn_has_stops_of_its_own_and_no_source_is_lost(model, tokenizer):
    events = run(model, tokenizer, TALK, stop=["a", "e"], **TURNS)
    ends = [event for event in events if isinstance(event, TurnEnd)]
    assert " ".join(end.source_text for end in ends) == TALK
    assert sum(end.reason == "stop" for end in ends) > 1
    for end in ends:
        assert not {"a", "e"} & {*end.target_text}
        # A stop in the middle of a sentence leaves the rest of it to the next turn.
        assert (end.ended_by == "limit") == (end.reason == "stop" and not end.is_complete)
        said = remark(end)
        assert (said is None) == end.is_complete
        if end.reason == "stop" and said is not None:
            assert f"ended at the stop {end.stop!r}; the rest of the sentence" in said
    assert "".join(event.source for event in events if isinstance(event, Read)) == TALK
    n_words = [end.target_span_words[1] - end.target_span_words[0] for end in ends]
    assert n_words == [len(end.delays) for end in ends]
    assert events[-1].target_words == sum(n_words)


def test_a_stream_whose_turns_end_at_stops_is_complete(model, tokenizer):
    events = run(model, tokenizer, TALK, stop=["a", "e"], **(TURNS | {"policy": "whole"}))
    assert [reason for _, _, reason in parts(events)].count("stop") > 1
    end = events[-1]
    assert (end.is_complete, end.stop, remark(end)) == (True, None, None)


def test_a_stop_before_the_source_has_ended_is_remarked(model, tokenizer):
    stop = run(model, tokenizer, TALK, **ONE_TURN)[-1].token_ids[2:3]
    end = run(model, tokenizer, TALK, stop=stop, **ONE_TURN)[-1]
    assert isinstance(end, Finished)
    assert not end.is_complete
    assert f"ended at the stop {stop!r}; the source after its first" in str(remark(end))


def test_in_a_batch_as_alone(model, tokenizer):
    plans = [
        {"stop": "a"},
        {"stop": [[7], "e"], "policy": "hold-n:1"},
        {},
        {"stop_after": "sentence"},
    ]
    alone = [run(model, tokenizer, TALK, **(TURNS | plan)) for plan in plans]
    batch = Sessions(model, tokenizer)
    sessions = [batch.add(**(TURNS | plan)) for plan in plans]
    said = {session: [] for session in sessions}
    for session in sessions:
        session.push(TALK)
        session.close()
    while len(batch):
        for session, event in batch.step() or ():
            said[session].append(event)
    assert [said[session] for session in sessions] == alone


@pytest.mark.parametrize("killed_at", [20, 50, 70])
def test_a_journal_goes_on_with_the_same_stops(tmp_path, model, tokenizer, killed_at):
    wanted = parts(run(model, tokenizer, TALK, stop=["a", "e"], **TURNS))
    options = {"stop": ["a", "e"], "journal": tmp_path / "talk.jsonl", **TURNS}
    session = SimulSession(model, tokenizer, **options)
    before = parts(session.feed(TALK[:killed_at]))
    session._journal.close()
    session = SimulSession(model, tokenizer, **options)
    after = parts([*session.events(), *session.feed(TALK[killed_at:]), *session.finish()])
    assert before + after == wanted


def test_stops_belong_to_what_a_journal_is_of(tmp_path, model, tokenizer):
    options = {"journal": tmp_path / "talk.jsonl", **TURNS}
    SimulSession(model, tokenizer, **options)._journal.close()
    with pytest.raises(mlx_simul.errors.JournalError, match="stop"):
        SimulSession(model, tokenizer, stop="a", **options)
    # A journal from before there were stops.
    SimulSession(model, tokenizer, **options)._journal.close()
