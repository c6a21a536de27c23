"""The thread that owns MLX: it steps the sessions of all streams, and does no I/O but journals.

Commands come in through a queue, in order. What follows from them goes out in one call for each
step, so those who take it wake once for a pass, however many streams it was for.

A stream that fails, or is dropped in the middle of a pass, leaves its batch; nothing is said of it
any more, since a key leads to one session and back, and is never used twice.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import mlx.core as mx

from mlx_simul.archs import streaming_config
from mlx_simul.archs.streaming_config import StreamingConfig
from mlx_simul.errors import (
    InvalidOptionError,
    JournalError,
    PromptError,
    SessionFailedError,
    SimulError,
)
from mlx_simul.events import Event, Finished, TurnEnd
from mlx_simul.options import SessionOptions
from mlx_simul.serving.commands import (
    Answer,
    Change,
    Changed,
    Close,
    Command,
    Drop,
    EndTurn,
    Failed,
    Open,
    Opened,
    Push,
    Refused,
    Taken,
    TurnEnded,
)
from mlx_simul.serving.described import described
from mlx_simul.serving.logs import fields
from mlx_simul.serving.owner import Owner
from mlx_simul.serving.sessions import Sessions
from mlx_simul.session import Resumed, SimulSession
from mlx_simul.stream.journal import forget_turns

log = logging.getLogger(__name__)

Loader: TypeAlias = Callable[[], tuple[Any, Any, SessionOptions]]
"""Loads a model, its tokenizer, and the options of its sessions; called by the thread itself."""

Key: TypeAlias = Hashable
"""Stands for one life of a stream: one that is resumed by another session has another key.

As a text it is the stream's name."""

Said: TypeAlias = tuple[Key, Answer]
"""The key of a stream, and what became of it."""


@dataclass
class Figures:
    """What the thread has done, written by it and read by others.

    Attributes:
        steps: passes over a model, each for all of its sessions that needed one.
        step_s: seconds that they took.
        rows: sessions that took part, summed over the steps, whether they wrote or not.
        memory_bytes: that MLX's arrays take.
    """

    steps: int = 0
    step_s: float = 0.0
    rows: int = 0
    memory_bytes: int = 0


@dataclass
class _Live:
    """A stream and its session.

    Attributes:
        turn_ends: for each :class:`EndTurn` to be answered, the words before it, and its number.
        words_done: source words in turns that have ended.
    """

    key: Key
    model: str
    session: SimulSession
    turn_ends: deque[tuple[int, int]] = field(default_factory=deque)
    words_done: int = 0


class _Served:
    """A model and its sessions."""

    def __init__(self, model: Any, tokenizer: Any, options: SessionOptions) -> None:
        if options.turn.turns == "auto":
            # A client says its languages once its session has begun, and only turns can change.
            options = SessionOptions.of(options, turns="sentence")
        self.trained: StreamingConfig = streaming_config(model)
        self.sessions = Sessions(model, tokenizer, options)


class Worker(Owner):
    """Runs the sessions of many streams on a thread of its own.

    Args:
        loaders: of the models, by the names that clients know.
        deliver: called by the thread after each step with what the streams said, in order.
        memory_limit_bytes: no stream begins that might take MLX's arrays beyond it.

    Attributes:
        figures: what it has done.
    """

    def __init__(
        self,
        loaders: Mapping[str, Loader],
        deliver: Callable[[Sequence[Said]], None],
        memory_limit_bytes: int | None = None,
    ) -> None:
        super().__init__("mlx")
        self._loaders, self._deliver = loaders, deliver
        self._memory_limit_bytes = memory_limit_bytes
        self._commands: queue.SimpleQueue[tuple[Key, Command] | None] = queue.SimpleQueue()
        self._served: dict[str, _Served] = {}
        self._live: dict[Key, _Live] = {}
        self._of: dict[SimulSession, _Live] = {}
        self._said: list[Said] = []
        self._weights_bytes = self._stream_bytes = 0
        self.figures = Figures()

    # Called by other threads

    def send(self, stream: Key, command: Command) -> None:
        """Have a command carried out; its effects are delivered."""
        self._commands.put((stream, command))

    def stop(self) -> None:
        """End after the pass that is being run; journals are whole."""
        self._commands.put(None)
        self._thread.join()

    def describe(self, model: str) -> StreamingConfig:
        """What a model that is served was trained for."""
        return self._served[model].trained

    # Called by its own thread

    def _load(self) -> None:
        for name, load in self._loaders.items():
            self._served[name] = _Served(*load())
        self._measure()

    def _work(self) -> None:
        has_run = False
        while self._carry_out(wait=not has_run):
            has_run = any([self._step(served.sessions) for served in self._served.values()])
            self._hand_over()
        for live in self._live.values():
            live.session.break_off()

    def _measure(self) -> None:
        """Warm every model up, and see what a stream of it takes at most."""
        self._weights_bytes = mx.get_active_memory()
        for served in self._served.values():
            mx.reset_peak_memory()
            session = served.sessions.add(max_words=4)
            session.push("a " * session.options.turn.max_turn_words)
            session.close()
            for _ in served.sessions.events():
                pass
            # The source of a turn as long as turns get, and its target is about as long.
            taken = 2 * (mx.get_peak_memory() - self._weights_bytes)
            self._stream_bytes = max(self._stream_bytes, taken)
        mx.clear_cache()

    def _carry_out(self, *, wait: bool) -> bool:
        """Do what has been asked for; False once the thread is to end.

        Args:
            wait: there is nothing to run, so wait for a command.
        """
        items = []
        if wait:
            self.busy_since_s = None
            items.append(self._commands.get())
        self.busy_since_s = time.monotonic()
        # What comes meanwhile waits for the next step: a flood must not keep passes from being run.
        items += [self._commands.get() for _ in range(self._commands.qsize())]
        for item in items:
            if item is None:
                return False
            stream, command = item
            try:
                self._do(stream, command)
            except Exception as error:  # it must not end the streams of others
                self._fail(stream, error)
        return True

    def _step(self, sessions: Sessions) -> bool:
        """Run one pass for all sessions of a model that need one; False if none did."""
        began_s = time.perf_counter()
        try:
            said = sessions.step()
        except SessionFailedError as error:
            live = self._of.get(error.session)  # pyright: ignore[reportArgumentType]
            if live is not None:
                self._fail(live.key, error.__cause__ or error)
            return True
        except Exception:
            # Of the whole pass: its sessions are broken, and the next steps say so one by one.
            log.exception("a pass failed")
            return True
        finally:
            self._count(sessions.n_rows, began_s)
        if said is None:
            return False
        for session, event in said:
            self._say(session, event)
        return True

    def _count(self, n_rows: int, began_s: float) -> None:
        if n_rows:
            self.figures.steps += 1
            self.figures.rows += n_rows
            self.figures.step_s += time.perf_counter() - began_s
            self.figures.memory_bytes = mx.get_active_memory()

    def _say(self, session: SimulSession, event: Event) -> None:
        live = self._of.get(session)
        if live is None:
            return
        self._said.append((live.key, event))
        if isinstance(event, TurnEnd):
            live.words_done = event.source_span_words[1]
            self._answer_turn_ends(live)
        elif isinstance(event, Finished):
            self._forget(live.key)

    def _hand_over(self) -> None:
        if self._said:
            said, self._said = self._said, []
            self._deliver(said)

    def _do(self, stream: Key, command: Command) -> None:
        if isinstance(command, Open):
            self._open(stream, command)
            return
        live = self._live.get(stream)
        if isinstance(command, Drop):
            if live is not None:
                self._drop(live)
            for path in command.files:
                path.unlink(missing_ok=True)
            return
        if live is None:  # it has ended, or failed
            return
        match command:
            case Push(text=text):
                live.session.push(text)
            case EndTurn(number=number):
                live.session.end_turn()
                live.turn_ends.append((live.session.source_words_taken, number))
                self._answer_turn_ends(live)
            case Change():
                self._change(live, command)
            case Close():
                live.session.close()
        self._said.append((stream, Taken(live.session.source_words_taken)))

    def _open(self, stream: Key, command: Open) -> None:
        served = self._served[command.model]
        limit = self._memory_limit_bytes
        # Rows of a batch may double, and the old ones are there while the new ones are filled.
        held = max(0, mx.get_active_memory() - self._weights_bytes)
        may_take = self._weights_bytes + 3 * held + self._stream_bytes
        if limit is not None and may_take > limit:
            message = (
                f"another session might take {may_take // 2**20} MB of memory, more than the "
                f"{limit // 2**20} MB that this server may use; try again when others have ended."
            )
            self._said.append((stream, Failed(message, "server_full")))
            return
        if command.journal is not None and command.journal.exists():
            forget_turns(command.journal, command.n_turns)
        session = served.sessions.add(journal=command.journal, **command.options)
        resumed = session.resumed or Resumed()
        ends = deque((words, number) for number, words in enumerate(resumed.turn_ends, 1))
        live = _Live(stream, command.model, session, ends, resumed.source_words_done)
        self._live[stream] = self._of[session] = live
        session_values = {**described(session, served.trained), "model": command.model}
        self._said.append(
            (
                stream,
                Opened(
                    session_values,
                    resumed.source_chars,
                    len(resumed.turn_ends),
                    resumed.source_closed,
                    session.source_words_taken,
                    resumed.source_words_done,
                ),
            )
        )
        self._answer_turn_ends(live)

    def _change(self, live: _Live, command: Change) -> None:
        try:
            live.session.update(**command.options)
        except SimulError as error:
            named = [name for name in command.options if name in str(error)]
            names = named or list(command.options)
            param = f"session.{names[0]}" if len(names) == 1 else "session"
            self._said.append((live.key, Refused(str(error), param, command.event_id)))
            return
        values = described(live.session, self._served[live.model].trained)
        self._said.append((live.key, Changed({**values, "model": live.model}, command.event_id)))

    def _answer_turn_ends(self, live: _Live) -> None:
        while live.turn_ends and live.turn_ends[0][0] <= live.words_done:
            self._said.append((live.key, TurnEnded(live.turn_ends.popleft()[1])))

    def _fail(self, stream: Key, error: BaseException) -> None:
        code = "internal_error"
        if isinstance(error, InvalidOptionError | PromptError):
            code = "invalid_option"
        elif isinstance(error, JournalError):
            code = "journal_failed"
        message = str(error) if isinstance(error, SimulError) else "this session broke off."
        if code == "journal_failed":  # its own message has the server's folders in it
            message = "the records of this session cannot be read or written; begin a new one."
        if code in ("internal_error", "journal_failed"):
            log.error("a session broke off", exc_info=error, extra=fields(session=str(stream)))
        live = self._live.get(stream)
        if live is not None:
            self._drop(live)
        self._said.append((stream, Failed(message, code)))

    def _drop(self, live: _Live) -> None:
        self._forget(live.key)
        for served in self._served.values():
            if live.session in served.sessions:
                served.sessions.remove(live.session)
        live.session.break_off()

    def _forget(self, stream: Key) -> None:
        live = self._live.pop(stream)
        del self._of[live.session]
