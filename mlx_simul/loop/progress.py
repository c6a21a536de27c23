"""How far a session has got: segments read, words written, delays."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from mlx_simul.errors import InvalidOptionError
from mlx_simul.policies import Action, WaitK


class StreamingState:
    """Counts source segments read and target words written (SPEC section 6).

    Segment 0 is the prefix, then come the words, and last the suffix. A live source starts with
    ``source_complete=False`` and grows by :meth:`add_source_segment` until :meth:`close_source`.

    Args:
        source_seg_len: tokens per source segment.
        wait_k: the k that :meth:`check_wait_k_policy` judges by; ``None`` under another policy.
        max_target_words: most target words to write; ``None`` for no limit.
        source_complete: whether ``source_seg_len`` holds the whole source, suffix included.

    Attributes:
        source_speech: how much speech was read, in words that are equally long in any script
            (:mod:`mlx_simul.text.speech`).
        target_speech: how much speech was written, in such words.

    Raises:
        InvalidOptionError: if ``wait_k`` or ``max_target_words`` is below 1.
    """

    def __init__(
        self,
        source_seg_len: Iterable[int],
        wait_k: int | None = None,
        max_target_words: int | None = None,
        *,
        source_complete: bool = True,
    ) -> None:
        if max_target_words is not None and max_target_words < 1:
            raise InvalidOptionError(
                f"max_target_words must be at least 1, got {max_target_words}; None is no limit."
            )
        self._wait_k_policy = None if wait_k is None else WaitK(wait_k)
        self.source_seg_len = list(source_seg_len)
        self.source_complete = source_complete
        self.max_target_words = max_target_words
        self.source_words_read = 0
        self.target_words_generated = 0
        self.source_speech = self.target_speech = Fraction(0)
        self.wait_lagging: list[int] = []
        self._speech_of_words: list[Fraction] = []
        self.is_reading = True

    @property
    def wait_k(self) -> int | None:
        """The k of wait-k, or ``None`` under another policy."""
        return None if self._wait_k_policy is None else self._wait_k_policy.k

    @property
    def delay_words(self) -> int:
        """Source *words* read: as ``source_words_read``, but the suffix does not count."""
        n_words = len(self.source_seg_len) - (2 if self.source_complete else 1)
        return max(0, min(self.source_words_read, n_words))

    def add_source_segment(self, n_tokens: int) -> None:
        """Append one segment to a live source."""
        self.source_seg_len.append(n_tokens)

    def close_source(self) -> None:
        """Say that the segment added last was the suffix."""
        self.source_complete = True

    def check_wait_k_policy(self) -> bool:
        """Whether wait-k lets the next target word be written now.

        Raises:
            InvalidOptionError: if the state was made without a ``wait_k``.
        """
        if self._wait_k_policy is None:
            raise InvalidOptionError(
                "this state has no wait_k; pass one, or ask the policy's own decide(state)."
            )
        return self._wait_k_policy.decide(self) is Action.WRITE

    def should_read_next_source(self) -> bool:
        """Whether an unread source segment is at hand."""
        return self.source_words_read < len(self.source_seg_len) - 1

    def source_exhausted(self) -> bool:
        """Whether the source has ended and all of it, suffix included, is read."""
        return self.source_complete and not self.should_read_next_source()

    def should_write_next_target(self) -> bool:
        """Whether the word limit leaves room for another target word."""
        return self.max_target_words is None or self.target_words_generated < self.max_target_words

    def get_source_tokens_to_read(self) -> int:
        """Tokens of the next read: prefix and word 1, then a segment each; 0 if none is left."""
        if not self.should_read_next_source():
            return 0
        if self.source_words_read == 0:
            return sum(self.source_seg_len[:2])
        return self.source_seg_len[self.source_words_read + 1]

    def mark_source_read(self, speech: Fraction | None = None) -> None:
        """Count one segment as read.

        Args:
            speech: how much speech it holds; by default 1 for a word and 0 for the suffix.

        Raises:
            InvalidOptionError: if no segment is left.
        """
        if not self.should_read_next_source():
            raise InvalidOptionError("no source segment is left to read; add_source_segment first.")
        before = self.delay_words
        self.source_words_read += 1
        self.source_speech += self.delay_words - before if speech is None else speech

    def mark_target_written(
        self, lagging: int | None = None, speech: Fraction = Fraction(1)
    ) -> None:
        """Count one target word as written and note its delay.

        Args:
            lagging: the delay to note, where a mode defines its own (SPEC section 4); by default
                the source words read.
            speech: how much speech the word holds.
        """
        self.target_words_generated += 1
        self.target_speech += speech
        self._speech_of_words.append(speech)
        self.wait_lagging.append(self.delay_words if lagging is None else lagging)

    def take_back(self, n_words: int) -> list[int]:
        """Count only this many words, the first, as written; return the delays of the others."""
        lagging = self.wait_lagging[n_words:]
        self.target_speech -= sum(self._speech_of_words[n_words:])
        del self.wait_lagging[n_words:], self._speech_of_words[n_words:]
        self.target_words_generated = len(self.wait_lagging)
        return lagging

    def switch_to_reading(self) -> None:
        """Route the next tokens to the source."""
        self.is_reading = True

    def switch_to_writing(self) -> None:
        """Route the next tokens to the target."""
        self.is_reading = False
