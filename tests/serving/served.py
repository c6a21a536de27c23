"""What the tests of the server share: a tiny model that is served, and what it writes alone."""

import gc
import queue

import mlx.core as mx
from streams import Stumble

from mlx_simul import Policy, SessionOptions, SimulSession, WaitK
from mlx_simul.serving.worker import Worker

OPTIONS = SessionOptions.of(
    turns="sentence",
    max_tokens=6,
    max_tokens_per_word=3,
    max_target_source_ratio=1.0,
    policy="wait-k:2",
)
SENTENCES = (
    "Good morning, how are you today? ",
    "I would like a ticket to Paris. ",
    "Thank you very much! ",
    "See you on Monday at three. ",
)
TALK = "".join(SENTENCES)
WAIT_S = 60
"""Only a test that fails waits so long."""


def alone(model, tokenizer, text, **options):
    """All events of a session that is fed a text alone."""
    session = SimulSession(model, tokenizer, OPTIONS, **options)
    return [*session.feed(text), *session.finish()]


def limit_memory(worker, monkeypatch, spare_bytes):
    """Let a worker that has no streams take so much beside what a stream takes at most."""
    gc.collect()  # what other tests have left
    held = mx.get_active_memory()
    monkeypatch.setattr(worker, "_weights_bytes", held)
    monkeypatch.setattr(worker, "_memory_limit_bytes", held + worker._stream_bytes + spare_bytes)


class Stumbling(Policy):
    """Fails in the middle of a turn."""

    def decide(self, progress):
        if progress.source_words_read > 2:
            raise Stumble("a secret in an exception")
        return WaitK(1).decide(progress)


class Gate:
    """A sampler that holds a pass up until it is opened."""

    def __init__(self, event):
        self.event = event

    def __call__(self, logprobs):
        assert self.event.wait(WAIT_S)
        return mx.argmax(logprobs, axis=-1)


class Heard:
    """A worker, and what it says."""

    def __init__(self, model, tokenizer, kind=Worker, **options):
        self.said, self.by_stream = queue.SimpleQueue(), {}
        loader = {"tiny": lambda: (model, tokenizer, OPTIONS)}
        self.worker = kind(loader, self.said.put, **options)
        self.worker.start()

    def send(self, stream, *commands):
        for command in commands:
            self.worker.send(stream, command)

    def take(self, wait=True):
        """Note a delivery."""
        try:
            said = self.said.get(wait, WAIT_S if wait else None)
        except queue.Empty:
            if wait:
                raise AssertionError("the worker says nothing more") from None
            return False
        for stream, answer in said:
            self.by_stream.setdefault(stream, []).append(answer)
        return True

    def until(self, stream, kind, n=1):
        """All that a stream has said, once it has said so many answers of a kind."""
        while sum(isinstance(each, kind) for each in self.by_stream.get(stream, [])) < n:
            self.take()
        return self.by_stream[stream]
