"""Passes over one model: feed the source, feed the target, predict, roll back.

Shape legend: L new tokens, V vocabulary. A session is one row (B = 1).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import mlx_simul.before_mlx

import mlx.core as mx

from mlx_simul import archs
from mlx_simul.errors import InvalidOptionError, SimulWarning, ValidationError
from mlx_simul.positions import FollowStart, StayStart, TargetStart, rotates_exactly

Sampler: TypeAlias = Callable[[mx.array], mx.array]
LogitsProcessor: TypeAlias = Callable[[mx.array, mx.array], mx.array]

# Bounds the mask of one source pass: 512 x S booleans.
MAX_SOURCE_TOKENS_PER_PASS = 512


def greedy(logprobs: mx.array) -> mx.array:
    """The likeliest token of each row."""
    return mx.argmax(logprobs, axis=-1)


class StreamingEngine:
    """One stream over one model, as tokens.

    Args:
        model: an mlx-lm model whose ``model_type`` is registered.
        target_start: where the target's positions start.
        sampler: (1, V) log-probabilities to (1,) token ids; greedy by default.
        logits_processors: mlx-lm's, called with the target ids written so far and (1, V) logits.

    Raises:
        UnknownArchitectureError: if the model's type is not registered.
    """

    def __init__(
        self,
        model: Any,
        target_start: TargetStart,
        sampler: Sampler | None = None,
        logits_processors: Iterable[LogitsProcessor] | None = None,
    ) -> None:
        architecture = archs.find(model.model_type)
        self.model = model
        self.caches = architecture.make_cache(model)
        self._ropes = architecture.ropes(model)
        self._vocab_size = getattr(model.args, "vocab_size", None)
        self._max_positions = getattr(model.args, "max_position_embeddings", None)
        self._has_warned = False
        self._sampler = sampler or greedy
        self._logits_processors = tuple(logits_processors or ())
        self._start: int | None = None
        self._target_start = target_start
        self._followable_known = False

    @property
    def source_tokens(self) -> int:
        """Source tokens read."""
        return self.caches[0].source_tokens

    @property
    def target_tokens(self) -> int:
        """Target tokens fed, the header included."""
        return self.caches[0].target_tokens

    @property
    def start(self) -> int | None:
        """φ, once the first target token has been fed."""
        return self._start

    def read(self, token_ids: Sequence[int]) -> None:
        """Feed source tokens, in bounded pieces."""
        self._route(is_reading=True)
        for i in range(0, len(token_ids), MAX_SOURCE_TOKENS_PER_PASS):
            self._forward(token_ids[i : i + MAX_SOURCE_TOKENS_PER_PASS])
            # The logits are never asked for, so the head is never computed.
            mx.eval([cache.state for cache in self.caches])

    def write(self, token_ids: Sequence[int]) -> mx.array:
        """Feed target tokens.

        Returns:
            (1, L, V) logits, row l for the token after ``token_ids[l]``.
        """
        self._place_target()
        self._route(is_reading=False)
        return self._forward(token_ids)

    def predict(self, token_ids: Sequence[int], written: Sequence[int]) -> int:
        """Feed target tokens and draw the next.

        Args:
            token_ids: what to feed.
            written: the target ids so far, header excluded, for logits processors.

        Returns:
            The id drawn.

        Raises:
            ValidationError: if the logits are not numbers.
        """
        logits = self.write(token_ids)[:, -1, :]
        if self._logits_processors:
            tokens = mx.array(list(written), mx.int32)
            for process in self._logits_processors:
                logits = process(tokens, logits)
        total = mx.logsumexp(logits, axis=-1, keepdims=True)
        token = self._sampler(logits - total)
        mx.eval(token, total)
        if not mx.isfinite(total).item():
            raise ValidationError(
                "no token can be drawn: the logits are not finite. The weights are damaged "
                "(mlx-simul validate names the tensor), or overflow in half precision (mlx-simul "
                "convert --dtype float32 rules that out), or a logits processor forbids all tokens."
            )
        return int(token.item())  # pyright: ignore[reportArgumentType]

    def roll_back(self, n_tokens: int) -> None:
        """Forget the newest target tokens, as if they had never been fed."""
        for cache in self.caches:
            cache.trim_target(n_tokens)

    @property
    def state(self) -> list[Any]:
        """All there is to save of this stream, a tuple per layer; assigning it restores it."""
        return [cache.state for cache in self.caches]

    @state.setter
    def state(self, value: Sequence[Any]) -> None:
        if len(value) != len(self.caches):
            raise InvalidOptionError(
                f"a saved state of {len(value)} layers does not fit a model of {len(self.caches)}."
            )
        before = self.state
        try:
            for cache, layer_state in zip(self.caches, value, strict=True):
                cache.state = layer_state
        except InvalidOptionError:
            for cache, layer_state in zip(self.caches, before, strict=True):
                cache.state = layer_state
            raise
        self._start = self.caches[0].target_start if self.target_tokens else None

    def _forward(self, token_ids: Sequence[int]) -> mx.array:
        if self._vocab_size is not None and max(token_ids) >= self._vocab_size:
            # MLX would read whatever lies behind the embeddings.
            raise InvalidOptionError(
                f"token id {max(token_ids)} is beyond the model's {self._vocab_size} embeddings; "
                "the tokenizer, or the TokenizedSource, belongs to another model."
            )
        self._warn_if_beyond_training(self.caches[0].offset + len(token_ids))
        return self.model(mx.array([list(token_ids)], mx.int32), cache=self.caches)

    def _route(self, is_reading: bool) -> None:
        for cache in self.caches:
            cache.is_reading = is_reading

    def _place_target(self) -> None:
        """Let φ be where it should be for the source read so far (SPEC section 1)."""
        if not self._followable_known and self.caches[0].head_dim:
            self._target_start = self._followable(self._target_start)
            self._followable_known = True
        start = self._target_start.position(self.source_tokens, self._start)
        if start == self._start:
            return
        for cache, rope in zip(self.caches, self._ropes, strict=True):
            if rope is None or not cache.target_tokens:
                cache.target_start = start
            else:
                cache.rotate_target(rope, start - cache.target_start)
        self._start = start

    def _followable(self, target_start: TargetStart) -> TargetStart:
        if not isinstance(target_start, FollowStart):
            return target_start
        trained = self._max_positions or 2048
        if all(
            rope is None or rotates_exactly(rope, cache.head_dim, trained)
            for cache, rope in zip(self.caches, self._ropes, strict=True)
        ):
            return target_start
        stay = StayStart()
        warnings.warn(
            "target_start='follow' cannot be exact: this model's RoPE frequencies depend on the "
            f"length, so cached keys cannot be moved. The target stays {stay.margin_tokens} tokens "
            "behind the source of its first word; pass target_start=<position> to choose it.",
            SimulWarning,
            stacklevel=2,
        )
        return stay

    def _warn_if_beyond_training(self, n_positions: int) -> None:
        if self._has_warned or self._max_positions is None:
            return
        if n_positions > self._max_positions:
            self._has_warned = True
            warnings.warn(
                f"this session has reached position {n_positions}, beyond the "
                f"{self._max_positions} the model was trained on (max_position_embeddings); it "
                "goes on, but quality may fall.",
                SimulWarning,
                stacklevel=2,
            )
