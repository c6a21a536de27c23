"""Threads that used MLX let go of its streams before they end: else MLX may abort the process."""

import asyncio
import threading

import mlx.core as mx
import pytest

import mlx_simul
from mlx_simul.console.ear import Ear
from mlx_simul.errors import InvalidOptionError
from mlx_simul.serving.worker import Worker


@pytest.fixture
def cleared(monkeypatch):
    """The threads that have cleared their streams, as it happens."""
    threads, clear = [], mx.clear_streams

    def noting():
        threads.append(threading.current_thread())
        clear()

    monkeypatch.setattr(mx, "clear_streams", noting)
    return threads


async def words(n):
    for _ in range(n):
        await asyncio.sleep(0)
        yield "word "


def one_thread(threads):
    """The only thread that is in a list, once it has ended."""
    (thread,) = threads
    thread.join(60)
    assert thread is not threading.main_thread() and not thread.is_alive()
    return thread


@pytest.mark.parametrize("n_events", [1, None])
def test_an_async_stream_clears_its_streams(cleared, model, tokenizer, n_events):
    async def consume():
        stream = mlx_simul.astream_generate(model, tokenizer, words(5), max_tokens=8)
        async for _ in stream:
            (thread,) = [t for t in threading.enumerate() if t.name.startswith("mlx-simul")]
            if n_events:
                break
        await stream.aclose()
        await asyncio.to_thread(thread.join, 60)

    asyncio.run(consume())
    assert one_thread(cleared).name.startswith("mlx-simul")


@pytest.mark.parametrize("fails", [False, True])
def test_the_thread_of_a_server_clears_its_streams(cleared, golden_models, tokenizer, fails):
    def load():
        if fails:
            raise InvalidOptionError("no such model.")
        return golden_models["qwen2-tiny-0"], tokenizer, mlx_simul.options.SessionOptions()

    worker = Worker({"tiny": load}, print)
    if fails:
        with pytest.raises(InvalidOptionError, match="no such model"):
            worker.start()
        assert cleared  # before the error is told: the process may end with it
    else:
        worker.start()
        worker.stop()
    assert one_thread(cleared) is worker._thread


def test_a_thread_that_listens_clears_its_streams(cleared):
    class Hearing:
        def __iter__(self):
            mx.eval(mx.zeros(2) + 1)
            return iter(())

        def stop(self, now=False):
            pass

    with Ear(Hearing()) as ear:
        assert ear.read() is None
    one_thread(cleared)
