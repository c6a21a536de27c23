"""Where tokens stand, and how they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.fields import require_count
from mlx_simul.options.base import option

if TYPE_CHECKING:
    from mlx_simul.cache.positions import TargetStart

Mode: TypeAlias = Literal["auto", "group", "reencode", "interleaved"]


@dataclass(frozen=True)
class PlacementOptions:
    """Memory: where tokens stand, and how they are stored.

    Attributes:
        mode: "group" keeps source and target apart (SPEC section 1), "reencode" runs the target
            again after each read, "interleaved" takes tokens in order of arrival; "auto" is the
            mode that the checkpoint was trained in, else the best that its architecture supports.
        target_start: where target positions start: a position, or "follow" (just behind the
            source); "auto" is as the checkpoint was trained, else "follow".
        kv_bits: bits in which each key and value is stored, in mode "group".
        kv_group_size: with kv_bits, how many numbers share one scale.
    """

    mode: Mode = "auto"
    target_start: int | str | TargetStart = option("auto", metavar="auto|follow|N", plain=int | str)
    kv_bits: int | None = option(None, metavar="N")
    kv_group_size: int = option(64, metavar="N")

    def __post_init__(self) -> None:
        start = self.target_start
        if isinstance(start, str) and start not in ("auto", "follow"):
            raise InvalidOptionError(
                f'target_start must be "auto", "follow" or a position, got {start!r}.'
            )
        if isinstance(start, int):
            require_count("target_start", start, least=0)
