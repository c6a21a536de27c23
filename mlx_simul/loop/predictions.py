"""What the model has predicted and the target does not hold yet, and the passes that it takes.

A prediction stands until the target takes it or a read outdates it. Once the tokens to rewind are
forgotten, the engine's target is always one of these::

    something stands:   header, written tokens, and all that stands but the last
    nothing stands:     header and written tokens, without those to feed

So a pass feeds the last that stands or else the tokens to feed, and predicts what follows::

                   a pass is answered                     the last one is taken
    nothing stands ─────────────────────▶ something stands ─────────────────────▶ nothing stands
          ▲                                     │
          │ rewind them all, and feed the       │ source is read, or a word rule
          │ newest written token again          ▼ gives the first one back
          └──────────────────────── what stood is now drafts
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Generator, Sequence
from dataclasses import replace
from itertools import repeat, takewhile
from typing import NamedTuple, TypeAlias, TypeVar

from mlx_simul.loop.drafters import Drafter
from mlx_simul.loop.requests import Evidence, Pass, Reply, Wanted
from mlx_simul.loop.source_queue import SourceQueue
from mlx_simul.loop.target import Target
from mlx_simul.text.boundary import EOSStoppingCriteria

T = TypeVar("T")
Asking: TypeAlias = Generator[Pass, Reply | None, T]


class Prediction(NamedTuple):
    """A token that the model predicted.

    Attributes:
        token: its id.
        ends_turn: whether it ends the turn: an end-of-turn or a wait token. It is never fed.
        evidence: what the model thought of it; ``None`` if that was not asked for.
    """

    token: int
    ends_turn: bool
    evidence: Evidence | None


class Predictions:
    """The predictions of one stream that are not written yet; it asks for the passes they take.

    Args:
        header: the target's header, at least one token.
        source: the source that is read and not encoded; passes take from it.
        target: the tokens written; passes refer to them.
        end_of_turn_ids: tokens that end the turn, wait tokens among them.
        wanted: the evidence to ask for, until the source is wholly read.
        last_wanted: the evidence to ask for from then on.
        keeps_drafts: whether predictions that are outdated become drafts.
        others: as :class:`~mlx_simul.loop.loop.SimulLoop`.

    Attributes:
        n_passes: how often the model ran.
    """

    def __init__(
        self,
        header: Sequence[int],
        source: SourceQueue,
        target: Target,
        end_of_turn_ids: Collection[int],
        *,
        wanted: Wanted | None,
        last_wanted: Wanted | None,
        forbidden_ids: tuple[int, ...],
        wait_ids: tuple[int, ...],
        read_ahead_tokens: int,
        drafter: Drafter | None,
        num_draft_tokens: int,
        keeps_drafts: bool,
        seed: int | None = None,
    ) -> None:
        self.n_passes = 0
        self._source, self._target, self._state = source, target, target.state
        self._is_end_of_turn = EOSStoppingCriteria(end_of_turn_ids)
        self._read_ahead_tokens = read_ahead_tokens
        # Once the source is wholly read there is nothing to wait for, and no policy judges.
        self._forbidden_ids, self._last_forbidden_ids = forbidden_ids, (*forbidden_ids, *wait_ids)
        self._wanted, self._last_wanted = wanted, last_wanted
        self._drafter, self._num_draft_tokens = drafter, num_draft_tokens
        self._keeps_drafts = keeps_drafts
        self._seed = seed
        # Guesses in the next pass, at most: fewer after wrong guesses, more after right ones.
        self._max_guesses: float = math.inf

        # In order. All but the last are fed: they are drafts that the engine accepted, or were fed
        # to see what comes after them.
        self._standing: deque[Prediction] = deque()
        # The newest tokens of header and written tokens: the whole header before the first pass,
        # then one. The engine holds them while something stands or they are to be rewound.
        self._feed = tuple(header)
        # How many tokens at the end of the engine's target must go: `_feed` and those fed after it.
        # 0 while something stands.
        self._n_rewind = 0
        # What may be predicted after `_feed`, to be verified by the pass that feeds it. None while
        # something stands.
        self._drafts: tuple[int, ...] = ()

    def observe(self) -> None:
        """From now on ask for evidence to the end of the stream."""
        self._last_wanted = self._wanted

    def follow_encoded(self, token_ids: Sequence[int]) -> None:
        """Take note of source that no pass of this stream will feed."""
        if self._drafter is not None:
            self._drafter.follow(Pass(tuple(token_ids)))

    def take(self) -> Prediction:
        """Remove the first prediction that stands: the target holds it now."""
        taken = self._standing.popleft()
        self._feed = (taken.token,)
        return taken

    def outdate(self) -> None:
        """Let nothing stand any longer.

        What was predicted from less source is a good guess at what will be predicted from more, so
        all of it becomes drafts, up to an end-of-turn, if drafts are kept.
        """
        if not self._standing:
            return
        # The last that stands is not fed, but the newest written token is, and it has to be fed
        # again, for it must see the source that was read (SPEC section 1).
        self._n_rewind = len(self._standing)
        if self._keeps_drafts:
            drafts = takewhile(lambda prediction: not prediction.ends_turn, self._standing)
            self._drafts = tuple(draft.token for draft in drafts)
        self._standing.clear()

    def insert(self, token_ids: Sequence[int]) -> None:
        """Let tokens that are not predicted stand after the newest written one."""
        self.outdate()
        self._drafts = ()
        self._feed = (*self._feed, *token_ids)

    def predict(self, n_ahead: int = 0) -> Asking[Prediction]:
        """Give the prediction this many places after the first, from a pass unless it stands."""
        while len(self._standing) <= n_ahead:
            self._state.switch_to_writing()
            yield from self._run(self._next_pass())
        return self._standing[n_ahead]

    def encode(self) -> Asking[None]:
        """Encode the source that waits, while there is nothing else to do."""
        if self._source.n_waiting:
            source_ids, written = self._source.take(), self._target.token_ids
            yield from self._run(Pass(source_ids, (), self._n_rewind, written=written))

    def _next_pass(self) -> Pass:
        source_ids = self._source.take(self._read_ahead_tokens)
        feed, written = self._feed, self._target.token_ids
        if self._standing:
            standing = tuple(prediction.token for prediction in self._standing)
            feed, written = standing[-1:], (*written, *standing)
        is_last = self._state.source_exhausted()
        return Pass(
            source_ids,
            feed,
            self._n_rewind,
            self._drafts,
            self._source.n_hidden,
            written,
            forbidden_ids=self._last_forbidden_ids if is_last else self._forbidden_ids,
            wanted=self._last_wanted if is_last else self._wanted,
            seed=self._seed,
        )

    def _run(self, request: Pass) -> Asking[None]:
        asked = self._with_guesses(request)
        reply = asked.checked((yield asked))
        n_right = len(reply.token_ids) - 1 - len(request.draft_ids)
        # If a draft before the guesses was wrong, they were not tried.
        if len(asked.draft_ids) > len(request.draft_ids) and n_right >= 0:
            self._max_guesses = 1 + 2 * n_right
        self.n_passes += reply.n_passes
        self._n_rewind = 0
        if reply.token_ids:
            # The drafts are verified, and of the header only the last token is ever fed again. A
            # pass that encodes source alone leaves the drafts to the next one.
            self._drafts, self._feed = (), self._feed[-1:]
        for token, evidence in zip(reply.token_ids, reply.evidence or repeat(None), strict=False):
            self._standing.append(Prediction(token, self._is_end_of_turn((token,)), evidence))

    def _with_guesses(self, request: Pass) -> Pass:
        """The pass with more drafts, as far as they would be written before the next read.

        The drafter is asked here and not in the engine, since here it is known where a word ends
        and whether a read may follow. It sees each pass before the engine does, which tells it all
        that is read, forgotten and written.
        """
        if self._drafter is None:
            return request
        self._drafter.follow(request)
        drafts = list(request.draft_ids)
        n_drafts = min(len(drafts) + self._max_guesses, self._num_draft_tokens)
        while request.target_ids and len(drafts) < n_drafts:
            # The first token after a word is worth its row: it shows that the word has ended.
            if drafts and not self._state.source_exhausted() and self._target.ends_word(*drafts)[0]:
                break
            token = self._drafter.guess()
            if token is None or self._is_end_of_turn((token,)):
                break
            drafts.append(token)
        return replace(request, draft_ids=tuple(drafts))
