"""Where somebody speaks, by the Silero voice activity filter that faster-whisper brings."""

from __future__ import annotations

from mlx_simul.machine.extras import require
from mlx_simul.speech.recogniser import SAMPLE_RATE_HZ
from mlx_simul.speech.window import Audio, Span

# Silences between words are kept: what counts as a pause is for the window to say.
_MIN_SILENCE_MS = 100
# A click, a cough's beginning: shorter than any word.
_MIN_VOICE_MS = 60


def find_voice(audio: Audio) -> list[Span]:
    """Find where in a piece of audio somebody speaks.

    Args:
        audio: shape (samples,), at ``SAMPLE_RATE_HZ``.

    Returns:
        When each voice begins and ends, in seconds, in order; the last one may end with the audio.

    Raises:
        InvalidOptionError: faster-whisper is not installed.
    """
    vad = require("faster_whisper.vad", "speech", "use a recogniser that needs no voice filter")
    options = vad.VadOptions(
        min_speech_duration_ms=_MIN_VOICE_MS,
        min_silence_duration_ms=_MIN_SILENCE_MS,
        speech_pad_ms=0,
    )
    spans = vad.get_speech_timestamps(audio, options, sampling_rate=SAMPLE_RATE_HZ)
    return [(span["start"] / SAMPLE_RATE_HZ, span["end"] / SAMPLE_RATE_HZ) for span in spans]
