"""What a checkpoint's config.json says, under ``mlx_simul``, about how it was trained to stream."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from mlx_simul.errors import InvalidOptionError, SimulWarning

CONFIG_KEY = "mlx_simul"
"""The entry of config.json, and of adapter_config.json, that holds it."""


@dataclass(frozen=True)
class StreamingConfig:
    """How a checkpoint was trained to stream; ``None`` where it does not say.

    Attributes:
        mode: in which a session streams it: ``"group"``, ``"reencode"`` or ``"interleaved"``.
        target_start: where its target positions start: a position, ``"follow"`` or ``"auto"``.
        target_starts: the smallest and the largest start that it was trained with.
        wait_k: the latencies that it was trained with, in words; ``"whole"`` for the whole source.
        instruction: what stands in its prefix.
        source_language: what it reads.
        target_language: what it writes.
        frame: of its prompt: ``"chat"``, ``"few-shot"`` or ``"auto"``.
        max_tokens_per_word: tokens after which a target word was cut.
        gpe_compat: whether it was trained like the public reference (SPEC section 5).
        alignment_heads: (layer, head) of the attention heads that follow the source.
        translates: the only two languages that it knows, source first.
        history_pairs: the most finished pairs that may stand before a source: as many as in its
            training, or fewer where they make it translate worse.
        others: entries of other names, which are kept as they are.

    Raises:
        InvalidOptionError: for a value of another kind.
    """

    mode: Literal["auto", "group", "reencode", "interleaved"] | None = None
    target_start: int | str | None = None
    target_starts: tuple[int, ...] | None = None
    wait_k: tuple[int | str, ...] | None = None
    instruction: str | None = None
    source_language: str | None = None
    target_language: str | None = None
    frame: Literal["auto", "chat", "few-shot"] | None = None
    max_tokens_per_word: int | None = None
    gpe_compat: bool | None = None
    alignment_heads: tuple[tuple[int, int], ...] | None = None
    translates: tuple[str, ...] | None = None
    history_pairs: int | None = None
    others: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, (rule, holds) in _RULES.items():
            value = _frozen(getattr(self, name))
            object.__setattr__(self, name, value)
            if value is not None and not holds(value):
                raise InvalidOptionError(
                    f"{CONFIG_KEY}.{name} in config.json must be {rule}, got {value!r}."
                )

    @classmethod
    def from_json(cls, stored: object) -> StreamingConfig:
        """Read the entry of a config.json; nothing at all is an empty one.

        Entries of unknown names are kept, with a warning: a newer version may have written them.

        Raises:
            InvalidOptionError: if it is not an object, or holds a value of another kind.
        """
        if stored is None:
            return cls()
        if not isinstance(stored, Mapping):
            raise InvalidOptionError(
                f"{CONFIG_KEY!r} in config.json must be an object, such as "
                f'{{"target_start": 64}}, got {stored!r}.'
            )
        known = {name: stored[name] for name in _RULES if name in stored}
        others = {name: value for name, value in stored.items() if name not in _RULES}
        if others:
            warnings.warn(
                f"{CONFIG_KEY!r} in config.json has unknown entries, which change nothing: "
                f"{', '.join(sorted(others))}. Known are {', '.join(_RULES)}.",
                SimulWarning,
                stacklevel=2,
            )
        return cls(**known, others=others)

    @classmethod
    def of_checkpoint(cls, config: Mapping[str, Any]) -> StreamingConfig:
        """What a whole config.json, or adapter_config.json, says."""
        return cls.from_json(config.get(CONFIG_KEY))

    def to_json(self) -> dict[str, Any]:
        """The entry of a config.json, without what is not known."""
        return {
            **{
                name: _thawed(value)
                for name in _RULES
                if (value := getattr(self, name)) is not None
            },
            **self.others,
        }

    def __or__(self, other: StreamingConfig) -> StreamingConfig:
        """Both merged, as with dictionaries: where both say something, ``other`` counts."""
        said = {f.name: getattr(self, f.name) for f in fields(self)}
        more = {f.name: getattr(other, f.name) for f in fields(other)}
        said |= {name: value for name, value in more.items() if value is not None}
        return StreamingConfig(**{**said, "others": {**self.others, **other.others}})


def _is_count(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _all(value: object, holds: Callable[[Any], bool], length: int | None = None) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and (bool(value) if length is None else len(value) == length)
        and all(map(holds, value))
    )


_TEXT: tuple[str, Callable[[Any], bool]] = ("a text", lambda value: isinstance(value, str))
_MODES = ("auto", "group", "reencode", "interleaved")
_FRAMES = ("auto", "chat", "few-shot")

_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "mode": (f"one of {', '.join(_MODES)}", lambda value: value in _MODES),
    "target_start": (
        "a position, 'follow' or 'auto'",
        lambda value: value in ("follow", "auto") or _is_count(value),
    ),
    "target_starts": (
        "two positions, the smaller first",
        lambda value: _all(value, _is_count, 2) and value[0] <= value[1],
    ),
    "wait_k": (
        "a list of numbers from 1 on, or 'whole'",
        lambda value: _all(value, lambda k: k == "whole" or _is_count(k, 1)),
    ),
    "instruction": _TEXT,
    "source_language": _TEXT,
    "target_language": _TEXT,
    "frame": (f"one of {', '.join(_FRAMES)}", lambda value: value in _FRAMES),
    "max_tokens_per_word": ("a number from 1 on", lambda value: _is_count(value, 1)),
    "gpe_compat": ("true or false", lambda value: isinstance(value, bool)),
    "alignment_heads": (
        "a list of [layer, head], both from 0 on (`mlx-simul calibrate` writes it)",
        lambda value: _all(value, lambda head: _all(head, _is_count, 2)),
    ),
    "translates": (
        "two languages, [source, target]",
        lambda value: _all(value, lambda name: isinstance(name, str) and bool(name), 2),
    ),
    "history_pairs": ("a number from 0 on", lambda value: _is_count(value)),
}
"""What each entry must be, in words and as a test."""


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _thawed(value: Any) -> Any:
    return [_thawed(part) for part in value] if isinstance(value, tuple) else value
