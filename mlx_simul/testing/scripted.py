"""A stream without a model: predictions and evidence are made up from the tokens read and fed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from typing import Any

from mlx_simul.events import Event, Finished
from mlx_simul.loop.beam_search import Beams
from mlx_simul.loop.drafters import Drafter
from mlx_simul.loop.limits import Limits
from mlx_simul.loop.loop import NEED_SOURCE, SimulLoop
from mlx_simul.loop.requests import Candidate, Evidence, Pass, Reply
from mlx_simul.policies import Policy
from mlx_simul.text.boundary import WordBoundaryStoppingCriteria
from mlx_simul.text.stops import StopWatch

END_OF_TURN = 0
PIECES = ["<end>", " a", " b", "c", "d", ".", "\n", " "]
WAIT = PIECES.index("\n")
"""The wait token of every policy that has one, whatever the policy calls it."""
HEADS = ((0, 0),)
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
        """Nothing; the loop never encodes text."""
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
        forbidden_ids: as for :class:`~mlx_simul.loop.loop.SimulLoop`, like the next three.
        read_ahead_tokens: likewise.
        drafter: likewise.
        num_draft_tokens: likewise.
        watch: likewise.
        beams: likewise.
        limits: those of :class:`~mlx_simul.loop.limits.Limits`; 30 tokens by default.
    """

    def __init__(
        self,
        seed: int,
        policy: Policy,
        *,
        forbidden_ids: tuple[int, ...] = (),
        read_ahead_tokens: int = 0,
        drafter: Drafter | None = None,
        num_draft_tokens: int = 0,
        watch: StopWatch | None = None,
        beams: Beams | None = None,
        **limits: Any,
    ) -> None:
        self.seed = seed
        self.loop = self.make_loop(
            policy,
            Limits(**{"max_tokens": 30, **limits}),
            forbidden_ids=forbidden_ids,
            read_ahead_tokens=read_ahead_tokens,
            drafter=drafter,
            num_draft_tokens=num_draft_tokens,
            watch=watch,
            beams=beams,
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
            # Now and then a sentence ends.
            text = "-".join(map(str, word))
            self.loop.add_segment(word, f"{text}." if word[-1] % 4 == 0 else text)
        if suffix is not None:
            self.loop.close_source(suffix)
        self._run()

    def make_loop(
        self, policy: Policy, limits: Limits, *, stop_early: bool = False, **settings: Any
    ) -> SimulLoop:
        """The loop that is driven."""
        vocabulary = Vocabulary()
        wait_ids = () if policy.needs.wait_token is None else (WAIT,)
        ends = {END_OF_TURN, *wait_ids}
        return SimulLoop(
            policy,
            HEADER,
            WordBoundaryStoppingCriteria(vocabulary, max_tokens_per_word=4, end_of_turn_ids=ends),
            ends,
            Text(),
            limits,
            stop_early=stop_early,
            clock_ms=lambda: 0.0,
            heads=HEADS,
            wait_ids=wait_ids,
            **settings,
        )

    def predict(self) -> int:
        """The next token."""
        return self._draw().randrange(len(PIECES))

    def evidence(self) -> Evidence:
        """What the made-up model thinks of that prediction."""
        draw = self._draw()
        shares = [draw.random() for _ in self.source]
        total = sum(shares) + draw.random()
        probability = draw.random()
        margin = probability - (1 - probability) * draw.random()
        return Evidence(probability, margin, tuple(share / total for share in shares))

    def _draw(self) -> random.Random:
        return random.Random(repr((self.seed, self.source, self.target)))

    def predict_but(self, forbidden_ids: Sequence[int]) -> int:
        """The next token, where some cannot be predicted."""
        token = self.predict()
        while token in forbidden_ids:
            token = (token + 1) % len(PIECES)
        return token

    def candidates(
        self, path: Sequence[int] = (), forbidden_ids: Sequence[int] = ()
    ) -> tuple[Candidate, ...]:
        """All tokens that may come after some more, the predicted one first."""
        before = self.target
        self.target = [*before, *path]
        likeliest, draw = self.predict_but(forbidden_ids), self._draw()
        self.target = before
        weights = {
            token: 1.0 if token == likeliest else draw.random()
            for token in range(len(PIECES))
            if token not in forbidden_ids
        }
        total = sum(weights.values())
        odds = [(token, math.log(weight / total)) for token, weight in weights.items()]
        return tuple(sorted(odds, key=lambda candidate: -candidate[1]))

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
        if request.n_candidates:
            paths = map(request.path, request.leaves)
            rows = [self.candidates(path, request.forbidden_ids) for path in paths]
            return Reply((), 1, candidates=tuple(row[: request.n_candidates] for row in rows))
        predicted, evidence = [self.predict_but(request.forbidden_ids)], [self.evidence()]
        for draft in request.draft_ids:
            if predicted[-1] != draft:
                break
            self.target.append(draft)
            predicted.append(self.predict_but(request.forbidden_ids))
            evidence.append(self.evidence())
        return Reply(tuple(predicted), 1, tuple(evidence) if request.wanted else ())
