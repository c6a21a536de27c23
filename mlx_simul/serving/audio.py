"""The audio of one stream as its conversation knows it: what waits, and what was recognised.

It does no I/O. Positions are samples or milliseconds from the beginning of the stream's audio.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mlx_simul.serving.messages import ProtocolError
from mlx_simul.speech.recogniser import Hypothesis, Word
from mlx_simul.text.characters import is_spaceless
from mlx_simul.text.segmenter import PARAGRAPH

RATE_HZ = 24_000
"""The rate of the audio that clients send, one channel of 16-bit integers, the lower byte first."""

SAMPLE_BYTES = 2

SHOWN_MS = 1000
"""Progress is shown after this much audio, even if it made no words known."""

_QUIET_MS = 400
"""In a pause, this much after the last word is silence for certain. A recogniser that is given much
audio at once tells of a pause when it has heard words behind it, too, and those are not known."""

_END_SAMPLES = RATE_HZ // 10
"""An end counts as this much audio, so that a flood of ends is bounded."""


@dataclass(frozen=True)
class Hear:
    """Recognise a piece of audio.

    Attributes:
        audio: samples, as clients send them.
        language: that is spoken, by name; None if it is not known.
    """

    audio: bytes
    language: str | None = None


@dataclass(frozen=True)
class EndSpeech:
    """Recognise all audio so far to its end; what comes later begins anew."""


AudioCommand: TypeAlias = Hear | EndSpeech


@dataclass(frozen=True)
class Recognised:
    """A piece of audio has been listened to, or an end has been carried out.

    Attributes:
        n_samples: of the piece, as the client sent it.
        hypotheses: what became known; times count from the last end.
        ended: it was an end.
    """

    n_samples: int
    hypotheses: Sequence[Hypothesis]
    ended: bool = False


@dataclass(frozen=True)
class RecogniserFailed:
    """The recogniser broke off in this stream; it listens to no more of it.

    Attributes:
        message: why.
    """

    message: str


AudioAnswer: TypeAlias = Recognised | RecogniserFailed


@dataclass(frozen=True)
class Spoken:
    """Words of the source that were recognised.

    Attributes:
        words: in order; times count from the last end.
        pause: the speaker paused after them, or ended the audio.
        ends_turn: there are words before the pause that it has to end.
        origin_ms: where those times begin.
        audio_ms: where they end; all audio before that has become words.
    """

    words: tuple[Word, ...]
    pause: bool
    ends_turn: bool
    origin_ms: int
    audio_ms: int

    def text(self, *, behind_space: bool) -> str:
        """The words and the pause as a piece of source.

        A word is whole once white space follows, and a pause is a blank line: that ends a turn, is
        in the journal as any text, and needs no answer.

        Args:
            behind_space: the source so far ends with white space, or is empty.
        """
        text = "".join(word.text for word in self.words).strip()
        if text and not is_spaceless(text[-1]):
            text += " "
        if text and not behind_space and not is_spaceless(text[0]):
            text = f" {text}"
        return text + PARAGRAPH if self.ends_turn else text

    def word_values(self) -> list[dict[str, str | int]]:
        """The words as clients see them, with times in milliseconds of the stream's audio."""
        return [
            {
                "text": word.text,
                "start_ms": self.origin_ms + round(1000 * word.start_s),
                "end_ms": self.origin_ms + round(1000 * word.end_s),
            }
            for word in self.words
        ]


class AudioInput:
    """How much of a stream's audio has been taken, and how much of that was listened to.

    Args:
        max_waiting_s: most that may have been taken and not listened to.

    Attributes:
        failed: the recogniser broke off.
    """

    def __init__(self, max_waiting_s: float) -> None:
        self._max_waiting_s = max_waiting_s
        self.failed = False
        self._taken = self._heard = self._origin = 0  # samples; the origin is the last end
        self._ended_at = 0  # samples that had been taken when an end was last asked for
        self._n_ends = 0  # that have been asked for and not carried out
        self._spoken_ms = 0  # where the last recognised word ended
        self._is_in_turn = False  # words came since the last pause
        self._shown_ms = 0  # how much had been listened to when that was last shown

    @property
    def taken_ms(self) -> int:
        """All audio that has been taken."""
        return self._taken * 1000 // RATE_HZ

    @property
    def heard_ms(self) -> int:
        """The audio that has been listened to."""
        return self._heard * 1000 // RATE_HZ

    @property
    def waiting_s(self) -> float:
        """Audio that has been taken and not listened to, in seconds; ends count a little."""
        n_samples = self._taken - self._heard + _END_SAMPLES * self._n_ends
        return 0.0 if self.failed else n_samples / RATE_HZ

    @property
    def is_ending(self) -> bool:
        """An end has been asked for and not carried out."""
        return self._n_ends > 0 and not self.failed

    def resume(self, audio_ms: int) -> None:
        """Go on after audio that an earlier life of the stream has listened to."""
        self._taken = self._heard = self._origin = self._ended_at = audio_ms * RATE_HZ // 1000
        self._spoken_ms = self._shown_ms = audio_ms
        self._is_in_turn = audio_ms > 0

    def take(self, audio: bytes, language: str | None = None) -> Hear:
        """Take a piece of audio, and the name of its language.

        Raises:
            ProtocolError: if it is not whole samples, too much waits, or the recogniser broke off.
        """
        self._require_recogniser()
        n_samples, rest = divmod(len(audio), SAMPLE_BYTES)
        if rest:
            raise ProtocolError(
                "invalid_value",
                f"audio is 16-bit samples, so its bytes are even in number, got {len(audio)}; none "
                "of it was taken.",
                "audio",
            )
        self._require_room(n_samples / RATE_HZ, "audio")
        self._taken += n_samples
        return Hear(audio, language)

    def end(self) -> EndSpeech | None:
        """End the audio so far; None if no audio has come since the last end."""
        if self.failed or self._taken == self._ended_at:
            return None
        self._n_ends += 1
        self._ended_at = self._taken
        return EndSpeech()

    def hear(self, answer: Recognised) -> Iterator[Spoken]:
        """What a recogniser has made of the next piece, as far as it changes the source."""
        origin_ms = self._origin * 1000 // RATE_HZ
        for hypothesis in answer.hypotheses:
            pause = hypothesis.pause and (self._is_in_turn or bool(hypothesis.words))
            if hypothesis.words or pause:
                yield self._spoken(hypothesis, origin_ms, pause=pause)
        self._heard += answer.n_samples
        if answer.ended:
            self._n_ends -= 1
            self._origin = self._heard
            self._spoken_ms = self.heard_ms
            yield Spoken((), True, self._is_in_turn, origin_ms, self._spoken_ms)
            self._is_in_turn = False

    def shows(self, answer: Recognised) -> bool:
        """Whether an answer is to be shown: something became known, or much was listened to."""
        says_something = answer.ended or bool(answer.hypotheses)
        if not says_something and self.heard_ms < self._shown_ms + SHOWN_MS:
            return False
        self._shown_ms = self.heard_ms
        return True

    def fail(self) -> None:
        """The recogniser broke off: what waits will not be listened to."""
        self.failed = True

    def _spoken(self, hypothesis: Hypothesis, origin_ms: int, *, pause: bool) -> Spoken:
        end_s = hypothesis.words[-1].end_s if hypothesis.words else 0.0
        self._spoken_ms = max(self._spoken_ms, origin_ms + round(1000 * end_s))
        if pause:
            heard_ms = origin_ms + round(1000 * hypothesis.heard_s)
            self._spoken_ms = max(self._spoken_ms, min(heard_ms, self._spoken_ms + _QUIET_MS))
        self._is_in_turn = not pause
        return Spoken(hypothesis.words, pause, pause, origin_ms, self._spoken_ms)

    def _require_recogniser(self) -> None:
        if self.failed:
            raise ProtocolError(
                "recogniser_failed",
                "speech recognition broke off in this session: send text, or begin a new session.",
                "type",
                kind="server_error",
            )

    def _require_room(self, more_s: float, param: str) -> None:
        if self.waiting_s + more_s > self._max_waiting_s:
            raise ProtocolError(
                "audio_backlog_full",
                f"{self.waiting_s:.1f} seconds of audio wait to be recognised, and {more_s:.1f} "
                f"more are too many for a limit of {self._max_waiting_s:g}; none of this audio was "
                "taken. Send it again later; speech that is sent as fast as it is spoken has to "
                "wait only while this server is too slow.",
                param,
                kind="rate_limit_error",
            )
