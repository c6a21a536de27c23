"""Source that waits, in characters and words, and the pace at which more may come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mlx_simul.serving.messages import ProtocolError

CHARS_PER_WORD = 6
"""A word of speech has about this many characters, a space included."""

UPDATE_CHARS = 300
"""Changing options keeps the thread that owns MLX about as busy as this many characters."""


@dataclass(frozen=True)
class StreamLimits:
    """What a client may ask of one stream.

    Attributes:
        max_waiting_chars: source that has been taken and not read. What is not text waits too: each
            command counts as a word at least, so that a flood of small ones is bounded.
        max_words_per_s: source words a second, over ten seconds; None sets no limit.
        max_prompt_chars: instruction, context, glossary and pairs together.
        max_waiting_audio_s: audio that has been taken and not recognised.
    """

    max_waiting_chars: int = 20_000
    max_words_per_s: float | None = None
    max_prompt_chars: int = 8000
    max_waiting_audio_s: float = 30.0


class Backlog:
    """How much of a source has been taken and not read.

    Args:
        limits: of the stream.
        clock_s: seconds, to measure how fast words arrive.

    Attributes:
        words_taken: source words that have arrived whole.
        words_read: those that have been read.
        n_put: commands that were counted.
        n_taken: those of them that have been carried out, so that the journal holds them.
    """

    def __init__(self, limits: StreamLimits, clock_s: Callable[[], float]) -> None:
        self._limits, self._clock_s = limits, clock_s
        self.words_taken = self.words_read = 0
        self.n_put = self.n_taken = 0
        self._queued: deque[int] = deque()  # what each command counts that was not carried out
        self._queued_chars = 0
        self._allowance_words, self._allowed_at_s = 0.0, -1e9

    @property
    def words_behind(self) -> int:
        """Source words that have arrived and not been read."""
        return max(0, self.words_taken - self.words_read)

    def require_room(self, n_chars: int, param: str) -> None:
        """Check that this many more characters may wait.

        Raises:
            ProtocolError: if they are too many.
        """
        waiting = self._queued_chars + CHARS_PER_WORD * self.words_behind
        most = self._limits.max_waiting_chars
        if waiting + n_chars > most:
            raise ProtocolError(
                "source_backlog_full",
                f"about {waiting} characters of source wait to be read, and {n_chars} more are "
                f"too many for a limit of {most}; this message had no effect. Send it again later "
                "or in smaller pieces.",
                param,
                kind="rate_limit_error",
            )

    def require_pace(self, n_words: float, param: str) -> None:
        """Let words pass at the pace that is allowed, and those of ten seconds at once.

        Raises:
            ProtocolError: if they come too fast.
        """
        pace = self._limits.max_words_per_s
        if pace is None:
            return
        now_s = self._clock_s()
        gained = pace * (now_s - self._allowed_at_s)
        self._allowance_words = min(10 * pace, self._allowance_words + gained)
        self._allowed_at_s = now_s
        if n_words > self._allowance_words:
            raise ProtocolError(
                "too_fast",
                f"source comes faster than {pace:g} words a second; this message had no effect. "
                "Send it again later or in smaller pieces.",
                param,
                kind="rate_limit_error",
            )
        self._allowance_words -= n_words

    def charge(self, n_words: float) -> None:
        """Count words that are taken at any pace: what was spoken cannot be sent back."""
        self._allowance_words -= n_words

    def put(self, n_chars: int) -> None:
        """Count a command until it is carried out."""
        self.n_put += 1
        self._queued.append(max(n_chars, CHARS_PER_WORD))
        self._queued_chars += self._queued[-1]

    def take(self, words_taken: int) -> None:
        """The oldest command has been carried out, and this many words have arrived by now."""
        self.n_taken += 1
        self._queued_chars -= self._queued.popleft()
        self.words_taken = words_taken
