"""Reference mode: the loop of EIT-NLP/StreamingLLM to the token (SPEC section 4).

It differs from :mod:`mlx_simul.loop.loop` in where a write stops, in what it notes as a delay, and
in ending at the first end-of-turn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from mlx_simul.errors import InvalidOptionError
from mlx_simul.events import FinishReason, Read
from mlx_simul.loop.drafters import Drafter
from mlx_simul.loop.limits import Limits
from mlx_simul.loop.loop import SimulLoop, WordSteps
from mlx_simul.loop.target import Detokenizer
from mlx_simul.policies import Policy, WaitK
from mlx_simul.text.boundary import CLOSING_PUNCTUATION, WordBoundaryStoppingCriteria
from mlx_simul.text.stops import StopWatch

MAX_PREDICTIONS_SINCE_READ = 50
MAX_STOPS_BEYOND_READS = 100


class ReferenceLoop(SimulLoop):
    """One session's loop under the semantics of the public GPE implementation.

    Args:
        policy: wait-k; the reference has no other.
        tokenizer: decodes the write buffer.
        others: as :class:`~mlx_simul.loop.loop.SimulLoop`.

    Raises:
        InvalidOptionError: if the policy is not :class:`~mlx_simul.policies.WaitK`, or if the
            limits hold a ratio.
    """

    # The reference predicts each token anew, and shows logits processors no other rows.
    _keeps_drafts = False

    def __init__(
        self,
        policy: Policy,
        header: Sequence[int],
        boundary: WordBoundaryStoppingCriteria,
        end_of_turn_ids: Collection[int],
        detokenizer: Detokenizer,
        limits: Limits,
        *,
        tokenizer: Any,
        clock_ms: Callable[[], float],
        read_ahead_tokens: int = 0,
        drafter: Drafter | None = None,
        num_draft_tokens: int = 0,
        watch: StopWatch | None = None,
        logprobs: bool = False,
        seed: int | None = None,
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
            read_ahead_tokens=read_ahead_tokens,
            drafter=drafter,
            num_draft_tokens=num_draft_tokens,
            watch=watch,
            logprobs=logprobs,
            seed=seed,
        )
        self._wait_k = policy.k
        self._tokenizer = tokenizer
        # The reference's write buffer: tokens since the last one that was dropped. It may span
        # words, and so is not the word under way (SPEC section 4, point 1).
        self._buffer: list[int] = []
        # Predictions since the last read, dropped ones included. Nothing resets it after the last
        # read, so that every prediction is a stop once it has reached its limit (point 3).
        self._n_predictions = 0

    def _read_segment(self) -> Read:
        self._n_predictions = 0
        return super()._read_segment()

    def _write_word(self) -> WordSteps:
        while True:
            token, ends_turn, _ = yield from self._predictions.predict()
            self._n_predictions += 1
            self._buffer.append(token)
            spaced = " " in self._tokenizer.decode(self._buffer)[1:]
            stops = (
                spaced
                or ends_turn
                or self._tokenizer.decode([token]) in CLOSING_PUNCTUATION
                or self._n_predictions >= MAX_PREDICTIONS_SINCE_READ
            )
            if spaced and len(self._buffer) > 1:
                self._buffer.clear()
                # The reference predicts again here even if there was nothing left to read.
                self._predictions.outdate()
            else:
                yield from self._accept()
                if self._target.is_stopped:
                    return "stop"
            if stops:
                yield from self._complete_word(max(self._wait_k, self.state.source_words_read))
                return self._reason_to_end(ends_turn)
            if self._is_too_long(self._target.token_ids):
                return "max_tokens"

    def _reason_to_end(self, ends_turn: bool) -> FinishReason | None:
        if ends_turn:
            return "end_of_turn" if self.state.source_exhausted() else "early_end_of_turn"
        if len(self.state.wait_lagging) - self.state.source_words_read > MAX_STOPS_BEYOND_READS:
            return "stop_limit"
        if self._is_too_long(self._target.token_ids):
            return "max_tokens"
        return None if self.state.should_write_next_target() else "max_words"
