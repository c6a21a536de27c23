"""Simultaneous generation with MLX: a language model that answers while its input arrives.

Names are imported on first use, so that what knows no arrays never loads MLX.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

__version__ = version("mlx-simul")

_HOMES = {
    "cache": ["DualStreamingCache", "SourceTargetCache"],
    "errors": [
        "CacheStateError",
        "ConversionError",
        "InvalidOptionError",
        "ModelLoadError",
        "PromptError",
        "SessionClosedError",
        "SimulError",
        "SimulWarning",
        "UnknownArchitectureError",
        "ValidationError",
    ],
    "events": ["Event", "Finished", "Read", "Write"],
    "generate": ["astream_generate", "stream_generate"],
    "loading": ["load"],
    "masks": ["create_streaming_attention_mask"],
    "policies": ["Action", "Policy", "WaitK", "calculate_wait_words"],
    "positions": ["FixedStart", "FollowStart", "StayStart"],
    "prompts": ["StreamingDataPreparator", "TokenizedSource"],
    "segmenter": ["SourceSegmenter"],
    "session": ["SimulSession"],
    "state": ["StreamingState"],
    "words": [
        "EOSStoppingCriteria",
        "MaxLengthStoppingCriteria",
        "WordBoundaryStoppingCriteria",
    ],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'mlx_simul' has no attribute {name!r}")
    return getattr(import_module(f"mlx_simul.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
