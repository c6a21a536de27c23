"""A real recogniser and recordings, by tools/fetch_speech.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from heard import Heard
from repository import ROOT

from mlx_simul.speech.audio import BLOCK_S, read_file
from mlx_simul.speech.recogniser import SAMPLE_RATE_HZ, Recogniser
from mlx_simul.speech.registry import load_recogniser
from mlx_simul.speech.window import Audio


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
