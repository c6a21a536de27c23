"""Recognisers that hear what a script says, and audio in which there is nothing to hear."""

import os
import signal
import threading
from collections import deque

import numpy as np

from mlx_simul.errors import RecogniserError
from mlx_simul.machine import plug_ins
from mlx_simul.speech.recogniser import SAMPLE_RATE_HZ, Hypothesis, Word
from mlx_simul.speech.registry import ENTRY_POINT_GROUP

INTERRUPT = "interrupt"
"""Stands in a script for a Ctrl-C."""


def said(text, heard_s, *, tail="", pause=False):
    """A hypothesis of words that were spoken evenly in the second before it."""
    texts = text.split()
    at = [round(heard_s - 1 + i / max(len(texts), 1), 3) for i in range(len(texts) + 1)]
    words = [Word(f" {word}", at[i], at[i + 1]) for i, word in enumerate(texts)]
    return Hypothesis(tuple(words), tail, pause, heard_s)


def silence(seconds):
    return np.zeros(round(seconds * SAMPLE_RATE_HZ), np.float32)


def pcm(seconds):
    """Raw PCM of so much silence."""
    return bytes(2 * round(seconds * SAMPLE_RATE_HZ))


class Scripted:
    """A recogniser whose script is hypotheses, in order, each due once that much was heard.

    An exception in the script is raised where it stands. It also notes what it was given.
    """

    def __init__(self, script):
        self.script = script
        self.heard = []
        self.has_finished = False
        self.language = None
        self.thread = None
        self.options = None

    def begin(self, language=None):
        self.language = language
        self.thread = threading.current_thread()
        self._rest = deque(self.script)
        return self

    def hear(self, audio):
        self.heard.append(audio)
        return list(self._due(sum(map(len, self.heard)) / SAMPLE_RATE_HZ))

    def finish(self):
        self.has_finished = True
        return list(self._due(float("inf")))

    def _due(self, heard_s):
        while self._rest:
            item = self._rest[0]
            if isinstance(item, Hypothesis) and item.heard_s > heard_s:
                return
            self._rest.popleft()
            if isinstance(item, Exception):
                raise item
            if item == INTERRUPT:
                os.kill(os.getpid(), signal.SIGINT)
            else:
                yield item


class Point:
    """An entry point, as an installed package has one."""

    name = "scripted"
    value = "speech_scripts:load"


_SCRIPTS = {}


def load(model, options=None):
    """The loader of the entry point."""
    if model not in _SCRIPTS:
        raise RecogniserError(f"there is no script {model!r}.")
    _SCRIPTS[model].options = options
    return _SCRIPTS[model]


def register(monkeypatch, script):
    """Make a recogniser known, as a package does that is installed; returns it and its name."""
    places = {ENTRY_POINT_GROUP: {Point.name: Point.value}}
    monkeypatch.setattr(plug_ins, "_plug_ins", lambda group: places.get(group, {}))
    recogniser = Scripted(script)
    _SCRIPTS["it"] = recogniser
    return recogniser, "scripted:it"
