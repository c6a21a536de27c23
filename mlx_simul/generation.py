"""A source in, its translation or its events out; and the same for async sources."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.nn as nn
from typing_extensions import Unpack

from mlx_simul.engine.prefix import EncodedPrefix
from mlx_simul.errors import InvalidOptionError, SimulWarning
from mlx_simul.events import Event
from mlx_simul.loop.remarks import remark
from mlx_simul.machine.threads import clear_streams
from mlx_simul.options import OptionKeywords, SessionOptions
from mlx_simul.session import SimulSession
from mlx_simul.text.prompts import TokenizedSource


def generate(
    model: nn.Module,
    tokenizer: Any,
    source: str | Iterable[str] | TokenizedSource,
    options: SessionOptions | None = None,
    *,
    prefix: EncodedPrefix | None = None,
    **flat: Unpack[OptionKeywords],
) -> str:
    """Translate a whole source: the text that streaming it would give.

    Warns, with a :class:`~mlx_simul.SimulWarning`, if a limit cut the target off, or if it ended
    long before the source did.

    Args:
        model: as for :func:`stream_generate`.
        tokenizer: likewise.
        source: likewise.
        options: likewise.
        prefix: likewise.
        **flat: likewise.

    Returns:
        The whole target text.

    Raises:
        SimulError: as :func:`stream_generate` does.
    """
    texts = []
    for event in stream_generate(model, tokenizer, source, options, prefix=prefix, **flat):
        texts.append(event.text)
        if (said := remark(event)) is not None:
            warnings.warn(said, SimulWarning, stacklevel=2)
    return "".join(texts)


def stream_generate(
    model: nn.Module,
    tokenizer: Any,
    source: str | Iterable[str] | TokenizedSource,
    options: SessionOptions | None = None,
    *,
    prefix: EncodedPrefix | None = None,
    **flat: Unpack[OptionKeywords],
) -> Iterator[Event]:
    """Translate while the source is still arriving.

    The texts of the events are the translation: ``for event in stream_generate(...):
    print(event.text, end="")``.

    Args:
        model: from :func:`mlx_simul.load`.
        tokenizer: likewise.
        source: the whole text, an iterable of text chunks (read only when the policy needs more),
            or a :class:`~mlx_simul.TokenizedSource`.
        options: as for :class:`~mlx_simul.SimulSession`.
        prefix: likewise.
        **flat: likewise.

    Returns:
        An iterator over Read, Write and TurnEnd, and last Finished; it runs only as events are
        asked for.

    Raises:
        InvalidOptionError: at once if the source is of another kind; for a chunk that is not a
            ``str``, when it arrives.
        SimulError: at once, as :class:`~mlx_simul.SimulSession` does.
    """
    if isinstance(source, TokenizedSource):
        return SimulSession(
            model, tokenizer, options, source=source, prefix=prefix, **flat
        ).events()
    if isinstance(source, bytes | bytearray) or not isinstance(source, Iterable):
        raise InvalidOptionError(
            "source must be a str, an iterable of str or a TokenizedSource, not "
            f"{type(source).__name__}; decode bytes, and give an async iterable to "
            "astream_generate."
        )
    chunks = iter([source] if isinstance(source, str) else source)
    return _run(SimulSession(model, tokenizer, options, prefix=prefix, **flat), chunks)


def _run(session: SimulSession, chunks: Iterator[str]) -> Iterator[Event]:
    for chunk in chunks:
        session.push(chunk)
        yield from session.events()
        if session.finished:
            return
    session.close()
    yield from session.events()


async def astream_generate(
    model: nn.Module,
    tokenizer: Any,
    source: AsyncIterable[str],
    options: SessionOptions | None = None,
    *,
    prefix: EncodedPrefix | None = None,
    **flat: Unpack[OptionKeywords],
) -> AsyncIterator[Event]:
    """As :func:`stream_generate`, for an async source; the event loop stays free.

    All MLX work of the session happens on one thread of its own, since MLX's streams are
    thread-local. The model's weights must be loaded already, as ``load`` leaves them. A pass that
    is under way when the generator is closed or cancelled ends there, and its result is dropped.

    Args:
        model: from :func:`mlx_simul.load`.
        tokenizer: likewise.
        source: text chunks as they arrive.
        options: as for :class:`~mlx_simul.SimulSession`.
        prefix: likewise.
        **flat: likewise.

    Yields:
        Read, Write and TurnEnd, and last Finished.

    Raises:
        InvalidOptionError: if the source is not async; for a chunk that is not a ``str``, when it
            arrives.
        SimulError: with the first event, as :class:`~mlx_simul.SimulSession` does.
    """
    if not isinstance(source, AsyncIterable):
        raise InvalidOptionError(
            f"source must be an async iterable of str, not {type(source).__name__}; "
            "stream_generate takes texts and other iterables."
        )
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlx-simul")
    try:
        session = await loop.run_in_executor(
            thread, lambda: SimulSession(model, tokenizer, options, prefix=prefix, **flat)
        )

        async def events_after(step: Callable[..., None], *given: str) -> AsyncIterator[Event]:
            await loop.run_in_executor(thread, step, *given)
            events = session.events()
            while (event := await loop.run_in_executor(thread, next, events, None)) is not None:
                yield event

        async for chunk in source:
            async for event in events_after(session.push, chunk):
                yield event
            if session.finished:
                return
        async for event in events_after(session.close):
            yield event
    finally:
        thread.submit(clear_streams)
        # Waiting here for the thread would hold up every other task of the loop.
        thread.shutdown(wait=False)
