"""Adapters as Hugging Face's PEFT writes them, put on a model as mlx-lm's layers.

Shapes: A is (r, in), B (out, r) in PEFT's files; mlx-lm multiplies rows, so that its ``lora_a`` is
(in, r) and its ``lora_b`` (r, out). Of an embedding A is (r, vocabulary) and B (width, r).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear

from mlx_simul.errors import ModelLoadError

WEIGHTS = "adapter_model.safetensors"

_UNDERSTOOD = {
    *("peft_type", "r", "lora_alpha", "alpha_pattern", "use_rslora", "use_dora", "bias"),
    "init_lora_weights",
}
_WITHOUT_EFFECT = {
    # What the files hold says which modules are meant, and of what rank.
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("rank_pattern", "modules_to_save", "fan_in_fan_out"),
    # Only training, or how PEFT runs it.
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "lora_dropout", "megatron_config", "megatron_core", "loftq_config"),
    *("eva_config", "corda_config", "lora_ga_config", "velora_config", "runtime_config"),
    *("qalora_group_size", "ensure_weight_tying"),
}
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal", None)
"""Ways to initialise A and B that leave the model's own weights as they were."""

_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|"
    r"lora_magnitude_vector)(\.\w+)*"
)
_WHOLE = re.compile(
    r"(?P<module>.+?)(?P<of_base>\.base_layer)?(\.modules_to_save(\.\w+)?)?\.(?P<part>weight|bias)"
)
Parts = dict[str, dict[str, mx.array]]
"""Arrays by transformers' name for the module, and by their own name in it."""

_LINEAR = (nn.Linear, nn.QuantizedLinear)
_EMBEDDING = (nn.Embedding, nn.QuantizedEmbedding)


class _UntiedLoRAEmbedding(LoRAEmbedding):
    """Adapts what is read, and leaves an output head that is tied to it alone, as PEFT does."""

    def as_linear(self, x: mx.array) -> mx.array:
        return self.embedding.as_linear(x)


def is_peft(config: Mapping[str, Any]) -> bool:
    """Whether an adapter_config.json is PEFT's."""
    return "peft_type" in config


def apply(model: nn.Module, folder: Path, config: Mapping[str, Any]) -> None:
    """Put PEFT's LoRA or DoRA adapters on a model, which is changed in place.

    Each adapted layer computes W + scale * B A; with DoRA its rows then get the norms of the
    adapters' magnitude vector (Liu et al. 2024, arXiv 2402.09353).

    Args:
        model: As mlx-lm has it, quantised or not.
        folder: With adapter_model.safetensors.
        config: Its adapter_config.json.

    Raises:
        ModelLoadError: naming what cannot be converted, or does not fit the model.
    """
    _refuse_options(folder, config)
    adapters, base, whole = _read(folder)
    modules: dict[str, Any] = {name: module for name, module in model.named_modules() if name}
    new: dict[str, Any] = {}
    for name, parts in base.items():
        path = _find(name, modules, folder)
        modules[path] = new[path] = _replaced(name, modules[path], parts)
    for name, parts in adapters.items():
        path = _find(name, modules, folder)
        scale = _scale(name, parts, config, folder)
        new[path] = _adapted(name, modules[path], parts, scale)
    for name, parts in whole.items():
        path = _find(name, modules, folder)
        _refuse_tied(path, modules)
        new[path] = _replaced(name, new.get(path, modules[path]), parts)
    model.update_modules(tree_unflatten(list(new.items())))


def _refuse_options(folder: Path, config: Mapping[str, Any]) -> None:
    if config["peft_type"] != "LORA":
        raise ModelLoadError(
            f"{folder} holds a PEFT adapter of type {config['peft_type']!r}; only LORA (with or "
            "without DoRA) can be converted. Merge it into the model with PEFT's "
            "merge_and_unload() and save_pretrained(), and load that folder."
        )
    for name, value in config.items():
        if value and name not in _UNDERSTOOD | _WITHOUT_EFFECT:
            raise ModelLoadError(
                f"{folder}: the PEFT adapter has {name}={value!r}, which cannot be converted. "
                "Merge it into the model with PEFT's merge_and_unload() and save_pretrained(), and "
                "load that folder."
            )
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise ModelLoadError(
            f"{folder}: the PEFT adapter has init_lora_weights={start!r}, which changes the "
            "weights of the model itself. Save it in PEFT with "
            "path_initial_model_for_weight_conversion, or merge it."
        )


def _read(folder: Path) -> tuple[Parts, Parts, Parts]:
    """What the file holds: parts of adapters, weights under adapters, and weights of whole layers.

    PEFT saves the weights under an adapter where it adapts embeddings, or has trained biases.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelLoadError(
            f"{path} is missing. adapter_model.bin is a pickle, which can run code and is never "
            "read: save the adapter as safetensors, with PEFT's save_pretrained()."
        )
    weights: dict[str, mx.array] = dict(mx.load(str(path)))  # pyright: ignore
    adapters: Parts = {}
    base: Parts = {}
    whole: Parts = {}
    for name, weight in weights.items():
        short = name.removeprefix("base_model.model.")
        found, home = _PART.fullmatch(short), adapters
        if found is None:
            found = _WHOLE.fullmatch(short)
            home = base if found and found["of_base"] else whole
        # B of lora_bias=True and what other methods have ends like a weight, but is not one.
        if found is None or "lora_" in found["module"] or short.endswith("lora_B.bias"):
            raise ModelLoadError(f"{name} in {path} cannot be converted for mlx-lm.")
        if not mx.issubdtype(weight.dtype, mx.floating):
            raise ModelLoadError(
                f"{name} in {path} holds {weight.dtype}, which is not a type for weights."
            )
        home.setdefault(found["module"], {})[found["part"]] = weight
    if not weights:
        raise ModelLoadError(f"{path} holds no adapters. Save them again, or fetch the file again.")
    return adapters, base, whole


def _find(name: str, modules: Mapping[str, nn.Module], folder: Path) -> str:
    """The path in mlx-lm's model of a module that transformers names.

    Wrappers of several modalities have their text model elsewhere; from the layers on the names
    are the same.
    """
    if name in modules:
        return name
    layer = re.search(r"\w+\.\d+\..*", name)
    tail = "." + (layer[0] if layer else name.rsplit(".", 1)[-1])
    found = [path for path in modules if f".{path}".endswith(tail)]
    if len(found) == 1 and ("vision" not in name and "visual" not in name):
        return found[0]
    raise ModelLoadError(
        f"the adapter in {folder} has weights for {name!r}, and mlx-lm's model has "
        + (f"{len(found)} such layers" if found else "no such layer")
        + ". The adapter belongs to another model, or to a part that mlx-lm arranges otherwise "
        "(experts, say): merge it with PEFT's merge_and_unload(), and load that model."
    )


def _scale(
    name: str, parts: Mapping[str, mx.array], config: Mapping[str, Any], folder: Path
) -> float:
    a = parts.get("lora_A", parts.get("lora_embedding_A"))
    if a is None or len(parts) < 2:
        raise ModelLoadError(
            f"the adapter in {folder} holds {', '.join(sorted(parts))} alone for {name!r}; A and B "
            "belong together. Fetch it again."
        )
    rank = a.shape[0]
    patterns = config.get("alpha_pattern") or {}
    # PEFT takes the first pattern that matches the end of the name.
    hit = next((key for key in patterns if re.match(rf"(.*\.)?({key})$", name)), None)
    alpha = config.get("lora_alpha", 8) if hit is None else patterns[hit]
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _adapted(name: str, module: Any, parts: Mapping[str, mx.array], scale: float) -> nn.Module:
    adapted: Any
    magnitude = parts.get("lora_magnitude_vector")
    if isinstance(module, _EMBEDDING) and "lora_embedding_B" in parts:
        if magnitude is not None:
            raise ModelLoadError(
                f"the adapter has DoRA on the embedding {name!r}, where mlx-lm's DoRA computes "
                "something else. Merge it with PEFT's merge_and_unload(), and load that model."
            )
        a, b, kind = parts["lora_embedding_A"], parts["lora_embedding_B"], _UntiedLoRAEmbedding
        size = (module.weight.shape[0], _width(module))
        adapted = kind(*size, r=a.shape[0], scale=scale)
        adapted.embedding = module
    elif isinstance(module, _LINEAR) and "lora_B" in parts:
        a, b = parts["lora_A"], parts["lora_B"]
        size = (_width(module), module.weight.shape[0])
        kind = LoRALinear if magnitude is None else DoRALinear
        adapted = kind(*size, r=a.shape[0], scale=scale)
        if magnitude is None:
            adapted.linear = module
        else:
            adapted.set_linear(module)
            adapted.m = _fitting(name, magnitude.reshape(-1), (size[1],))
    else:
        raise ModelLoadError(
            f"the adapter has {', '.join(sorted(parts))} for {name!r}, which is a "
            f"{type(module).__name__} in mlx-lm and cannot take it. Merge it with PEFT's "
            "merge_and_unload(), and load that model."
        )
    adapted.lora_a = _fitting(name, a.T, (size[0], a.shape[0]))
    adapted.lora_b = _fitting(name, b.T, (a.shape[0], size[1]))
    return adapted


def _fitting(name: str, weight: mx.array, shape: tuple[int, ...]) -> mx.array:
    if weight.shape != shape:
        raise ModelLoadError(
            f"the adapter for {name!r} has the shape {weight.shape}, but the model needs {shape}. "
            "The adapter belongs to another model."
        )
    return weight


def _width(module: Any) -> int:
    """Inputs of a linear layer, or the width of an embedding, packed or not."""
    packed = isinstance(module, (nn.QuantizedLinear, nn.QuantizedEmbedding))
    return module.weight.shape[1] * 32 // module.bits if packed else module.weight.shape[1]


def _refuse_tied(path: str, modules: Mapping[str, nn.Module]) -> None:
    """Refuse embeddings that would change an output head, which PEFT leaves alone."""
    heads = ("lm_head", "output", "embed_out")
    is_tied = not any(name.rsplit(".", 1)[-1] in heads for name in modules)
    if is_tied and isinstance(modules[path], _EMBEDDING):
        raise ModelLoadError(
            f"the adapter replaces the embeddings {path!r}, to which this model's output head is "
            "tied; PEFT would keep the old head beside them. Merge the adapter with PEFT's "
            "merge_and_unload(), and load that model."
        )


def _replaced(name: str, module: nn.Module, parts: Mapping[str, mx.array]) -> nn.Module:
    """A layer with other weights of its own (``modules_to_save``, or trained biases)."""
    adapted = module
    layer: Any = getattr(module, "linear", getattr(module, "embedding", module))
    weight, bias = parts.get("weight"), parts.get("bias")
    if bias is not None:
        if "bias" not in layer:
            raise ModelLoadError(
                f"the adapter has a bias for {name!r}, and mlx-lm's layer has none. The adapter "
                "belongs to another model."
            )
        layer.bias = _fitting(name, bias, layer.bias.shape)
    if weight is None:
        return adapted
    if isinstance(layer, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
        shape = (layer.weight.shape[0], _width(layer))
        full: Any = (nn.Linear if isinstance(layer, nn.QuantizedLinear) else nn.Embedding)(1, 1)
        full.pop("bias", None)
        if "bias" in layer:
            full.bias = layer.bias
        full.weight = _fitting(name, weight, shape)
        if adapted is not layer:
            raise ModelLoadError(
                f"the adapter both replaces and adapts {name!r}; merge it in PEFT."
            )
        return full
    if "weight" not in layer:
        raise ModelLoadError(
            f"the adapter has weights for {name!r}, which is a {type(layer).__name__} in mlx-lm "
            "and has none. Merge the adapter with PEFT's merge_and_unload(), and load that model."
        )
    layer.weight = _fitting(name, weight, layer.weight.shape)
    return adapted
