"""How each model family streams: a registry, declarations, and repairs of mlx-lm's models."""

from mlx_simul.archs.registry import (
    BUILT_IN,
    ENTRY_POINT_GROUP,
    LEFT_OUT,
    find,
    is_registered,
    of,
    register,
    registered_types,
    remapped_types,
    streaming_config,
    verified,
    verified_with,
)

__all__ = [
    "BUILT_IN",
    "ENTRY_POINT_GROUP",
    "LEFT_OUT",
    "find",
    "is_registered",
    "of",
    "register",
    "registered_types",
    "remapped_types",
    "streaming_config",
    "verified",
    "verified_with",
]
