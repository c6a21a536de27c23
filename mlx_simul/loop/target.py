"""The target of a stream: its tokens, the word under way, and the Write events of both."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Protocol

from mlx_simul.events import Write
from mlx_simul.loop.progress import StreamingState
from mlx_simul.text.boundary import WordBoundaryStoppingCriteria
from mlx_simul.text.speech import speech


class Detokenizer(Protocol):
    """Turns target tokens into stable text, as :mod:`mlx_simul.text.detokenizer` does."""

    def add(self, token: int) -> str:
        """Text that became stable with this token."""
        ...

    def flush(self) -> str:
        """All text still held back."""
        ...

    @property
    def is_holding(self) -> bool:
        """Whether text is held back."""
        ...


class Target:
    """What one stream has written.

    The event of a token is held back until the next prediction tells whether the token ends its
    word. So at most one event is held, that of the newest token, and every other one is out.

    Args:
        boundary: where a target word ends.
        detokenizer: fresh.
        state: how far the stream has got; words written are counted there.
        clock_ms: milliseconds since the stream began.

    Attributes:
        boundary: as given.
        state: as given.
        token_ids: all tokens written. Passes refer to this very list, so it is only appended to.
        word: those of them that no complete word holds yet, the newest; white space that precedes a
            word is among them.
        word_times_ms: when each word was complete.
    """

    def __init__(
        self,
        boundary: WordBoundaryStoppingCriteria,
        detokenizer: Detokenizer,
        state: StreamingState,
        clock_ms: Callable[[], float],
    ) -> None:
        self.token_ids: list[int] = []
        self.word: list[int] = []
        self.word_times_ms: list[float] = []
        self.boundary = boundary
        self._detokenizer = detokenizer
        self.state = state
        self._clock_ms = clock_ms
        self._held: Write | None = None
        # Of the events that are out, in order.
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        """The text of all events that are out."""
        return "".join(self._texts)

    @property
    def has_open_word(self) -> bool:
        """Whether the word under way shows anything yet."""
        return self.boundary.has_content(self.word)

    def ends_word(self, *tokens: int) -> tuple[bool, bool]:
        """Whether the word under way would end with the last of these tokens.

        Returns:
            ``(ends, is_look_ahead)``: it would; the token only shows that and does not belong to
            it.
        """
        return self.boundary((*self.word, *tokens))

    def write(self, token: int) -> Iterator[Write]:
        """Add a token to the word under way; give the event of the token before it."""
        if self._held is not None:
            yield self._release(self._held)
        self.word.append(token)
        self.token_ids.append(token)
        self._held = Write(
            token=token,
            text=self._detokenizer.add(token),
            word_complete=False,
            source_words_read=self.state.delay_words,
            target_words_generated=self.state.target_words_generated,
        )

    def complete_word(self, lagging: int | None = None) -> Generator[Write, object, str]:
        """Count the word under way as complete, and give its last event.

        Args:
            lagging: the delay to note; the source words read by default.

        Returns:
            The word's text.
        """
        text = self.boundary.text(self.word)
        self.state.mark_target_written(lagging, speech(text))
        self.word_times_ms.append(self._clock_ms())
        self.word.clear()
        if self._held is not None:
            n_words = self.state.target_words_generated
            self._held = replace(self._held, word_complete=True, target_words_generated=n_words)
        yield from self.release_whole()
        return text

    def release_whole(self) -> Iterator[Write]:
        """Give the event held back, unless its text ends within a character.

        The next token may complete the character, and then the text belongs to that one; so deltas
        concatenate to exactly what the tokenizer decodes.
        """
        if self._held is not None and not self._detokenizer.is_holding:
            yield self._release(self._held)

    def finish(self) -> Iterator[Write]:
        """Give the event held back with all text that is left."""
        if self._held is not None:
            yield self._release(self._held, self._detokenizer.flush())

    def _release(self, held: Write, rest: str = "") -> Write:
        self._held = None
        self._texts.append(held.text + rest)
        return replace(held, text=held.text + rest, time_ms=self._clock_ms())
