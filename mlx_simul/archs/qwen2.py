"""Qwen2 and Qwen2.5, with the sliding window that mlx-lm leaves out."""

from __future__ import annotations

from dataclasses import dataclass

import mlx_simul.before_mlx

from mlx_lm.models import qwen2

from mlx_simul.archs.base import Architecture, Windowed


@dataclass
class ModelArgs(qwen2.ModelArgs):
    """mlx-lm's arguments, and which layers have a window (as transformers' Qwen2Config says)."""

    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    max_window_layers: int = 28
    layer_types: list[str] | None = None

    @property
    def layer_windows(self) -> list[int | None]:
        """Per layer, the tokens it may look back on; ``None`` for all."""
        if not self.use_sliding_window:
            return [None] * self.num_hidden_layers
        types = self.layer_types or [
            "sliding_attention" if i >= self.max_window_layers else "full_attention"
            for i in range(self.num_hidden_layers)
        ]
        return [self.sliding_window if t == "sliding_attention" else None for t in types]


class WindowedBlock(Windowed, qwen2.TransformerBlock):
    """A Qwen2 block with a sliding window."""


class Model(qwen2.Model):
    """mlx-lm's Qwen2, windowed where the config says so."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        for i, window in enumerate(args.layer_windows):
            if window is not None:
                self.model.layers[i] = block = WindowedBlock(args)
                block.window = window


QWEN2 = Architecture(
    model_type="qwen2",
    classes=(Model, ModelArgs),
    verified_against="GPE reference, transformers",
)
