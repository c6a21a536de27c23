"""A tiny configuration for each way that changes what a family computes; a module a kind of family.

Each module holds ``CONFIGS``, from model type and variation to what differs from
:data:`tiny_configs.base.TINY`. Three more, for comparing the logits with transformers', go by model
type, the first two by ``"type-variation"`` as well; a module may do without them: ``NOT_COMPARED``,
why they are not compared; ``TRANSFORMERS``, entries that transformers needs on top; ``WEIGHTS``,
from a part of the names of its weights to all that mlx-lm has in that place.
"""

from copy import deepcopy
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from tiny_configs.base import TINY

_MODULES = [
    import_module(f"{__name__}.{found.name}")
    for found in iter_modules(__path__)
    if found.name != "base"
]


def _merged(name: str) -> dict[str, Any]:
    """The modules' dictionaries of this name as one; a model type has one home."""
    merged: dict[str, Any] = {}
    for module in _MODULES:
        own = vars(module).get(name, {})
        if twice := merged.keys() & own.keys():
            raise ValueError(f"{module.__name__}.{name} repeats {sorted(twice)}.")
        merged |= own
    return merged


CONFIGS: dict[str, dict[str, dict[str, Any]]] = _merged("CONFIGS")
TRANSFORMERS: dict[str, dict[str, Any]] = _merged("TRANSFORMERS")
WEIGHTS: dict[str, dict[str, tuple[str, ...]]] = _merged("WEIGHTS")
NOT_COMPARED: dict[str, str] = _merged("NOT_COMPARED")


def full_config(model_type: str, name: str) -> dict[str, Any]:
    """The whole config.json of a variation."""
    # Some of mlx-lm's arguments write into a nested text_config.
    return deepcopy({"model_type": model_type, **TINY, **CONFIGS[model_type][name]})
