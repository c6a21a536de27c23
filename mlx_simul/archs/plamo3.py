"""PLaMo 3, whose own caches in mlx-lm forget a token that its masks still show."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import mlx_simul.before_mlx

from mlx_lm.models import plamo3
from mlx_lm.models.cache import RotatingKVCache

from mlx_simul.archs.base import Architecture
from mlx_simul.archs.surgery import Repair, Surgery


class Model(plamo3.Model):
    """mlx-lm's model; a window of n is n tokens back and the token itself, in its caches too."""

    def make_cache(self) -> list[Any]:
        """mlx-lm's caches, those with a window one token longer."""
        return [
            RotatingKVCache(max_size=cache.max_size + 1)
            if isinstance(cache, RotatingKVCache)
            else cache
            for cache in super().make_cache()
        ]


def _lengthen(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    surgery.exchange(model, Model)


ARCHITECTURES = {
    "plamo3": Architecture(
        "plamo3",
        repair=Repair(
            "mlx-lm's caches of layers with a window forget a token that its masks show.", _lengthen
        ),
        rope=attrgetter("mixer.rope"),
        fuses=True,
    )
}
