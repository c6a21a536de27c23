"""Reference mode: the loop of EIT-NLP/StreamingLLM to the token (SPEC section 4).

It differs from :mod:`mlx_simul.loop.loop` in where a write stops, in what it notes as a delay, and
in taking the first end-of-turn at its word.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from mlx_simul.errors import InvalidOptionError
from mlx_simul.events import FinishReason, Read
from mlx_simul.loop.loop import Limits, SimulLoop, WordSteps
from mlx_simul.policies import Policy, WaitK
from mlx_simul.text.boundary import CLOSING_PUNCTUATION, WordBoundaryStoppingCriteria

MAX_PREDICTIONS_SINCE_READ = 50
MAX_STOPS_BEYOND_READS = 100


class ReferenceLoop(SimulLoop):
    """One session's loop under the semantics of the public GPE implementation.

    Args:
        policy: wait-k; the reference has no other.
        tokenizer: decodes the write buffer.
        others: as :class:`~mlx_simul.loop.loop.SimulLoop`.

    Raises:
        InvalidOptionError: if the policy is not :class:`~mlx_simul.policies.WaitK`, or the limits
            hold a ratio.
    """

    # It would predict less often than the reference does, and the counter counts predictions.
    carries_drafts = False

    def __init__(
        self,
        policy: Policy,
        header: Sequence[int],
        boundary: WordBoundaryStoppingCriteria,
        end_of_turn_ids: Collection[int],
        detokenizer: Any,
        limits: Limits,
        *,
        tokenizer: Any,
        clock_ms: Callable[[], float],
    ) -> None:
        if not isinstance(policy, WaitK):
            raise InvalidOptionError(
                f"gpe_compat reproduces wait-k only, got {policy!r}; pass policy=WaitK(k)."
            )
        if limits.max_target_source_ratio is not None:
            raise InvalidOptionError(
                "gpe_compat has no max_target_source_ratio: it would change what the reference "
                "reads; leave it out."
            )
        super().__init__(
            policy,
            header,
            boundary,
            end_of_turn_ids,
            detokenizer,
            limits,
            stop_early=True,
            clock_ms=clock_ms,
        )
        self._wait_k = policy.k
        self._tokenizer = tokenizer
        self._buffer: list[int] = []
        self._n_predictions = 0

    def _mark_read(self, n_tokens: int) -> Read:
        self._n_predictions = 0
        return super()._mark_read(n_tokens)

    def _write_word(self) -> WordSteps:
        while True:
            token = yield from self._predict()
            self._n_predictions += 1
            self._buffer.append(token)
            spaced = " " in self._tokenizer.decode(self._buffer)[1:]
            ends_turn = self._is_end_of_turn((token,))
            stops = (
                spaced
                or ends_turn
                or self._tokenizer.decode([token]) in CLOSING_PUNCTUATION
                or self._n_predictions >= MAX_PREDICTIONS_SINCE_READ
            )
            if spaced and len(self._buffer) > 1:
                self._buffer.clear()
                self._outdate()
            else:
                yield from self._accept(token)
            if stops:
                yield from self._complete_word(max(self._wait_k, self.state.source_words_read))
                return self._reason_to_end(ends_turn)
            if self._is_too_long(self._written):
                return "max_tokens"

    def _reason_to_end(self, ends_turn: bool) -> FinishReason | None:
        if ends_turn:
            return "end_of_turn" if self.state.source_exhausted() else "early_end_of_turn"
        if len(self.state.wait_lagging) - self.state.source_words_read > MAX_STOPS_BEYOND_READS:
            return "stop_limit"
        if self._is_too_long(self._written):
            return "max_tokens"
        return None if self.state.should_write_next_target() else "max_words"
