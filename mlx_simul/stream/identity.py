"""Options as a file of a stream holds them: what it belongs to, and what has changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.fields import as_table
from mlx_simul.options import SessionOptions
from mlx_simul.policies import as_policy, spec_of


def identity_of(options: SessionOptions) -> dict[str, Any]:
    """Options as plain values, as far as they decide what a stream writes."""
    policy = as_policy(options.policy)
    try:
        spelled = spec_of(policy)
    except InvalidOptionError:
        # An address in memory would tell every process apart.
        is_shown = type(policy).__repr__ is not object.__repr__
        spelled = repr(policy) if is_shown else f"a {type(policy).__qualname__}"
    table = as_table(SessionOptions.of(options, policy=spelled, draft=None))
    # What is said of a token decides none.
    del table["decoding"]["logprobs"]
    if options.decoding.num_beams == 1:
        # Files from before there were beams name neither.
        del table["decoding"]["num_beams"], table["decoding"]["length_penalty"]
    # A day, or where the target starts, may be an object.
    plain = json.loads(json.dumps(table, default=repr))
    pairs = {
        name: [list(pair) for pair in value]
        for name, value in (
            ("pairs", options.prompt.pairs),
            ("examples", options.prompt.examples or ()),
        )
        if value
    }
    tools = {"tools": [*options.prompt.tools]} if options.prompt.tools else {}
    return plain | pairs | tools


def difference(
    held: Mapping[str, Any], wanted: Mapping[str, Any]
) -> tuple[str, object, object] | None:
    """The first entry in which two identities differ, by its name; None if they are the same.

    Args:
        held: plain values, as a file has them.
        wanted: the same of the stream that is to use the file.
    """
    flat_held, flat_wanted = _flat(held), _flat(json.loads(json.dumps(wanted)))
    for name in sorted(flat_held.keys() | flat_wanted.keys()):
        if flat_held.get(name) != flat_wanted.get(name):
            return name, flat_held.get(name), flat_wanted.get(name)
    return None


def changes_since(first: SessionOptions, options: SessionOptions) -> dict[str, Any]:
    """Options that are not what they were, as :func:`changed_options` gives them.

    Raises:
        InvalidOptionError: if the policy is among them and has no name.
    """
    before, now = first.flat(), options.flat()
    # The day is not an option that changes, but what it stands for may have been filled in.
    return changed_options(options, [n for n in now if n != "date" and now[n] != before[n]])


def changed_options(options: SessionOptions, names: Iterable[str]) -> dict[str, Any]:
    """Options that have changed, as JSON that ``SessionOptions.of`` takes by name.

    Raises:
        InvalidOptionError: if the policy is among them and has no name.
    """
    values = {name: options.flat()[name] for name in names}
    if "messages" in values:
        # They have become an instruction and pairs.
        del values["messages"]
        values |= {"instruction": options.prompt.instruction, "pairs": options.prompt.pairs}
    if "policy" in values:
        values["policy"] = spec_of(as_policy(options.policy))
    if values.get("glossary"):
        values["glossary"] = dict(values["glossary"])
    return values


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping) and name != "glossary":
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
