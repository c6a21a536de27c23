"""The options of a session, each defined once, here; ``OptionKeywords`` repeats their names.

The library takes them whole (:class:`SessionOptions`) or flat, as keywords. The command line, TOML
and JSON derive from the fields, and help from the docstrings (:mod:`mlx_simul.machine.fields`).
"""

from mlx_simul.options.decoding import MAX_BEAMS, SAMPLING, DecodingOptions
from mlx_simul.options.keywords import OptionKeywords
from mlx_simul.options.limits import (
    DEFAULT_MAX_RATIO,
    MAX_STOPS,
    LimitOptions,
    Stop,
    Stops,
    StopUnit,
)
from mlx_simul.options.placement import Mode, PlacementOptions
from mlx_simul.options.prompt import Frame, Pairs, PromptOptions, Tools
from mlx_simul.options.session import GROUPS, NOT_OPTIONS, SessionOptions
from mlx_simul.options.turn import DEFAULT_MAX_TURN_WORDS, TurnOptions, Turns

__all__ = [
    "DEFAULT_MAX_RATIO",
    "DEFAULT_MAX_TURN_WORDS",
    "GROUPS",
    "MAX_BEAMS",
    "MAX_STOPS",
    "NOT_OPTIONS",
    "SAMPLING",
    "DecodingOptions",
    "Frame",
    "LimitOptions",
    "Mode",
    "OptionKeywords",
    "Pairs",
    "PlacementOptions",
    "PromptOptions",
    "SessionOptions",
    "Stop",
    "StopUnit",
    "Stops",
    "Tools",
    "TurnOptions",
    "Turns",
]
