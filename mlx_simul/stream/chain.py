"""The turns of a stream in order (SPEC section 8)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import takewhile
from typing import Any

from mlx_simul.engine.prefix import EncodedPrefix, PrefixPool
from mlx_simul.events import Event, Finished, FinishReason, Read, TurnEnd, TurnReason, Write
from mlx_simul.loop.loop import NEED_SOURCE, Steps, require_evidence
from mlx_simul.loop.requests import Pass
from mlx_simul.options import SessionOptions
from mlx_simul.stream.identity import changes_since
from mlx_simul.stream.live_turn import LiveTurn, Observer
from mlx_simul.stream.saved import plain_vars
from mlx_simul.stream.turn import Setting, TurnMaker
from mlx_simul.stream.turns import SettingOf, require_prefix
from mlx_simul.text.joining import Joiner
from mlx_simul.text.turn_splitter import TurnBreak

_COUNTS = (
    *("_n_turns", "_n_source_words", "_n_target_words", "_n_passes", "target_speech"),
    *("_closed", "_reason", "_began_ms", "_is_stuck"),
)


class TurnChain:
    """One-turn streams over one encoded prefix; nothing here grows with the stream.

    Args:
        maker: begins each turn.
        prefix: what stands before each source, encoded or not.
        pool: where prefixes are shared with other streams.

    Attributes:
        target_speech: words of speech written in the turns that have ended.
    """

    def __init__(
        self, maker: TurnMaker, prefix: EncodedPrefix, pool: PrefixPool | None = None
    ) -> None:
        self._prefix, self._pool = prefix, PrefixPool() if pool is None else pool
        self._maker, self._engine = maker, maker.engine
        self._blank = self._engine.state
        # From which turn on which setting holds.
        self._changes: deque[tuple[int, Setting]] = deque()
        self._observer: Observer | None = None
        history = maker.setting.options.turn.history
        self._finished_pairs: deque[tuple[str, str]] = deque(maxlen=history)

        # Items that no turn has taken; then the turn under way, and when it read its first word.
        self._waiting: deque[str | TurnBreak] = deque()
        self._closed = False
        self._turn: LiveTurn | None = None
        self._began_ms: float | None = None

        self._joiner = Joiner()
        self._n_turns = self._n_source_words = self._n_target_words = self._n_passes = 0
        # A limit cut the last turn before it read a word, and so it would the next one.
        self._is_stuck = False
        self.target_speech = Fraction(0)
        self._reason: FinishReason = "end_of_turn"

    def encoded_prefix(self) -> EncodedPrefix:
        """What every turn begins with."""
        return self._prefix

    def add(self, items: Iterable[str | TurnBreak]) -> None:
        """Take words and breaks; those of the turn under way go to its loop."""
        self._waiting.extend(items)
        self._hand_over()

    def close(self) -> None:
        """Say that no more words will come."""
        self._closed = True

    def observe(self, observer: Observer) -> None:
        """Tell a function of each word as it is written, from the next turn on."""
        settings = [setting for _, setting in self._changes] or [self._maker.setting]
        require_evidence(settings[-1].policy)
        self._observer = observer

    @property
    def next_turn(self) -> int:
        """The number of the first turn that has not begun."""
        return self._n_turns + (self._turn is not None)

    def check(self, setting: Setting) -> None:
        """Check that turns can begin under a setting, so that none breaks off later.

        Raises:
            InvalidOptionError: if its policy needs what the model cannot show, or is observed and
                has no evidence.
            PromptError: if the template cannot carry earlier turns.
        """
        self._maker.meet(setting)
        shared_prefix_ids(setting)
        if self._observer is not None:
            require_evidence(setting.policy)

    def change(self, setting: Setting, from_turn: int | None = None) -> None:
        """Begin turns under another setting.

        Args:
            setting: to begin them under.
            from_turn: the first of them; the next one by default.
        """
        first = self.next_turn if from_turn is None else from_turn
        if self._changes and self._changes[-1][0] == first:
            self._changes.pop()  # no turn will begin under it; kept, they would grow without bound
        self._changes.append((first, setting))

    def resume(self, end: TurnEnd, target_speech: Fraction) -> None:
        """Continue after a turn that ended before this stream was resumed.

        Args:
            end: of the turn.
            target_speech: all that was written up to it.
        """
        self._change_before(end.turn)
        self._n_turns = end.turn + 1
        self._n_source_words = end.source_span_words[1]
        self._n_target_words = end.target_span_words[1]
        self.target_speech = target_speech
        self._joiner.add(end.target_text)
        self._note(end)

    def steps(self) -> Steps:
        """Run turn after turn to the end of the stream."""
        if self._turn is not None:
            yield from self._run(self._turn)
        yield from self._encode_prefix()
        while self._reason != "max_words" and not self._is_stuck:
            self._drop_empty_turns()
            if self._waiting and self._words_left() == 0:
                self._reason = "max_words"  # and not before: the source may have ended
            elif self._waiting:
                self._change_before(self._n_turns)
                yield from self._encode_prefix()
                self._turn = self._begin()
                self._hand_over()
                yield from self._run(self._turn)
            elif self._closed:
                break
            else:
                yield NEED_SOURCE
        yield self._finished()

    def saved(self, first: SessionOptions) -> dict[str, Any]:
        """All there is to save but for the engine, between two steps.

        Args:
            first: the options with which the stream began.
        """
        return {
            "changed": changes_since(first, self._maker.setting.options),
            "changes": [
                (turn, changes_since(first, setting.options)) for turn, setting in self._changes
            ],
            "prefix_ids": self._prefix.token_ids,
            "prefix": self._prefix.state,
            "finished_pairs": [*self._finished_pairs],
            "joiner": plain_vars(self._joiner),
            "record": None if self._turn is None else self._turn.record,
            "waiting": [*self._waiting],
            **{name: getattr(self, name) for name in _COUNTS},
        }

    def restore(self, saved: Mapping[str, Any], setting_of: SettingOf) -> None:
        """Go on from what was saved, before any step; the engine is restored later."""
        if saved["changed"]:
            self._maker.adopt(setting_of(saved["changed"]))
        setting = self._maker.setting
        self._changes.extend((turn, setting_of(changed)) for turn, changed in saved["changes"])
        require_prefix(saved["prefix_ids"], shared_prefix_ids(setting))
        self._prefix = replace(self._prefix, token_ids=saved["prefix_ids"], state=saved["prefix"])
        self._finished_pairs = deque(saved["finished_pairs"], setting.options.turn.history)
        vars(self._joiner).update(saved["joiner"])
        for name in _COUNTS:
            setattr(self, name, saved[name])
        if saved["record"] is not None:
            self._turn = self._begin()
            self._turn.play_again(saved["record"])
        self._waiting.extend(saved["waiting"])

    # One turn

    def _run(self, turn: LiveTurn) -> Steps:
        steps, reply = turn.steps(), None
        while True:
            step = steps.send(reply)
            if isinstance(step, Finished):
                break
            if isinstance(step, Pass) or step == NEED_SOURCE:
                reply = yield step
                continue
            if self._began_ms is None:
                self._began_ms = step.time_ms
            reply = None
            yield self._counted(step)
        yield self._end_turn(turn, step)

    def _begin(self) -> LiveTurn:
        """The next turn, without words."""
        setting = self._maker.setting
        prompt = setting.prompt_behind(tuple(self._finished_pairs))
        prefix_ids, shared = prompt.prefix_ids, self._prefix
        n_encoded = len(shared.token_ids)
        is_shared = prefix_ids[:n_encoded] == shared.token_ids
        self._engine.state = shared.state if is_shared else self._blank
        loop = self._maker.begin(self._words_left(), self._n_turns)
        if self._observer is not None:
            loop.observe(self._observer)
        loop.add_segment(prefix_ids, n_encoded=n_encoded if is_shared else 0)
        return LiveTurn(loop, prompt, self._maker.clock)

    def _words_left(self) -> int | None:
        """How many words may still be written, rounded up; None if there is no limit."""
        most = self._maker.setting.options.limits.max_words
        return None if most is None else max(0, math.ceil(most - self.target_speech))

    def _hand_over(self) -> None:
        """Give the turn under way the words that are its own, and its end."""
        while self._waiting and self._turn is not None and self._turn.ending is None:
            self._turn.add(self._waiting.popleft())

    def _counted(self, event: Event) -> Event:
        """An event of the turn, counted from the beginning of the stream."""
        if isinstance(event, Read):
            n_read = self._n_source_words + event.source_words_read
            return replace(event, source_words_read=n_read)
        if isinstance(event, Write):
            return replace(
                event,
                text=self._joiner.add(event.text),
                source_words_read=self._n_source_words + event.source_words_read,
                target_words_generated=self._n_target_words + event.target_words_generated,
            )
        return event

    def _end_turn(self, turn: LiveTurn, finished: Finished) -> TurnEnd:
        words, unread = turn.words[: finished.source_words], turn.words[finished.source_words :]
        ended_by: TurnReason = "limit"
        ends = [] if turn.ending is None else [turn.ending]
        if finished.source_finished and turn.ending is not None:
            ended_by, ends = turn.ending.reason, []
        # What a limit left unread is the next turn's, so nothing is lost. Whether the source's end
        # had come when the limit cut is a matter of chunks, so that is left unread too.
        self._waiting.extendleft(reversed([*unread, *ends]))
        first_source, first_target = self._n_source_words, self._n_target_words
        self._n_source_words += len(words)
        self._n_target_words += finished.target_words
        self._n_passes += finished.n_passes
        self.target_speech += turn.target_speech
        self._turn, self._is_stuck = None, not words
        end = TurnEnd(
            turn=self._n_turns,
            source_text="".join(words).strip(),
            target_text=finished.target_text.strip(),
            source_span_words=(first_source, self._n_source_words),
            target_span_words=(first_target, self._n_target_words),
            token_ids=finished.token_ids,
            delays=tuple(first_source + delay for delay in finished.delays),
            ended_by=ended_by,
            reason=finished.reason,
            began_ms=self._began_ms or 0.0,
            stop=finished.stop,
            word_times_ms=finished.word_times_ms,
            time_ms=finished.total_ms,
        )
        self._n_turns += 1
        self._began_ms = None
        self._note(end)
        return end

    def _note(self, end: TurnEnd) -> None:
        """Keep what later turns need of a turn that has ended."""
        if end.target_text:
            self._finished_pairs.append((end.source_text, end.target_text))
        self._joiner.end_turn(paragraph=end.ended_by == "blank_line")
        if (self._reason == "end_of_turn" and not end.is_complete) or end.reason == "max_words":
            self._reason = end.reason

    def _drop_empty_turns(self) -> None:
        """Drop the end of a turn whose words a limit has used up."""
        while self._waiting and isinstance(item := self._waiting[0], TurnBreak):
            self._waiting.popleft()
            self._joiner.end_turn(paragraph=item.reason == "blank_line")

    def _finished(self) -> Finished:
        return Finished(
            reason=self._reason if self._n_turns else "empty_source",
            token_ids=(),
            target_text="",
            delays=(),
            source_words=self._n_source_words,
            target_words=self._n_target_words,
            turns=self._n_turns,
            total_ms=self._maker.clock(),
            n_passes=self._n_passes,
            source_finished=self._closed and not self._waiting,
        )

    # The prefix

    def _change_before(self, turn: int) -> None:
        """Adopt the settings that hold for a turn that is about to begin, or has ended long ago."""
        while self._changes and self._changes[0][0] <= turn:
            _, setting = self._changes.popleft()
            self._maker.adopt(setting)
            pairs = self._finished_pairs
            self._finished_pairs = deque(pairs, maxlen=setting.options.turn.history)
            token_ids = shared_prefix_ids(setting)
            if token_ids != self._prefix.token_ids:
                self._prefix = replace(self._prefix, token_ids=token_ids, state=None)

    def _encode_prefix(self) -> Steps:
        if self._prefix.state is None:
            self._prefix = self._pool.find(self._prefix)
        if self._prefix.state is not None:
            return
        self._engine.state = self._blank
        if self._prefix.token_ids:
            reply = yield Pass(self._prefix.token_ids)
            self._n_passes += 0 if reply is None else reply.n_passes
        self._prefix = replace(self._prefix, state=self._engine.state)
        self._pool.keep(self._prefix)


def shared_prefix_ids(setting: Setting) -> tuple[int, ...]:
    """What stands before the source of every turn alike."""
    own = setting.prompt_behind(()).prefix_ids
    if setting.prompt is None or not setting.options.turn.history:
        return own
    # Any pair will do: the tokens up to its own are the same before every pair.
    other = setting.prompt.behind([("a", "a")]).prefix_ids
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(own, other, strict=False))
    return tuple(token for token, _ in alike)
