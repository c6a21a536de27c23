"""Options as a journal writes them: in its first line, and when they change."""

from __future__ import annotations

import json
from collections.abc import Iterable
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
        spelled = repr(policy)
    table = as_table(SessionOptions.of(options, policy=spelled, draft=None))
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
    return plain | pairs


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
