"""All options of a session, whole or by flat names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.fields import plain_fields, value_of
from mlx_simul.options.base import option
from mlx_simul.options.decoding import DecodingOptions
from mlx_simul.options.limits import LimitOptions
from mlx_simul.options.placement import PlacementOptions
from mlx_simul.options.prompt import PromptOptions
from mlx_simul.options.turn import TurnOptions

if TYPE_CHECKING:
    from mlx_simul.policies import Policy

NOT_OPTIONS = {
    "max_kv_size": "a cache of fixed size would forget source that is still to be translated; "
    "a stream with turns (turns='sentence') holds one sentence at a time, and kv_bits stores each "
    "token in less memory",
    "prefill_step_size": "a source is encoded while it arrives, in pieces of fixed size; leave it "
    "out",
    "quantized_kv_start": "with kv_bits all keys and values are quantised from the first token "
    "on; leave it out",
    "prompt_cache": "give prefix=, from SimulSession.encode_prefix()",
    "draft_model": "give draft=(model, tokenizer), as load gives them",
}
"""Arguments of mlx-lm's generate that are not options of a session: why, or what to give."""


@dataclass(frozen=True)
class SessionOptions:
    """All options of a session, in groups.

    Attributes:
        policy: when to read and when to write: an object, or a name such as "wait-k:3".
        prompt: what to do.
        turn: where a stream is cut into turns.
        limits: where the target is cut off.
        decoding: how a token is chosen.
        placement: where tokens stand.
    """

    policy: Policy | str = option("wait-k:3", metavar="NAME[:OPTIONS]", plain=str)
    prompt: PromptOptions = PromptOptions()
    turn: TurnOptions = TurnOptions()
    limits: LimitOptions = LimitOptions()
    decoding: DecodingOptions = DecodingOptions()
    placement: PlacementOptions = PlacementOptions()

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "policy" and type(value) is not type(item.default):
                raise InvalidOptionError(
                    f"{item.name} is a group of options, {type(item.default).__name__}(...), got "
                    f"{value!r}; its options may be given by their own names, too."
                )

    @classmethod
    def of(cls, options: SessionOptions | None = None, /, **flat: Any) -> SessionOptions:
        """Options with some of them replaced, by their flat names.

        Args:
            options: what stays; the defaults if there are none.
            **flat: ``target_language="French"``, and so on; the names of all groups differ. A group
                may be given whole, too: ``limits=LimitOptions(max_words=9)``.

        Raises:
            InvalidOptionError: for an unknown name, or a value outside its range.
        """
        made, known = cls() if options is None else options, _group_of()
        if not isinstance(made, cls):
            raise InvalidOptionError(
                f"options must be a SessionOptions, got {made!r}; give single ones by name, as in "
                "target_language='French'."
            )
        if foreign := flat.keys() & NOT_OPTIONS.keys():
            name = min(foreign)
            raise InvalidOptionError(f"{name}, an argument of mlx-lm's: {NOT_OPTIONS[name]}.")
        if unknown := flat.keys() - known.keys() - GROUPS:
            raise InvalidOptionError(
                f"unknown option {min(unknown)!r}; known are {', '.join(sorted(known))}."
            )
        changed = {name: value for name, value in flat.items() if name in GROUPS}
        by_group: dict[str, dict[str, Any]] = {}
        for name, value in flat.items():
            if name not in GROUPS:
                by_group.setdefault(known[name], {})[name] = value
        changed |= by_group.pop("", {})
        for group, values in by_group.items():
            if "messages" in values:
                # They take the place of what an earlier instruction and earlier pairs said.
                values = {"instruction": None, "pairs": ()} | values
            changed[group] = replace(changed.get(group, getattr(made, group)), **values)
        return replace(made, **changed)

    @classmethod
    def from_plain(
        cls, table: Mapping[str, Any], options: SessionOptions | None = None
    ) -> SessionOptions:
        """Options from plain values, as JSON and TOML have them, flat or in a table for each group.

        Args:
            table: ``{"target_language": "French", "limits": {"max_words": 9}}``.
            options: what stays; the defaults if there are none.

        Raises:
            InvalidOptionError: for an unknown name, or a value of another type or outside its
                range.
        """
        known, kinds = _group_of(), _kinds()
        values: dict[str, Any] = {}
        for name, value in table.items():
            if name in GROUPS and isinstance(value, Mapping):
                values |= {key: (name, key, given) for key, given in value.items()}
            else:
                values[name] = (known.get(name, ""), name, value)
        made = {}
        for name, (group, key, value) in values.items():
            items = {item.name: item for item in plain_fields(kinds[group])}
            if key not in items:
                names = sorted(n for kind in kinds.values() for n in _names(kind))
                raise InvalidOptionError(f"unknown option {name!r}; known are {', '.join(names)}.")
            made[name] = value_of(kinds[group], items[key], value, name)
        return cls.of(options, **made)

    def flat(self) -> Mapping[str, Any]:
        """All options by their flat names."""
        return MappingProxyType(
            {
                name: getattr(getattr(self, group) if group else self, name)
                for name, group in _group_of().items()
            }
        )


def _kinds() -> dict[str, type]:
    """The dataclass of each group, and that of what is in none."""
    groups = {item.name: type(item.default) for item in fields(SessionOptions)}
    return {"": SessionOptions} | {name: groups[name] for name in GROUPS}


def _names(kind: type) -> list[str]:
    return [item.name for item in plain_fields(kind) if item.name not in GROUPS]


GROUPS = frozenset(item.name for item in fields(SessionOptions) if item.name != "policy")


@cache
def _group_of() -> Mapping[str, str]:
    """The group of each option; the policy has none."""
    kinds = _kinds()
    grouped = ((item.name, group) for group in GROUPS for item in fields(kinds[group]))
    return {"policy": "", **dict(grouped)}
