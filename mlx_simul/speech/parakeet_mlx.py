"""NVIDIA's Parakeet on Apple silicon, by parakeet-mlx, which is installed by itself.

Written against parakeet-mlx 0.7.0 and tested with a stand-in for it. It recognises while it hears:
tokens that are finalized stay, and draft tokens after them may change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_simul.errors import ModelLoadError, RecogniserError, SessionClosedError
from mlx_simul.machine.extras import require_from
from mlx_simul.speech.audio import checked
from mlx_simul.speech.failures import failing_between
from mlx_simul.speech.recogniser import SAMPLE_RATE_HZ, Hypothesis, Word
from mlx_simul.speech.window import Audio, WindowOptions

DEFAULT_MODEL = "mlx-community/parakeet-tdt-0.6b-v3"

# Frames of 80 ms that are attended to on the left and on the right. A token is finalized when the
# right ones have been heard, so these are most of its delay (1.3 s).
_CONTEXT_FRAMES = (256, 16)
# The most audio that is given to the model at once.
_MAX_CHUNK_S = 10
# Its spectrogram needs a few frames.
_MIN_CHUNK_SAMPLES = SAMPLE_RATE_HZ // 4


def load(model: str | None = None, options: WindowOptions | None = None) -> Parakeet:
    """Load a model for parakeet-mlx.

    Args:
        model: a folder with config.json and model.safetensors in it, or the name of a repository
            on the Hugging Face Hub.
        options: ``min_chunk_s`` and ``pause_s`` hold here as well.

    Raises:
        InvalidOptionError: parakeet-mlx is not installed.
        ModelLoadError: the model cannot be loaded.
    """
    package = require_from("parakeet-mlx", "parakeet_mlx", "choose another recogniser")
    name = model or DEFAULT_MODEL
    try:
        parakeet = package.from_pretrained(name)
        # Set once, since a stream that ends would set it back for all others.
        parakeet.encoder.set_attention_model("rel_pos_local_attn", _CONTEXT_FRAMES)
        # What is not computed yet could only be computed by this thread.
        mx.eval(parakeet.parameters())
    except Exception as error:  # its own errors, MLX's and the hub's have no common base
        raise ModelLoadError(
            f"parakeet-mlx could not load {name!r}: {error}. Give a folder with config.json and "
            f"model.safetensors in it, or a repository such as {DEFAULT_MODEL}."
        ) from error
    return Parakeet(parakeet, options)


class Parakeet:
    """A model of parakeet-mlx (:class:`~mlx_simul.speech.recogniser.Recogniser`).

    Args:
        model: the package's BaseParakeet, with local attention.
        options: ``min_chunk_s`` and ``pause_s`` hold here as well.
    """

    def __init__(self, model: Any, options: WindowOptions | None = None) -> None:
        self._model = model
        self._options = options or WindowOptions()

    def begin(self, language: str | None = None) -> ParakeetRecognition:
        """Begin with a stream of audio (``Recogniser.begin``).

        Args:
            language: not needed: the model knows what it hears.
        """
        return ParakeetRecognition(self._model, self._options)


class ParakeetRecognition:
    """The recognition of one stream (:class:`~mlx_simul.speech.recogniser.Recognition`).

    Args:
        model: the package's BaseParakeet, with local attention.
        options: how much is heard at once, and what a pause is.
    """

    def __init__(self, model: Any, options: WindowOptions) -> None:
        self._options = options
        preprocessor = model.preprocessor_config
        self._hop_s = preprocessor.hop_length / preprocessor.sample_rate
        self._unsure_s = _CONTEXT_FRAMES[1] * model.time_ratio
        self._resources = ExitStack()
        self._stream: Any = self._resources.enter_context(
            model.transcribe_stream(_CONTEXT_FRAMES, keep_original_attention=True)
        )
        self._is_closed = False
        self._waiting = np.zeros(0, np.float32)
        self._heard_samples = 0
        self._buffer_start_s = 0.0  # of the audio that the model hears again with the next piece
        self._words = _Words()
        self._last_end_s = 0.0
        self._has_spoken = False  # since the last pause

    def hear(self, audio: Audio) -> list[Hypothesis]:
        """Take the next piece of audio (``Recognition.hear``).

        Raises:
            RecogniserError: ``audio`` is not what recognisers take, or the model failed.
            SessionClosedError: after ``finish`` or a failure.
        """
        self._refuse_if_closed("hear")
        self._waiting = np.concatenate([self._waiting, checked(audio)])
        found: list[Hypothesis] = []
        while len(self._waiting) >= self._options.min_chunk_s * SAMPLE_RATE_HZ:
            found.append(self._hear_chunk())
        return found

    def finish(self) -> list[Hypothesis]:
        """End the audio (``Recognition.finish``).

        Raises:
            RecogniserError: the model failed.
            SessionClosedError: the second time.
        """
        self._refuse_if_closed("finish")
        found: list[Hypothesis] = []
        while len(self._waiting):
            found.append(self._hear_chunk())
        words = [*self._words.add(self._timed(self._stream.draft_tokens)), *self._words.close()]
        self._close()
        return [*found, Hypothesis(tuple(words), heard_s=self._heard_s)]

    @property
    def _heard_s(self) -> float:
        return self._heard_samples / SAMPLE_RATE_HZ

    def _hear_chunk(self) -> Hypothesis:
        chunk, self._waiting = np.split(self._waiting, [_MAX_CHUNK_S * SAMPLE_RATE_HZ])
        self._add(chunk)
        words = [*self._words.add(self._timed(self._stream.finalized_tokens))]
        # The package only ever adds to this list, and it would grow with the stream.
        self._stream.finalized_tokens.clear()
        self._buffer_start_s = max(0.0, self._heard_s - self._buffered_s())
        draft = "".join(token.text for token in self._stream.draft_tokens)
        is_pause = self._is_pause(words, draft)
        if is_pause:
            words += self._words.close()
        self._has_spoken = (self._has_spoken or bool(words)) and not is_pause
        return Hypothesis(
            tuple(words), (self._words.open_text + draft).strip(), is_pause, self._heard_s
        )

    def _add(self, chunk: Audio) -> None:
        """Let the model hear a piece of audio."""
        start_s = self._heard_s
        self._heard_samples += len(chunk)
        padded = np.pad(chunk, (0, max(0, _MIN_CHUNK_SAMPLES - len(chunk))))
        try:
            with failing_between(start_s, self._heard_s):
                self._stream.add_audio(mx.array(padded))
        except RecogniserError:
            self._close()
            raise

    def _buffered_s(self) -> float:
        """How much audio the model will hear again."""
        mel = self._stream.mel_buffer
        frames_s = 0.0 if mel is None else mel.shape[1] * self._hop_s
        return frames_s + len(self._stream.audio_buffer) / SAMPLE_RATE_HZ

    def _timed(self, tokens: Iterable[Any]) -> list[Word]:
        """Tokens with times in the stream; the package counts from what it hears again."""
        return [
            Word(token.text, token.start + self._buffer_start_s, token.end + self._buffer_start_s)
            for token in tokens
        ]

    def _is_pause(self, words: Sequence[Word], draft: str) -> bool:
        """Whether the speaker has paused after all words, in audio that is heard for good."""
        if words:
            self._last_end_s = words[-1].end_s
        if self._words.open_text:
            self._last_end_s = self._words.open_end_s
        has_spoken = self._has_spoken or bool(words) or bool(self._words.open_text)
        silence_s = self._heard_s - self._unsure_s - self._last_end_s
        return has_spoken and not draft.strip() and silence_s >= self._options.pause_s

    def _close(self) -> None:
        self._is_closed = True
        self._resources.close()

    def _refuse_if_closed(self, what: str) -> None:
        if self._is_closed:
            raise SessionClosedError(
                f"{what}() after finish() or an error: this stream of audio has ended; begin a new "
                "recognition."
            )


class _Words:
    """Joins tokens to words. A word is whole when the next one begins."""

    def __init__(self) -> None:
        self._open: Word | None = None

    @property
    def open_text(self) -> str:
        """The text of a word that the next token may belong to."""
        return self._open.text if self._open else ""

    @property
    def open_end_s(self) -> float:
        """When that word has ended so far."""
        return self._open.end_s if self._open else 0.0

    def add(self, tokens: Iterable[Word]) -> Iterator[Word]:
        """Take tokens; give the words that are whole."""
        for token in tokens:
            if self._open and not token.text.startswith(" "):
                text = self._open.text + token.text
                self._open = replace(self._open, text=text, end_s=token.end_s)
                continue
            yield from self.close()
            self._open = token if token.text.strip() else None

    def close(self) -> list[Word]:
        """End the word under way."""
        words = [self._open] if self._open else []
        self._open = None
        return words
