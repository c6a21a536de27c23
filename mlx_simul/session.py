"""SimulSession: text in as it arrives, events out. It does no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date as Date
from os import PathLike
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from typing_extensions import Unpack

from mlx_simul.archs.prepare import adopt
from mlx_simul.engine import Engine, make_engine
from mlx_simul.engine.prefix import EncodedPrefix, PrefixPool
from mlx_simul.errors import InvalidOptionError, PromptError, SessionClosedError
from mlx_simul.events import Event, Finished, ToolCall, TurnEnd
from mlx_simul.loop.requests import Pass, Reply
from mlx_simul.options import OptionKeywords, SessionOptions
from mlx_simul.policies import ProposedWord
from mlx_simul.stream.chain import TurnChain, shared_prefix_ids
from mlx_simul.stream.feed import Feed
from mlx_simul.stream.identity import changed_options, changes_since, identity_of
from mlx_simul.stream.journal import Journal, fingerprint, read_turns
from mlx_simul.stream.live_turn import Clock
from mlx_simul.stream.saved import SavedSession, identity_of_saved, write_saved
from mlx_simul.stream.stepping import Stepping
from mlx_simul.stream.turn import Setting, TurnMaker, make_setting
from mlx_simul.stream.turns import OneTurn, Turns
from mlx_simul.text.prompts import TokenizedSource
from mlx_simul.text.segmenter import require_text
from mlx_simul.text.tools import result_text

CHANGEABLE = frozenset(
    {
        "policy", "instruction", "source_language", "target_language", "context", "glossary",
        "examples", "pairs", "messages", "history",
    }
)  # fmt: skip
"""Options that may change while a stream with turns is live (SPEC section 8)."""


class SimulSession:
    """One live stream: feed source text in any pieces, get events back (SPEC sections 7 and 8).

    The same text in any pieces gives the same events, apart from their times. A session belongs to
    the thread that made it, as MLX's streams do; ``docs/batches.md`` says how such a thread ends.

    A stream with turns translates sentence by sentence, each in a fresh turn over one encoded
    prefix, and nothing that it holds grows: it may last for hours.

    Args:
        model: from :func:`mlx_simul.load`.
        tokenizer: likewise.
        options: all options, whole.
        source: a source whose tokens are known; then there is nothing to feed and the prompt
            options do not apply.
        prefix: from :meth:`encode_prefix` of a session with the same beginning, so that this one
            need not encode it.
        pool: prefixes that other sessions have encoded, used by a session with turns.
        journal: a file that records text as it arrives, and turns as they end. A session opened
            on a file that already has some resumes the turn that was under way (:attr:`resumed`):
            feed the text from where the file ends, and what it writes equals what an undisturbed
            session would have written, unless tokens are sampled without a ``seed``.
        make_engine: builds the engine that runs the passes, from the options that concern it.
        **flat: options by their names (:class:`~mlx_simul.SessionOptions`), in place of those in
            ``options``: ``SimulSession(model, tokenizer, target_language="French")``.

    Raises:
        InvalidOptionError: for an option outside its range.
        PromptError: if the tokenizer's template cannot carry the source.
        UnknownArchitectureError: if the model's type is not registered.
        JournalError: if the journal is damaged, belongs to another stream, or cannot be written.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        options: SessionOptions | None = None,
        *,
        source: TokenizedSource | None = None,
        prefix: EncodedPrefix | None = None,
        pool: PrefixPool | None = None,
        journal: str | PathLike[str] | None = None,
        make_engine: Callable[..., Engine] = make_engine,
        **flat: Unpack[OptionKeywords],
    ) -> None:
        self._clock = Clock()
        self._model, self._tokenizer = adopt(model, tokenizer), tokenizer
        self._options = self._first_options = SessionOptions.of(options, **flat)
        self._source = source
        date = None if prefix is None else prefix.date
        setting = make_setting(self._model, tokenizer, self._options, source, date)
        maker = TurnMaker(self._model, tokenizer, setting, make_engine, self._clock)
        self._engine = maker.engine
        self._date = date if setting.prompt is None else setting.prompt.date
        begins = self._own_prefix(setting)
        if prefix is not None:
            prefix.require(begins.token_ids, begins.model, begins.setting)
            begins = prefix
        has_turns = setting.has_turns
        self._languages = setting.source_language or "Source", setting.target_language or "Target"
        self._feed = Feed(setting)
        self._turns: Turns
        if has_turns:
            self._turns = TurnChain(maker, begins, pool)
        else:
            self._turns = OneTurn(maker, begins, source, tokenizer)
        self._stepping = Stepping(self._turns)
        self._feed.is_closed = source is not None
        self._is_broken = False
        self._journal: Journal | None = None
        self._resumed: Resumed | None = None
        if journal is not None:
            self._chain("journal=")
            identity = {"model": fingerprint(self._model), "options": identity_of(self._options)}
            opened = Journal(journal, identity, self._date or Date.today())
            try:
                self._resumed = self._resume(opened)
            except BaseException:
                opened.close()
                raise
            self._journal = opened

    @property
    def finished(self) -> bool:
        """The last event has been given; text fed from now on changes nothing."""
        return self._stepping.is_finished

    @property
    def options(self) -> SessionOptions:
        """All options, including those that changed while the stream was live."""
        return self._options

    @property
    def has_turns(self) -> bool:
        """Whether the stream is a chain of turns, a sentence each."""
        return isinstance(self._turns, TurnChain)

    @property
    def resumed(self) -> Resumed | None:
        """What the journal held when this session began; None without a journal."""
        return self._resumed

    @property
    def source_words_taken(self) -> int:
        """Source words that have arrived whole, from the beginning of the stream, read or not.

        Right after :meth:`end_turn` these are all; before that, the last word may be half, and a
        mark may wait for what comes after it.
        """
        return self._feed.n_words

    @property
    def languages(self) -> tuple[str, str]:
        """Source and target language by name, or "Source" and "Target" where none is known."""
        return self._languages

    # Text in, events out

    def feed(self, text: str) -> list[Event]:
        """Take a piece of the source and run as far as it allows.

        Args:
            text: any piece: words, half words, nothing.

        Returns:
            What was read and written because of it.

        Raises:
            SessionClosedError: after :meth:`finish`.
        """
        self.push(text)
        return list(self.events())

    def finish(self) -> list[Event]:
        """Say that the source has ended and run to the end; the last event is Finished."""
        self.close()
        return list(self.events())

    def push(self, text: str) -> None:
        """Take a piece of the source without running: :meth:`events` does that.

        Raises:
            SessionClosedError: after :meth:`close`.
        """
        require_text(text)
        if self._feed.is_closed:
            raise SessionClosedError("this session's source has ended; begin a new SimulSession.")
        self._require_whole()
        if self.finished:
            return
        if self._journal is not None:
            self._journal.add_text(text)
        self._push(text)

    def end_turn(self) -> None:
        """Say that a turn ends here, without running: after a pause in speech, or on a key.

        A half-arrived word counts as whole. If no turn has begun, nothing happens.

        Raises:
            InvalidOptionError: if the stream has no turns.
            SessionClosedError: after :meth:`close`.
        """
        self._chain("end_turn()")
        if self._feed.is_closed:
            raise SessionClosedError("this session's source has ended, and its last turn with it.")
        self._require_whole()
        if self.finished:
            return
        if self._journal is not None:
            self._journal.add_mark("end_turn")
        self._end_turn()

    def tool_result(self, call: ToolCall, result: Any) -> None:
        """Give the target the result of a tool that it has called, without running.

        The target goes on with it as soon as no word is under way, and the policy still says when.
        A call needs no result.

        Args:
            call: the event that told of it.
            result: text, or what becomes JSON.

        Raises:
            SessionClosedError: once the stream has ended.
            InvalidOptionError: if the result cannot become JSON, or if there is no such call or it
                has its result.
            PromptError: if the session has no tools, or the chat template cannot show a result.
        """
        self._require_whole()
        if self.finished:
            raise SessionClosedError(
                f"this stream has ended, so the result of {call.name!r} came too late; give it "
                "while the call's event is handled, or before finish()."
            )
        if not isinstance(self._turns, OneTurn):
            raise PromptError("a stream with turns has no tools, so no call can have a result.")
        self._turns.insert(call, result_text(result))
        self._stepping.wake()

    def close(self) -> None:
        """Say that the source has ended, without running; idempotent."""
        if self._feed.is_closed:
            return
        self._require_whole()
        if self.finished:
            self._feed.is_closed = True
            return
        if self._journal is not None:
            self._journal.add_mark("close")
        self._close()

    def events(self) -> Iterator[Event]:
        """Run as far as the source allows, giving each event as it happens."""
        while (step := self.advance()) is not None:
            if isinstance(step, Pass):
                with self._breaking_off():
                    reply = self._engine.run(step)
                self.answer(reply)
            else:
                yield step

    # While the stream is live

    def update(self, **flat: Unpack[OptionKeywords]) -> None:
        """Change options while the stream is live; they hold from the next turn on (SPEC 8).

        Args:
            **flat: policy, instruction, languages, context, glossary, examples, pairs, messages or
                history, as at the beginning.

        Raises:
            InvalidOptionError: for another option, a value outside its range or that the model
                cannot follow, a policy without a name if there is a journal, or a stream without
                turns. The options stay as they were.
            PromptError: as at the beginning.
        """
        chain = self._chain("update()")
        if fixed := flat.keys() - CHANGEABLE:
            raise InvalidOptionError(
                f"{min(fixed)} is fixed for a session; while it is live these may change: "
                f"{', '.join(sorted(CHANGEABLE))}."
            )
        options = SessionOptions.of(self._options, **flat)
        setting = self._setting(options)
        chain.check(setting)
        if self._journal is not None and not self.finished:
            self._journal.add_update(changed_options(options, flat), chain.next_turn)
        chain.change(setting)
        self._feed.change(setting)
        self._options = options

    def observe(self, observer: Callable[[ProposedWord], None]) -> None:
        """Call a function with each word as it is written, and the evidence for it.

        Args:
            observer: called with each word and as much of its evidence as the policy needs.

        Raises:
            InvalidOptionError: if this session's policy judges nothing.
            SessionClosedError: in a stream without turns, once the target has begun; what is
                predicted already has no evidence. With turns it holds from the next turn on.
        """
        if not self.has_turns and (self._stepping.asked or self._engine.target_tokens):
            raise SessionClosedError(
                "what this session has already predicted cannot be observed; call observe() on a "
                "new session, before feeding it."
            )
        self._turns.observe(observer)

    def encode_prefix(self) -> EncodedPrefix:
        """Encode what stands before the source, for other sessions that begin alike.

        Raises:
            SessionClosedError: once source has arrived.
        """
        if self._feed.is_closed or self._feed.has_words:
            raise SessionClosedError(
                "this session has already been fed; call encode_prefix() on a new one, before "
                "feeding it."
            )
        for _ in self.events():
            pass
        return self._turns.encoded_prefix()

    # In a file

    def save(self, path: str | PathLike[str]) -> None:
        """Write all that this session holds to one file, to go on from there in any process.

        It may be called at any moment between two steps: between the events of :meth:`events`,
        while a pass waits to be answered, in the middle of a word or of a turn. The session goes
        on as if nothing had been saved. The file is in safetensors, and it is replaced whole: after
        a kill it is the old one or the new one.

        What only Python can express is not in the file and has to be given again to
        :meth:`restore`. An observer has to be given again to :meth:`observe`.

        Args:
            path: of the file.

        Raises:
            SavedSessionError: if the file cannot be written.
            InvalidOptionError: if the session has a journal, from which it can go on as well; if
                its policy has changed to one without a name; or if a step is under way.
            SessionClosedError: if it was cut short by an error.
        """
        self._require_whole()
        if self._journal is not None:
            raise InvalidOptionError(
                f"save() is for sessions without a journal, and this one has {self._journal.path}: "
                "open a session on that to go on."
            )
        if self._stepping.is_running:
            raise InvalidOptionError(
                "save() was called by a policy or an observer, while the session runs; call it "
                "between two events."
            )
        random_state: Any = mx.random.state
        state = {
            "options": changes_since(self._first_options, self._options),
            "feed": self._feed.state,
            "turns": self._turns.saved(self._first_options),
            **self._stepping.saved,
            "time_ms": self._clock(),
            # A session that has finished in a batch has no engine any more.
            "engine": None if self.finished else self._engine.exact_state,
            "random_key": [*random_state] if self._uses_random_state else None,
        }
        date = None if self._date is None else self._date.isoformat()
        identity = identity_of_saved(self._model, self._first_options, self._source)
        write_saved(path, identity, date, state, self._engine)

    @classmethod
    def restore(
        cls,
        model: nn.Module,
        tokenizer: Any,
        path: str | PathLike[str],
        options: SessionOptions | None = None,
        *,
        source: TokenizedSource | None = None,
        make_engine: Callable[..., Engine] = make_engine,
        **flat: Unpack[OptionKeywords],
    ) -> SimulSession:
        """The session that :meth:`save` wrote to a file, at the point where it was.

        The model does not run for it; a draft model reads the turn under way again. From there on
        the session gives the events that the other would have given; those that were given before
        do not come again. If tokens are sampled without a ``seed``, MLX's random state is set to
        what it was; the state of a sampler or a logits processor of your own is not saved.

        Args:
            model: the same.
            tokenizer: the same.
            path: of the file.
            options: those with which the other session began. What :meth:`update` changed is in the
                file; functions (``split``, ``splitter``, ``sampler``, ``logits_processors``) and a
                policy without a name have to be given again.
            source: the same, if there was one.
            make_engine: as for a new session.
            **flat: as for a new session.

        Raises:
            SavedSessionError: if the file cannot be read, is damaged or too large, or was saved
                from another model or with other options.
        """
        model = adopt(model, tokenizer)
        first = SessionOptions.of(options, **flat)
        saved = SavedSession(path)
        saved.require(identity_of_saved(model, first, source))
        # A stream keeps the day on which it began.
        dated = first if saved.date is None else SessionOptions.of(first, date=saved.date)
        session = cls(model, tokenizer, dated, source=source, make_engine=make_engine)
        session._first_options = first
        with saved.explained():
            session._take(saved.state(session._engine))
        return session

    # For callers that run the passes of many sessions together

    def advance(self) -> Event | Pass | None:
        """Go on to the next event, or to the next pass that has to be run.

        Returns:
            The event or pass; a pass comes again until it is answered. None if there is nothing to
            do before more source arrives, or at all.
        """
        if self.finished:
            return None
        with self._breaking_off():
            step = self._stepping.next()
        if step is None or isinstance(step, Pass):
            return step
        # Said only once it is noted; if that fails, it is said the next time.
        if self._journal is not None:
            if isinstance(step, TurnEnd):
                self._journal.add_turn(step, self._chain("journal=").target_speech)
            elif isinstance(step, Finished):
                self._journal.close()
        self._stepping.said()
        return step

    def answer(self, reply: Reply | Pass) -> None:
        """Hand in the reply to a pass, or the part of the pass that is still to be run."""
        self._stepping.answer(reply)

    def break_off(self) -> None:
        """Mark the session as broken: what would run it raises SessionClosedError from now on.

        It lets go of its journal, on which another session may continue the stream.
        """
        self._is_broken = True
        if self._journal is not None:
            self._journal.close()

    def _require_whole(self) -> None:
        if self._is_broken:
            raise SessionClosedError(
                "this session was cut short, by an error or by leaving its batch, and cannot go "
                "on; begin a new SimulSession."
            )

    @contextmanager
    def _breaking_off(self) -> Iterator[None]:
        """After an error the loop and the cache may disagree, so nothing more is done with them."""
        self._require_whole()
        try:
            yield
        except BaseException:
            self.break_off()
            raise

    def _push(self, text: str) -> None:
        with self._breaking_off():
            items = self._feed.push(text)
            self._turns.add(items)
        if items:  # half a word is no news, and a loop that is asked again notes it
            self._stepping.wake()

    def _end_turn(self) -> None:
        self._stepping.wake()
        with self._breaking_off():
            self._turns.add(self._feed.end_turn())

    def _close(self) -> None:
        self._stepping.wake()
        with self._breaking_off():
            self._turns.add(self._feed.close())
            self._turns.close()

    def _resume(self, journal: Journal) -> Resumed:
        """Feed what a journal holds, and skip the turns that it holds too."""
        chain, n_turns, n_chars, time_ms = self._chain("journal="), 0, 0, 0.0
        n_words_done = 0
        turn_ends: list[int] = []
        if journal.date != self._date:
            # A stream keeps the day on which it began.
            self._date = journal.date
            chain.change(self._setting(self._options), 0)
        for end in read_turns(journal.path):
            time_ms, n_words_done = end.time_ms, end.source_span_words[1]
        self._feed.skip(n_words_done)
        # Times go on too, so that subtitles stay in order. The time between two lives is left out.
        self._clock.go_on_from(time_ms)
        for entry in journal.entries():
            if entry.turn is not None:
                chain.resume(entry.turn, entry.target_speech)
                n_turns = entry.turn.turn + 1
            elif entry.update:
                options = SessionOptions.of(self._options, **entry.update)
                setting = self._setting(options)
                chain.change(setting, entry.from_turn)
                self._feed.change(setting)
                self._options = options
            elif entry.mark == "end_turn":
                self._end_turn()
                turn_ends.append(self.source_words_taken)
            elif entry.mark == "close":
                self._close()
            else:
                n_chars += len(entry.text)
                self._push(entry.text)
        return Resumed(n_turns, n_chars, tuple(turn_ends), self._feed.is_closed, n_words_done)

    def _take(self, saved: Mapping[str, Any]) -> None:
        """Be where a session was that saved this."""

        def setting_of(changed: Mapping[str, Any]) -> Setting:
            return self._setting(SessionOptions.of(self._first_options, **changed))

        self._options = SessionOptions.of(self._first_options, **saved["options"])
        self._feed.state = saved["feed"]
        self._turns.restore(saved["turns"], setting_of)
        self._stepping.restore(saved)
        # Last, for all that is above begins with what stands before the source.
        if saved["engine"] is not None:
            self._engine.exact_state = saved["engine"]
        if saved["random_key"] is not None:
            [(high, low)] = (key.tolist() for key in saved["random_key"])
            mx.random.seed(high << 32 | low)
        self._clock.go_on_from(saved["time_ms"])

    @property
    def _uses_random_state(self) -> bool:
        decoding = self._options.decoding
        return decoding.seed is None and bool(decoding.temp or decoding.sampler)

    def _setting(self, options: SessionOptions) -> Setting:
        return make_setting(self._model, self._tokenizer, options, date=self._date)

    def _chain(self, what: str) -> TurnChain:
        """The turns, for what only a stream with turns has."""
        if not isinstance(self._turns, TurnChain):
            raise InvalidOptionError(
                f"{what} is for a stream with turns, and this one reads its source as one turn; "
                'give turns="sentence".'
            )
        return self._turns

    def _own_prefix(self, setting: Setting) -> EncodedPrefix:
        """What stands before the source, not encoded yet."""
        placement = setting.options.placement
        bits = placement.kv_bits
        kind = type(self._engine).__name__, bits, bits and placement.kv_group_size
        if setting.has_turns:
            ids = shared_prefix_ids(setting)
        elif setting.prompt is None:
            ids = setting.prefix_ids
        else:
            ids = setting.prompt_behind(()).prefix_ids
        return EncodedPrefix(tuple(ids), self._model, kind, None, self._date)


@dataclass(frozen=True)
class Resumed:
    """What a journal held.

    Attributes:
        turns: how many had ended (:func:`mlx_simul.stream.journal.read_turns` gives them).
        source_chars: characters of source that had arrived; feed what comes after them.
        turn_ends: for each :meth:`SimulSession.end_turn`, the source words that had arrived.
        source_closed: the source had ended.
        source_words_done: in the turns that had ended.
    """

    turns: int = 0
    source_chars: int = 0
    turn_ends: tuple[int, ...] = ()
    source_closed: bool = False
    source_words_done: int = 0
