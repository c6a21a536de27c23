"""A real recogniser and recordings, by tools/fetch_speech.py, and what is done with them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT

from mlx_simul.speech.audio import BLOCK_S, read_file
from mlx_simul.speech.recogniser import SAMPLE_RATE_HZ, Recogniser, Word
from mlx_simul.speech.registry import load_recogniser
from mlx_simul.speech.window import Audio

TWO_CITIES = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age "
    "of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the "
    "season of Light, it was the season of Darkness, it was the spring of hope, it was the winter "
    "of despair, we had everything before us, we had nothing before us, we were all going direct "
    "to Heaven, we were all going direct the other way. In short, the period was so far like the "
    "present period, that some of its noisiest authorities insisted on its being received, for "
    "good or for evil, in the superlative degree of comparison only."
)
BECKETT = "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better."


@pytest.fixture(scope="session")
def folder() -> Path:
    """The folder with the model and the recordings."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        fetch = import_module("fetch_speech").fetch
    finally:
        sys.path.remove(str(ROOT / "tools"))
    fetch("tiny.en")
    return fetch("recordings")[0].parent


@pytest.fixture(scope="session")
def recogniser(folder: Path) -> Recogniser:
    return load_recogniser(f"faster-whisper:{folder / 'tiny.en'}")


@pytest.fixture(scope="session")
def recording(folder: Path) -> Callable[[str], Audio]:
    """The audio of a recording by its name."""
    return lambda name: np.concatenate([*read_file(folder / f"{name}.wav")])


@dataclass
class Heard:
    """What a recogniser made of a piece of audio.

    Attributes:
        words: all of them.
        delays_s: of each, from its end to the moment in the audio when it became stable.
        pauses_s: when a pause was told.
    """

    words: list[Word]
    delays_s: list[float]
    pauses_s: list[float]

    @property
    def text(self) -> str:
        return "".join(word.text for word in self.words).strip()


@pytest.fixture(scope="session")
def listen(recogniser: Recogniser) -> Callable[[Audio], Heard]:
    """Gives a recogniser a piece of audio as a microphone would."""

    def listen(audio: Audio) -> Heard:
        recognition, heard = recogniser.begin("en"), Heard([], [], [])
        step = round(BLOCK_S * SAMPLE_RATE_HZ)
        found = [
            hypothesis
            for at in range(0, len(audio), step)
            for hypothesis in recognition.hear(audio[at : at + step])
        ]
        for hypothesis in [*found, *recognition.finish()]:
            heard.words += hypothesis.words
            heard.delays_s += [hypothesis.heard_s - word.end_s for word in hypothesis.words]
            heard.pauses_s += [hypothesis.heard_s] if hypothesis.pause else []
        return heard

    return listen


def word_error_rate(expected: str, text: str) -> float:
    """The word error rate of a text, case and punctuation aside."""
    import jiwer

    return jiwer.wer(*(" ".join(re.findall(r"[\w']+", t.lower())) for t in (expected, text)))
