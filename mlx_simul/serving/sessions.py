"""Sessions: many live sessions over one model, in passes that they share. It does no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import compress
from os import PathLike
from typing import Any

import mlx.nn as nn
from typing_extensions import Unpack

from mlx_simul.archs.prepare import adopt
from mlx_simul.engine import Engine, StreamingEngine, make_engine
from mlx_simul.engine.batch import Batch
from mlx_simul.engine.prefix import EncodedPrefix, PrefixPool
from mlx_simul.errors import InvalidOptionError, SessionFailedError
from mlx_simul.events import Event
from mlx_simul.loop.drafters import Drafter
from mlx_simul.loop.requests import Pass, Reply
from mlx_simul.options import OptionKeywords, SessionOptions
from mlx_simul.session import SimulSession
from mlx_simul.text.prompts import TokenizedSource


class Sessions:
    """Live sessions over one model, whose passes are run together.

    Each has its own text, languages, policy, sampler and limits, and writes the tokens that it
    would write alone. They come and go at any time, are fed with ``session.push(text)`` and
    ``session.close()``, and go on at each :meth:`step`::

        batch = Sessions(model, tokenizer, policy=WaitK(3))
        french = batch.add(target_language="French")
        german = batch.add(target_language="German")
        french.push("Good morning. ")
        german.push("Good evening. ")
        for session, event in batch.events():
            ...

    Sessions share passes, whatever their policies, where the model's architecture lets a read and a
    write share one (``docs/batches.md``). Elsewhere, and with ``mode="reencode"`` or
    ``"interleaved"``, they run one by one; :meth:`is_shared` says which it is. Those with turns
    that begin alike encode their prefix once.

    All of it belongs to the thread that made it, as MLX's streams do: a server feeds and steps it
    on one thread, and hands texts and events over.

    Args:
        model: from :func:`mlx_simul.load`.
        tokenizer: likewise.
        options: for all sessions that do not say otherwise.
        **flat: likewise, by their names.

    Attributes:
        n_rows: sessions whose passes the last :meth:`step` ran, whether they wrote or not.

    Raises:
        InvalidOptionError: for an option outside its range, or a drafter that serves one session
            only.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        options: SessionOptions | None = None,
        **flat: Unpack[OptionKeywords],
    ) -> None:
        self._options = SessionOptions.of(options, **flat)
        draft = self._options.decoding.draft
        if isinstance(draft, Drafter):
            raise InvalidOptionError(
                f"draft={draft!r} serves one session, not all of a batch: give it to add(), or "
                "give draft='ngram' or a draft model to all."
            )
        self._model, self._tokenizer = adopt(model, tokenizer), tokenizer
        self._batch = Batch(self._model)
        self._prefixes = PrefixPool()
        self._engines: dict[SimulSession, Engine] = {}
        self._said: deque[tuple[SimulSession, Event]] = deque()
        self._failed: deque[tuple[SimulSession, Exception]] = deque()
        self.n_rows = 0

    def __len__(self) -> int:
        """Sessions that are here: they have not finished, left, or broken off."""
        return len(self._engines)

    def __contains__(self, session: SimulSession) -> bool:
        return session in self._engines

    def is_shared(self, session: SimulSession) -> bool:
        """Whether a session that is here shares the passes of others."""
        return self._engines.get(session) in self._batch

    def add(
        self,
        *,
        source: TokenizedSource | None = None,
        prefix: EncodedPrefix | None = None,
        journal: str | PathLike[str] | None = None,
        **flat: Unpack[OptionKeywords],
    ) -> SimulSession:
        """Let a session join; it leaves by itself with its last event.

        Args:
            source: as for :class:`SimulSession`, whose tokens are known.
            prefix: as for :class:`SimulSession`.
            journal: as for :class:`SimulSession`.
            **flat: options, which take precedence over those given to all.

        Returns:
            The session, to be fed by ``push`` and ``close``. (Its ``feed`` and ``finish`` run it
            alone, at once.)

        Raises:
            InvalidOptionError: as :class:`SimulSession` does; or if its ``kv_bits`` are not those
                of the others.
            JournalError: as :class:`SimulSession` does.
        """
        made: list[Engine] = []

        def make(*args: Any, **kwargs: Any) -> Engine:
            engine = make_engine(*args, **kwargs)
            if isinstance(engine, StreamingEngine) and self._batch.takes(engine):
                self._batch.join(engine)
            made.append(engine)
            return engine

        options = SessionOptions.of(self._options, **flat)
        try:
            session = SimulSession(
                self._model,
                self._tokenizer,
                options,
                source=source,
                prefix=prefix,
                journal=journal,
                pool=self._prefixes,
                make_engine=make,
            )
        except BaseException:
            for engine in made:
                self._batch.leave(engine)
            raise
        self._engines[session] = made[0]
        return session

    def remove(self, session: SimulSession) -> None:
        """Let a session leave before it has finished; nothing more can be done with it.

        Raises:
            InvalidOptionError: if it is not here.
        """
        if session not in self._engines:
            raise InvalidOptionError(
                "this session is not in this batch: it has finished, left, or never joined."
            )
        session.break_off()
        self._leave(session)

    def step(self) -> list[tuple[SimulSession, Event]] | None:
        """Run one pass for every session that needs one, and say what came of it.

        Returns:
            Sessions and their events, in the order in which they happened; possibly none. None if
            there is nothing to do before text arrives or a session joins.

        Raises:
            SessionFailedError: if a session broke off. The others are whole, and what they had to
                say comes with the next step.
        """
        sessions = list(self._engines)
        asked = [(session, step) for session in sessions if (step := self._go_on(session))]
        self.n_rows = len(asked)
        if not asked and not self._said and not self._failed:
            return None
        try:
            outcomes = self._run(asked)
        except BaseException:
            for session, _ in asked:
                session.break_off()
            raise
        for (session, _), outcome in zip(asked, outcomes, strict=True):
            if isinstance(outcome, Exception):
                self._fail(session, outcome)
            else:
                session.answer(outcome)
                self._go_on(session)
        if self._failed:
            session, error = self._failed.popleft()
            raise SessionFailedError(
                session, f"a session of the batch broke off: {error}"
            ) from error
        said = list(self._said)
        self._said.clear()
        return said

    def events(self) -> Iterator[tuple[SimulSession, Event]]:
        """Step until every session needs more source, giving each event as it happens.

        Raises:
            SessionFailedError: as :meth:`step`; call it again to go on with the others.
        """
        while (said := self.step()) is not None:
            yield from said

    def _go_on(self, session: SimulSession) -> Pass | None:
        """Let a session go on to the next pass that it needs."""
        try:
            while (step := session.advance()) is not None:
                if isinstance(step, Pass):
                    return step
                self._said.append((session, step))
        except Exception as error:
            self._fail(session, error)
        if session.finished:
            self._leave(session)
        return None

    def _run(self, asked: Sequence[tuple[SimulSession, Pass]]) -> list[Reply | Pass | Exception]:
        engines = [(self._engines[session], request) for session, request in asked]
        shared = [engine in self._batch for engine, _ in engines]
        outcomes = iter(self._batch.run(compress(engines, shared)))  # pyright: ignore
        return [
            next(outcomes) if is_shared else _run_alone(*each)
            for each, is_shared in zip(engines, shared, strict=True)
        ]

    def _fail(self, session: SimulSession, error: Exception) -> None:
        session.break_off()
        self._failed.append((session, error))
        self._leave(session)

    def _leave(self, session: SimulSession) -> None:
        self._batch.leave(self._engines.pop(session))


def _run_alone(engine: Engine, request: Pass) -> Reply | Exception:
    try:
        return engine.run(request)
    except Exception as error:
        return error
