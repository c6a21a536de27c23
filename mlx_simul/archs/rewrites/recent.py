"""Families that mlx-lm 0.31, the last for Python 3.10, does not have yet.

They have a module of their own, so that the others can be imported with that release as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx_simul.before_mlx

from mlx_lm.models import plamo3
from mlx_lm.models.cache import RotatingKVCache

from mlx_simul.archs.surgery import Repair, Surgery


class PLaMo3(plamo3.Model):
    """mlx-lm's PLaMo 3; a window of n is n tokens back and the token itself, in its caches too."""

    def make_cache(self) -> list[Any]:
        """mlx-lm's caches, those with a window one token longer."""
        return [
            RotatingKVCache(max_size=cache.max_size + 1)
            if isinstance(cache, RotatingKVCache)
            else cache
            for cache in super().make_cache()
        ]


def _lengthen(surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
    surgery.exchange(model, PLaMo3)


REPAIRS = {
    "plamo3": Repair(
        "mlx-lm's caches of layers with a window forget a token that its masks show.", _lengthen
    )
}
