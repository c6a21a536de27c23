"""Mistral: mlx-lm's Llama, with the sliding window of v0.1 on every layer."""

from __future__ import annotations

from dataclasses import dataclass

import mlx_simul.before_mlx

from mlx_lm.models import llama

from mlx_simul.archs.base import Architecture, Windowed


@dataclass
class ModelArgs(llama.ModelArgs):
    """mlx-lm's arguments; a window, if any, is on all layers, as in transformers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # mlx-lm's Llama wants a full-attention layer; the windows are put on the blocks instead.
        self.layer_types = ["full_attention"] * self.num_hidden_layers


class WindowedBlock(Windowed, llama.TransformerBlock):
    """A Mistral block with a sliding window."""


class Model(llama.Model):
    """mlx-lm's Llama, windowed where the config says so."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        if args.sliding_window is not None:
            for i in range(args.num_hidden_layers):
                self.model.layers[i] = block = WindowedBlock(args)
                block.window = args.sliding_window


MISTRAL = Architecture(
    model_type="mistral", classes=(Model, ModelArgs), verified_against="transformers"
)
