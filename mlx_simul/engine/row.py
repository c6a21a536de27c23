"""What the modes share that keep all tokens in one row, on a tape of the model's own caches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlx_simul.engine.base import Engine, LogitsProcessor, Sampler
from mlx_simul.engine.shard import make_tape, sharded
from mlx_simul.engine.tape import Mark, TapeState
from mlx_simul.errors import InvalidOptionError
from mlx_simul.policies.base import Head


class RowEngine(Engine):
    """One stream at consecutive positions; any mlx-lm model."""

    def __init__(
        self,
        model: Any,
        sampler: Sampler | None = None,
        logits_processors: Iterable[LogitsProcessor] | None = None,
    ) -> None:
        super().__init__(model, sampler, logits_processors)
        self._tape = make_tape(self.model)
        self._n_source = 0

    def _watch(self, heads: tuple[Head, ...]) -> None:
        if sharded(self.model) is not None:
            raise InvalidOptionError(
                "attention is shown in mode='group' alone by a model that is spread over several "
                "ranks; take that mode, or a policy that needs no attention."
            )
        super()._watch(heads)
        self._tape.model = self.model

    @property
    def n_passes(self) -> int:
        """How often the model has run."""
        return self._tape.n_passes

    @property
    def exact_state(self) -> dict[str, Any]:
        """A state, and where the tape can be wound back to without running the model."""
        return {"state": self.state, "recent": self._tape.recent}

    @exact_state.setter
    def exact_state(self, value: Mapping[str, Any]) -> None:
        self.state = value["state"]
        self._tape.recent = value["recent"]

    @property
    def state_kinds(self) -> tuple[type, ...]:
        """The classes of the tape's marks, and of the model's own caches."""
        return (TapeState, Mark, *self._tape.cache_kinds)

    @property
    def takes_drafts(self) -> bool:
        """Whether rolling back costs no pass."""
        return self._tape.can_drop

    @property
    def source_tokens(self) -> int:
        """Source tokens read."""
        return self._n_source
