"""A stream without a model: what it predicts is made up from what was read and fed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from mlx_simul.events import Event, Finished
from mlx_simul.loop import NEED_SOURCE, Limits, SimulLoop
from mlx_simul.passes import Pass, Reply
from mlx_simul.policies import Policy
from mlx_simul.words import WordBoundaryStoppingCriteria

END_OF_TURN = 0
PIECES = ["<end>", " a", " b", "c", "d", ",", "\n", " "]
HEADER = (9, 9)


class Vocabulary:
    """A tokenizer as far as the word rule needs one."""

    eos_token_ids = (END_OF_TURN,)
    vocab_size = len(PIECES)
    added_tokens_decoder: tuple[Any, ...] = ()

    def decode(self, tokens: Sequence[int]) -> str:
        """The pieces, joined."""
        return "".join(PIECES[token] for token in tokens)

    def get_vocab(self) -> dict[str, int]:
        """The pieces by themselves."""
        return {piece: i for i, piece in enumerate(PIECES)}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Nothing: nobody asks for more."""
        return []

    def batch_decode(self, rows: Iterable[Sequence[int]], **options: Any) -> list[str]:
        """As ``decode``, row by row."""
        return [self.decode(row) for row in rows]


class Text:
    """A detokenizer that holds nothing back."""

    is_holding = False

    def add(self, token: int) -> str:
        """Its piece."""
        return PIECES[token]

    def flush(self) -> str:
        """Nothing is left."""
        return ""


class ScriptedStream:
    """Drives a loop; its predictions depend on nothing but the seed and what was read and fed.

    Args:
        seed: of the predictions.
        policy: when to read and when to write.
        limits: those of :class:`~mlx_simul.loop.Limits`; 30 tokens by default.
    """

    def __init__(self, seed: int, policy: Policy, **limits: Any) -> None:
        self.seed = seed
        vocabulary = Vocabulary()
        self.loop = SimulLoop(
            policy,
            HEADER,
            WordBoundaryStoppingCriteria(vocabulary, max_tokens_per_word=4),
            vocabulary.eos_token_ids,
            Text(),
            Limits(**{"max_tokens": 30, **limits}),
            stop_early=False,
            clock_ms=lambda: 0.0,
        )
        self._steps = self.loop.steps()
        self.source: list[int] = []  # what the target may see
        self._hidden: list[int] = []
        self.target: list[int] = []
        self.events: list[Event] = []

    @property
    def finished(self) -> bool:
        """Whether the stream has ended."""
        return bool(self.events) and isinstance(self.events[-1], Finished)

    def feed(self, words: Iterable[Sequence[int]], suffix: Sequence[int] | None = None) -> None:
        """Let words arrive, and with a suffix the end of the source; run as far as that allows."""
        for word in words:
            self.loop.add_segment(word, str(word))
        if suffix is not None:
            self.loop.close_source(suffix)
        self._run()

    def predict(self) -> int:
        """The next token."""
        return random.Random(repr((self.seed, self.source, self.target))).randrange(len(PIECES))

    def _run(self) -> None:
        reply: Reply | None = None
        while not self.finished:
            step = self._steps.send(reply)
            reply = None
            if step == NEED_SOURCE:
                return
            if isinstance(step, Pass):
                reply = self._answer(step)
            else:
                self.events.append(step)

    def _answer(self, request: Pass) -> Reply:
        encoded = [*self.source, *self._hidden, *request.source_ids]
        n_visible = len(encoded) - request.n_hidden
        self.source, self._hidden = encoded[:n_visible], encoded[n_visible:]
        del self.target[len(self.target) - request.n_rewind :]
        if not request.target_ids:
            return Reply((), n_passes=1)
        self.target.extend(request.target_ids)
        predicted = [self.predict()]
        for draft in request.draft_ids:
            if predicted[-1] != draft:
                break
            self.target.append(draft)
            predicted.append(self.predict())
        return Reply(tuple(predicted), n_passes=1)
