"""stream_generate's own part, and its async twin."""

import asyncio
import inspect
import threading

import mlx.core as mx
import pytest
from streams import TEXT, Stumble, run

import mlx_simul
from mlx_simul import SimulSession, WaitK
from mlx_simul.errors import InvalidOptionError
from mlx_simul.policies import LocalAgreement
from mlx_simul.text.prompts import StreamingDataPreparator


def test_options_are_judged_before_the_first_event(model, tokenizer):
    with pytest.raises(InvalidOptionError, match="max_tokens"):
        mlx_simul.stream_generate(model, tokenizer, TEXT, max_tokens=0)


def test_the_options_that_are_handed_on_are_those_of_a_session():
    own = {"source", "make_engine", "journal", "pool"}
    taken = inspect.signature(SimulSession).parameters.keys() - own
    for function in (mlx_simul.stream_generate, mlx_simul.astream_generate, mlx_simul.generate):
        assert inspect.signature(function).parameters.keys() - {"source"} == taken


def test_a_prefix_serves_a_source_whose_tokens_are_known_and_no_other(model, tokenizer):
    def prefix_of(language):
        session = SimulSession(model, tokenizer, target_language=language, turns=None)
        return session.encode_prefix()

    source = StreamingDataPreparator(tokenizer, target_language="French").tokenize(TEXT)
    options = {"policy": WaitK(2), "max_tokens": 8}
    alone = list(mlx_simul.stream_generate(model, tokenizer, source, **options))
    prefix = prefix_of("French")
    shared = list(mlx_simul.stream_generate(model, tokenizer, source, prefix=prefix, **options))
    assert shared == alone
    with pytest.raises(InvalidOptionError, match="prefix="):
        mlx_simul.stream_generate(model, tokenizer, source, prefix=prefix_of("German"), **options)


def test_the_async_twin_gives_the_same_events_and_leaves_the_loop_free(model, tokenizer):
    threads = set()

    def note_thread(tokens, logits):
        threads.add(threading.get_ident())
        return logits

    async def collect():
        ticks, events = 0, []

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        async def chunks():
            for word in TEXT.split():
                await asyncio.sleep(0)
                yield word + " "

        ticking = asyncio.create_task(tick())
        async for event in mlx_simul.astream_generate(
            model,
            tokenizer,
            chunks(),
            policy=WaitK(2),
            max_tokens=24,
            logits_processors=[note_thread],
        ):
            events.append(event)
        ticking.cancel()
        return ticks, events

    ticks, events = asyncio.run(collect())
    assert events == run(model, tokenizer, TEXT)
    assert ticks > 50
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_cancelling_the_async_twin_does_not_hold_up_the_loop(model, tokenizer):
    release, is_sampling = threading.Event(), threading.Event()

    def slow(logprobs):
        is_sampling.set()
        release.wait(10)
        return mx.argmax(logprobs, axis=-1)

    async def endless():
        while True:
            yield "word "

    async def consume():
        async for _ in mlx_simul.astream_generate(
            model, tokenizer, endless(), policy=WaitK(1), sampler=slow
        ):
            pass

    async def cancel():
        task = asyncio.create_task(consume())
        await asyncio.to_thread(is_sampling.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
        return release.is_set()

    try:
        assert asyncio.run(cancel()) is False
    finally:
        release.set()


def test_an_error_of_an_async_source_reaches_the_caller(model, tokenizer):
    async def chunks():
        yield "one two three "
        raise Stumble

    async def consume():
        return [e async for e in mlx_simul.astream_generate(model, tokenizer, chunks())]

    with pytest.raises(Stumble):
        asyncio.run(consume())


ODD = [None, b"bytes", 3, 0, False, ["one"], bytearray(b"x")]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_a_chunk_that_is_not_text_is_refused_by_both_twins(model, tokenizer, odd):
    """None ended the async one, and what came behind it was lost."""

    async def chunks():
        for chunk in ("one two ", odd, "three four"):
            yield chunk

    async def collect():
        return [e async for e in mlx_simul.astream_generate(model, tokenizer, chunks())]

    with pytest.raises(InvalidOptionError, match=type(odd).__name__):
        asyncio.run(collect())
    with pytest.raises(InvalidOptionError, match=type(odd).__name__):
        list(mlx_simul.stream_generate(model, tokenizer, ["one two ", odd, "three four"]))


def test_empty_chunks_end_nothing(model, tokenizer):
    async def chunks():
        for chunk in ("", TEXT[:30], "", "", TEXT[30:], ""):
            yield chunk

    async def collect():
        options = {"policy": WaitK(2), "max_tokens": 24}
        return [e async for e in mlx_simul.astream_generate(model, tokenizer, chunks(), **options)]

    assert asyncio.run(collect()) == run(model, tokenizer, TEXT)


@pytest.mark.parametrize("odd", [None, b"bytes", 3, bytearray(b"x")], ids=repr)
def test_a_source_of_another_kind_is_refused_by_both_twins(model, tokenizer, odd):
    with pytest.raises(InvalidOptionError, match=f"not {type(odd).__name__}"):
        mlx_simul.stream_generate(model, tokenizer, odd)
    for source in (odd, "text", ["text"]):
        with pytest.raises(InvalidOptionError, match="async iterable"):
            asyncio.run(anext(mlx_simul.astream_generate(model, tokenizer, source)))


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_a_session_refuses_what_is_not_text_and_goes_on(model, tokenizer, odd):
    session = SimulSession(model, tokenizer, policy=WaitK(2), max_tokens=24)
    events = session.feed(TEXT[:20])
    with pytest.raises(InvalidOptionError, match=type(odd).__name__):
        session.feed(odd)
    assert events + session.feed(TEXT[20:]) + session.finish() == run(model, tokenizer, TEXT)
    finished = SimulSession(model, tokenizer, policy=WaitK(1), max_tokens=1)
    finished.feed("one two three ")
    assert finished.finished
    with pytest.raises(InvalidOptionError, match=type(odd).__name__):
        finished.feed(odd)


# The whole answer


def test_generate_gives_the_text_of_the_stream(model, tokenizer):
    *_, finished = run(model, tokenizer, TEXT)
    with pytest.warns(mlx_simul.SimulWarning, match="max_tokens"):
        got = mlx_simul.generate(model, tokenizer, TEXT, policy=WaitK(2), max_tokens=24)
    assert got == finished.target_text != ""


def test_what_is_whole_is_given_without_a_warning(model, tokenizer):
    assert mlx_simul.generate(*mlx_simul.load(), "I like coffee.") == "J'aime le café."


@pytest.mark.parametrize(
    ("name", "policy"), [("wait-k:2", WaitK(2)), ("local-agreement:3", LocalAgreement(3))]
)
def test_a_policy_goes_by_its_name(model, tokenizer, name, policy):
    named = run(model, tokenizer, TEXT, policy=name)
    assert named == run(model, tokenizer, TEXT, policy=policy)
    assert named != run(model, tokenizer, TEXT, policy="whole")


def test_an_unknown_policy_is_refused_with_those_that_are_known(model, tokenizer):
    with pytest.raises(InvalidOptionError, match="local-agreement"):
        mlx_simul.generate(model, tokenizer, TEXT, policy="wait-q")
