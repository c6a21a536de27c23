"""stream_generate's own part, and its async twin."""

import asyncio
import inspect
import threading

import mlx_simul.before_mlx

import mlx.core as mx
import pytest
from streams import TEXT, Stumble, run

import mlx_simul
from mlx_simul import InvalidOptionError, SimulSession, WaitK
from mlx_simul.session import SessionOptions


def test_options_are_judged_before_the_first_event(model, tokenizer):
    with pytest.raises(InvalidOptionError, match="max_tokens"):
        mlx_simul.stream_generate(model, tokenizer, TEXT, max_tokens=0)


def test_the_options_that_are_handed_on_are_those_of_a_session():
    taken = set(inspect.signature(SimulSession).parameters)
    own = {"model", "tokenizer", "source", "make_engine"}
    assert set(SessionOptions.__annotations__) == taken - own


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
