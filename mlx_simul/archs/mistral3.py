"""Mistral 3, a wrapper: its text side is a Llama, a Ministral 3 or a Mistral 4."""

from __future__ import annotations

from typing import Any

from mlx_simul import archs
from mlx_simul.archs.base import TEMPERATURE, Architecture, KVBits
from mlx_simul.cache.positions import Rope


class Mistral3(Architecture):
    """Streams as its text side does."""

    def make_cache(self, model: Any, kv: KVBits | None = None) -> list[Any]:
        """Empty caches for the text side."""
        return _text_side(model).make_cache(model, kv)

    def ropes(self, model: Any) -> list[Rope | None]:
        """The RoPE module of each layer of the text side."""
        return _text_side(model).ropes(model)

    def fuses_in(self, model: Any) -> bool:
        """Whether one pass can feed both groups of the text side."""
        return _text_side(model).fuses_in(model)


def _text_side(model: Any) -> Architecture:
    return archs.find(model.args.text_config["model_type"])


ARCHITECTURES = {"mistral3": Mistral3("mistral3", positions_absolute_because=TEMPERATURE)}
