"""What a policy needs, met by one model and its tokenizer."""

from __future__ import annotations

from typing import Any, NamedTuple

from mlx_simul import archs
from mlx_simul.engine import Engine
from mlx_simul.errors import InvalidOptionError
from mlx_simul.policies import Policy
from mlx_simul.policies.base import Head


class MetNeeds(NamedTuple):
    """What a :class:`~mlx_simul.loop.loop.SimulLoop` has to know.

    Attributes:
        heads: the heads whose attention the policy is shown.
        wait_ids: tokens by which the model says that it wants to read.
    """

    heads: tuple[Head, ...] = ()
    wait_ids: tuple[int, ...] = ()


def meet_needs(policy: Policy, engine: Engine, tokenizer: Any) -> MetNeeds:
    """Find what a policy needs and let the engine provide it.

    Args:
        policy: any.
        engine: of the stream; it runs on a copy of its model that shows the attention needed.
        tokenizer: of the model.

    Raises:
        InvalidOptionError: if something cannot be had.
    """
    needs = policy.needs
    heads: tuple[Head, ...] = ()
    if needs.attention:
        heads = needs.heads or calibrated_heads(engine.model)
        engine.watch(heads)
    token = needs.wait_token
    return MetNeeds(heads, () if token is None else (_id_of(token, tokenizer),))


def calibrated_heads(model: Any) -> tuple[Head, ...]:
    """The heads that a checkpoint was calibrated with.

    Raises:
        InvalidOptionError: if it was not.
    """
    stored = archs.streaming_config(model).alignment_heads
    if stored is None:
        raise InvalidOptionError(
            "--attention and policies such as align-att follow attention heads, and the checkpoint "
            "does not say which: run `mlx-simul calibrate` on it once, or name them, as in "
            "align-att:1,heads=3-1+4-0 (layer-head, from 0)."
        )
    return stored


def _id_of(token: str, tokenizer: Any) -> int:
    known = tokenizer.get_vocab()
    if token not in known:
        raise InvalidOptionError(
            f"the tokenizer has no token {token!r} to wait by; wait-token is for checkpoints that "
            "were trained to emit one, spelled as in wait-token:<WAIT>."
        )
    return known[token]
