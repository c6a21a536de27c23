"""What every mode of streaming shares: which tokens may be fed, and how the next one is drawn.

Shape legend: L new tokens, V vocabulary. A session is one row (B = 1).
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

import mlx_simul.before_mlx

import mlx.core as mx

from mlx_simul import archs
from mlx_simul.archs.base import max_positions_of, vocab_size_of
from mlx_simul.errors import InvalidOptionError, SimulWarning, ValidationError

Sampler: TypeAlias = Callable[[mx.array], mx.array]
LogitsProcessor: TypeAlias = Callable[[mx.array, mx.array], mx.array]

State = TypeVar("State")

# Bounds the mask of one source pass: 512 x S booleans.
MAX_SOURCE_TOKENS_PER_PASS = 512


def greedy(logprobs: mx.array) -> mx.array:
    """The likeliest token of each row."""
    return mx.argmax(logprobs, axis=-1)


class Engine(ABC):
    """One stream over one model, as tokens.

    Args:
        model: an mlx-lm model.
        sampler: (1, V) log-probabilities to (1,) token ids; greedy by default.
        logits_processors: mlx-lm's, called with the target ids written so far and (1, V) logits.
    """

    def __init__(
        self,
        model: Any,
        sampler: Sampler | None = None,
        logits_processors: Iterable[LogitsProcessor] | None = None,
    ) -> None:
        self.model = model
        self._vocab_size = vocab_size_of(model)
        self._max_positions = max_positions_of(model)
        self._positions_end = archs.of(model).positions_end
        self._has_warned = False
        self._sampler = sampler or greedy
        self._logits_processors = tuple(logits_processors or ())

    @property
    @abstractmethod
    def source_tokens(self) -> int:
        """Source tokens read."""

    @property
    @abstractmethod
    def target_tokens(self) -> int:
        """Target tokens fed, the header included."""

    @abstractmethod
    def read(self, token_ids: Sequence[int]) -> None:
        """Feed source tokens, in bounded pieces."""

    @abstractmethod
    def write(self, token_ids: Sequence[int]) -> mx.array:
        """Feed target tokens.

        Returns:
            (1, L, V) logits, row l for the token after ``token_ids[l]``.
        """

    @abstractmethod
    def roll_back(self, n_tokens: int) -> None:
        """Forget the newest target tokens, as if they had never been fed."""

    @property
    @abstractmethod
    def state(self) -> Any:
        """All there is to save of this stream; assigning it restores it."""

    @state.setter
    @abstractmethod
    def state(self, value: Any) -> None: ...

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

    def _check(self, token_ids: Sequence[int], first_position: int) -> None:
        """Refuse what the model has no embedding for; warn beyond its trained length."""
        if self._vocab_size is not None and max(token_ids) >= self._vocab_size:
            # MLX would read whatever lies behind the embeddings.
            raise InvalidOptionError(
                f"token id {max(token_ids)} is beyond the model's {self._vocab_size} embeddings; "
                "the tokenizer, or the TokenizedSource, belongs to another model."
            )
        n_positions = first_position + len(token_ids)
        if self._has_warned or self._max_positions is None or n_positions <= self._max_positions:
            return
        if self._positions_end:
            raise InvalidOptionError(
                f"position {n_positions} is beyond the {self._max_positions} that this model has "
                "embeddings for; begin a new session, or let target_start be smaller."
            )
        self._has_warned = True
        warnings.warn(
            f"this session has reached position {n_positions}, beyond the "
            f"{self._max_positions} the model was trained on (max_position_embeddings); it "
            "goes on, but quality may fall.",
            SimulWarning,
            stacklevel=2,
        )


def state_of(value: Any, kind: type[State]) -> State:
    """A saved state, if it is of this kind.

    Raises:
        InvalidOptionError: if it is not.
    """
    if not isinstance(value, kind):
        raise InvalidOptionError(
            f"a {kind.__name__} is needed to restore this stream, got a {type(value).__name__}; it "
            "was saved in another mode."
        )
    return value


def pieces(token_ids: Sequence[int]) -> Iterable[Sequence[int]]:
    """Source tokens in pieces of bounded size."""
    size = MAX_SOURCE_TOKENS_PER_PASS
    return (token_ids[i : i + size] for i in range(0, len(token_ids), size))
