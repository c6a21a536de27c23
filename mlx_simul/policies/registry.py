"""Policies by name: ``"wait-k:3"`` becomes a policy, and a policy its name.

Other packages add policies through the entry-point group ``mlx_simul.policies``: the name of an
entry point is the policy's name, its value the ``"module:class"`` of a frozen dataclass that
subclasses :class:`~mlx_simul.policies.Policy`.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from typing import Any

from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.plug_ins import imported, with_plug_ins
from mlx_simul.policies.base import Policy

ENTRY_POINT_GROUP = "mlx_simul.policies"

WHOLE = "whole"
"""The policy that reads the whole source first, which is offline translation."""

_BUILT_IN = {
    "wait-k": "wait_k:WaitK",
    "wait-k-catch-up": "wait_k_catch_up:WaitKCatchUp",
    "read-n-write-m": "read_write:ReadNWriteM",
    WHOLE: "whole_source:WholeSource",
    "local-agreement": "local_agreement:LocalAgreement",
    "hold-n": "hold_n:HoldN",
    "align-att": "align_att:AlignAtt",
    "confidence": "confidence:Confidence",
    "wait-token": "wait_token:WaitToken",
}

# Heads are spelled layer-head: 3-1+4-0.
_HEADS = re.compile(r"\d+-\d+(\+\d+-\d+)*", re.ASCII)


def policy_names() -> list[str]:
    """The names of all policies, those of other packages included."""
    return sorted(_known())


def usage(name: str) -> str:
    """How a policy is spelled; options in brackets may be left out."""
    spelled = [
        f.name if f.default is MISSING else f"[{f.name}={_spelled(f.default)}]"
        for f in fields(_kind(name))
    ]
    return f"{name}:{','.join(spelled)}" if spelled else name


def as_policy(policy: Policy | str) -> Policy:
    """The policy that an option gives, as an object or by name.

    Raises:
        InvalidOptionError: if it is neither, or if no policy has that name.
    """
    if isinstance(policy, str):
        return parse_policy(policy)
    if not isinstance(policy, Policy):
        raise InvalidOptionError(
            f"policy must be a name such as 'wait-k:3' or a policy object, got {policy!r}; a "
            "policy of your own subclasses mlx_simul.Policy and defines decide(progress)."
        )
    return policy


def parse_policy(spec: str) -> Policy:
    """The policy that a text names.

    Args:
        spec: a name, then after a colon its options in order, by name, or both:
            ``"wait-k:3"``, ``"local-agreement"``, ``"align-att:2,heads=3-1+4-0"``.

    Raises:
        InvalidOptionError: if there is no such policy, or if it does not take these options.
    """
    _, _, rest = spec.partition(":")
    name = name_in(spec)
    kind = _kind(name)
    positional, named = [], {}
    for option in filter(None, map(str.strip, rest.split(","))):
        key, equals, value = option.partition("=")
        if equals:
            named[key.strip()] = _value(value.strip())
        else:
            positional.append(_value(option))
    try:
        return kind(*positional, **named)
    except TypeError as error:
        raise InvalidOptionError(f"policy {spec!r} is spelled {usage(name)}: {error}.") from error


def name_in(spec: str) -> str:
    """A policy's name without its options: ``wait-k`` in ``wait-k:3``."""
    return spec.partition(":")[0].strip()


def spec_of(policy: Policy) -> str:
    """The shortest text that :func:`parse_policy` turns into this policy.

    Raises:
        InvalidOptionError: if the policy's class is not registered.
    """
    for name in policy_names():
        if type(policy) is not _kind(name):
            continue
        spelled, in_order = [], True
        for f in fields(_kind(name)):
            value = getattr(policy, f.name)
            if value == f.default:
                in_order = False
            else:
                spelled.append(_spelled(value) if in_order else f"{f.name}={_spelled(value)}")
        return f"{name}:{','.join(spelled)}" if spelled else name
    raise InvalidOptionError(
        f"{policy!r} has no name; known are {', '.join(policy_names())}, and other packages add "
        f"theirs through the entry-point group {ENTRY_POINT_GROUP!r}."
    )


def _kind(name: str) -> Any:
    known = _known()
    if name not in known:
        raise InvalidOptionError(
            f"there is no policy {name!r}; known are {', '.join(sorted(known))}. Options follow a "
            "colon, as in wait-k:3 or local-agreement:2."
        )
    return imported(known[name])


def _known() -> dict[str, str]:
    own = {name: f"mlx_simul.policies.{place}" for name, place in _BUILT_IN.items()}
    return with_plug_ins("policy", own, ENTRY_POINT_GROUP)


def _value(text: str) -> Any:
    if text.lower() == "none":
        return None
    if _HEADS.fullmatch(text):
        layers_heads = (pair.split("-") for pair in text.split("+"))
        return tuple((int(layer), int(head)) for layer, head in layers_heads)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _spelled(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(f"{layer}-{head}" for layer, head in value)
    return str(value).lower() if value is None else str(value)
