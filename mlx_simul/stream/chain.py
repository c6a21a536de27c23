"""The turns of a stream in order, or the single turn of one without turns (SPEC section 8)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from itertools import takewhile
from typing import Any, Protocol

from mlx_simul.engine.prefix import EncodedPrefix, PrefixPool
from mlx_simul.events import Event, Finished, FinishReason, Read, TurnEnd, TurnReason, Write
from mlx_simul.loop.loop import NEED_SOURCE, SimulLoop, Steps, require_evidence
from mlx_simul.loop.requests import Pass
from mlx_simul.policies import ProposedWord
from mlx_simul.stream.turn import Setting, TurnMaker
from mlx_simul.text.joining import Joiner
from mlx_simul.text.prompts import TokenizedSource
from mlx_simul.text.turn_splitter import TurnBreak

Observer = Callable[[ProposedWord], None]


class Turns(Protocol):
    """What a session drives: words in, steps out."""

    def encoded_prefix(self) -> EncodedPrefix:
        """What stands before the source, once the steps have come to NEED_SOURCE."""
        ...

    def add(self, items: Iterable[str | TurnBreak]) -> None:
        """Take words, and breaks between turns."""
        ...

    def close(self) -> None:
        """Say that no more words will come."""
        ...

    def steps(self) -> Steps:
        """Run to the end, yielding events and passes; NEED_SOURCE where words are missing."""
        ...

    def observe(self, observer: Observer) -> None:
        """Tell a function of each word as it is written."""
        ...


class OneTurn:
    """A stream without turns: one loop.

    Args:
        maker: begins it.
        prefix: what stands before the source, encoded or not.
        source: a source whose tokens are known; then no words are added.
        tokenizer: of the model.
    """

    def __init__(
        self,
        maker: TurnMaker,
        prefix: EncodedPrefix,
        source: TokenizedSource | None,
        tokenizer: Any,
    ) -> None:
        setting = maker.setting
        self._prefix, self._engine = prefix, maker.engine
        self._prompt = None if setting.prompt is None else setting.prompt_behind(())
        self._loop = maker.begin(setting.options.limits.max_words)
        self._n_words = 0
        n_encoded = 0
        if prefix.state is not None:
            maker.engine.state, n_encoded = prefix.state, len(prefix.token_ids)
        self._loop.add_segment(prefix.token_ids, n_encoded=n_encoded)
        if source is not None:
            for word in source.segments[1:-1]:
                self._loop.add_segment(word, tokenizer.decode(list(word)))
            self._loop.close_source(source.segments[-1])

    def encoded_prefix(self) -> EncodedPrefix:
        """What the engine holds before any source."""
        return replace(self._prefix, state=self._engine.state)

    def add(self, items: Iterable[str | TurnBreak]) -> None:
        """Take words: a stream of one turn has no breaks between turns."""
        if self._prompt is None:
            return
        for word in items:
            if isinstance(word, str):
                self._loop.add_segment(self._prompt.encode_word(word, self._n_words == 0), word)
                self._n_words += 1

    def close(self) -> None:
        """Say that no more words will come."""
        if self._prompt is not None:
            self._loop.close_source(self._prompt.suffix_ids)

    def steps(self) -> Steps:
        """Those of the loop."""
        return self._loop.steps()

    def observe(self, observer: Observer) -> None:
        """Tell a function of each word as it is written."""
        self._loop.observe(observer)


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

        # Items that no turn has taken; then the turn under way: its words, and what ended it.
        self._waiting: deque[str | TurnBreak] = deque()
        self._closed = False
        self._loop: SimulLoop | None = None
        self._words: list[str] = []
        self._break: TurnBreak | None = None

        self._joiner = Joiner()
        self._n_turns = self._n_source_words = self._n_target_words = self._n_passes = 0
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
        return self._n_turns + (self._loop is not None)

    def check(self, setting: Setting) -> None:
        """Pass if turns can begin under a setting, so that none breaks off later.

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
        yield from self._encode_prefix()
        while self._reason != "max_words":
            self._drop_empty_turns()
            if self._waiting and self._words_left() == 0:
                self._reason = "max_words"  # and not before: the source may have ended
            elif self._waiting:
                n_before = self._n_source_words
                yield from self._run_turn()
                if self._n_source_words == n_before:
                    break  # a limit cut it before it read a word, and so it would the next one
            elif self._closed:
                break
            else:
                yield NEED_SOURCE
        yield self._finished()

    # One turn

    def _run_turn(self) -> Steps:
        self._change_before(self._n_turns)
        yield from self._encode_prefix()
        loop = self._begin()
        self._hand_over()
        steps, reply, began_ms = loop.steps(), None, None
        while True:
            step = steps.send(reply)
            if isinstance(step, Finished):
                break
            if isinstance(step, Pass) or step == NEED_SOURCE:
                reply = yield step
                continue
            if began_ms is None:
                began_ms = step.time_ms
            reply = None
            yield self._counted(step)
        yield self._end_turn(loop, step, began_ms or 0.0)

    def _begin(self) -> SimulLoop:
        setting = self._maker.setting
        prompt = setting.prompt_behind(tuple(self._finished_pairs))
        prefix_ids, shared = prompt.prefix_ids, self._prefix
        n_encoded = len(shared.token_ids)
        is_shared = prefix_ids[:n_encoded] == shared.token_ids
        self._engine.state = shared.state if is_shared else self._blank
        loop = self._loop = self._maker.begin(self._words_left())
        if self._observer is not None:
            loop.observe(self._observer)
        loop.add_segment(prefix_ids, n_encoded=n_encoded if is_shared else 0)
        self._prompt, self._words, self._break = prompt, [], None
        return loop

    def _words_left(self) -> int | None:
        """Words that may still be written, a part of one counting; None if there is no limit."""
        most = self._maker.setting.options.limits.max_words
        return None if most is None else max(0, math.ceil(most - self.target_speech))

    def _hand_over(self) -> None:
        """Give the turn under way the words that are its own, and its end."""
        while self._waiting and self._loop is not None and self._break is None:
            item = self._waiting.popleft()
            if isinstance(item, TurnBreak):
                self._break = item
                self._loop.close_source(self._prompt.suffix_ids)
            else:
                # The space before a turn's first word belongs to the stream, not to the turn.
                is_first = not self._words
                word = item.lstrip() if is_first else item
                self._loop.add_segment(self._prompt.encode_word(word, is_first), item)
                self._words.append(item)

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

    def _end_turn(self, loop: SimulLoop, finished: Finished, began_ms: float) -> TurnEnd:
        words, unread = self._words[: finished.source_words], self._words[finished.source_words :]
        ended_by: TurnReason = "limit"
        ends = [] if self._break is None else [self._break]
        if finished.source_finished and self._break is not None:
            ended_by, ends = self._break.reason, []
        # What a limit left unread is the next turn's, so nothing is lost. Whether the source's end
        # had come when the limit cut is a matter of chunks, so that is left unread too.
        self._waiting.extendleft(reversed([*unread, *ends]))
        first_source, first_target = self._n_source_words, self._n_target_words
        self._n_source_words += len(words)
        self._n_target_words += finished.target_words
        self._n_passes += finished.n_passes
        self.target_speech += loop.state.target_speech
        self._loop = None
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
            began_ms=began_ms,
            word_times_ms=finished.word_times_ms,
            time_ms=finished.total_ms,
        )
        self._n_turns += 1
        self._note(end)
        return end

    def _note(self, end: TurnEnd) -> None:
        """Keep of a turn that has ended what those behind it need."""
        if end.target_text:
            self._finished_pairs.append((end.source_text, end.target_text))
        self._joiner.end_turn(paragraph=end.ended_by == "blank_line")
        if self._reason == "end_of_turn" or end.reason == "max_words":
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
            total_ms=self._maker.clock_ms(),
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
