"""The processes that ``mlx.launch`` started for one job: each does a share and hears the others.

All of them call the same methods in the same order; where there is one process, nothing is sent.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
from mlx.nn.utils import average_gradients
from mlx.utils import tree_flatten

from mlx_simul.errors import InvalidOptionError, RanksError

_Item = TypeVar("_Item")

_LENGTH_BYTES = 8
_SHORT_BYTES = 248


class Peers:
    """One process of a group, and its way to the others.

    Args:
        group: from ``mx.distributed.init()``; None is this process alone.

    Attributes:
        rank: of this process, from 0.
        size: how many processes there are.
    """

    def __init__(self, group: mx.distributed.Group | None = None) -> None:
        self._group = group
        self.rank = group.rank() if group else 0
        self.size = group.size() if group else 1

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone writes results and prints."""
        return self.rank == 0

    def share(self, items: Sequence[_Item]) -> Sequence[_Item]:
        """Every ``size``-th item, so that neighbours of like length go to different ranks."""
        return items[self.rank :: self.size]

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order; returns when all ranks have given theirs.

        Args:
            value: what :mod:`json` can write; it arrives as JSON has it.

        Raises:
            RanksError: if another rank has ended.
        """
        if self.size == 1:
            return [value]
        said = json.dumps(value).encode()
        # What is short goes in one message, with its length. JSON may end in spaces, so rows need
        # not be cut to length again.
        rows = self._rows(
            len(said).to_bytes(_LENGTH_BYTES) + said[:_SHORT_BYTES].ljust(_SHORT_BYTES)
        )
        longest = max(int.from_bytes(row[:_LENGTH_BYTES]) for row in rows)
        if longest > _SHORT_BYTES:
            rows = self._rows(bytes(_LENGTH_BYTES) + said.ljust(longest))
        return [json.loads(row[_LENGTH_BYTES:]) for row in rows]

    def average(self, gradients: Any) -> Any:
        """The mean of the ranks' gradients, computed as by mlx-lm's tuner.

        Args:
            gradients: a tree of arrays, of one structure on all ranks.

        Raises:
            RanksError: if another rank has ended.
        """
        if self.size == 1:
            return gradients
        with self._meeting():
            averaged = average_gradients(gradients, self._group)
            mx.eval(averaged)
        return averaged

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Check that all ranks have the same facts.

        Args:
            facts: by name, as JSON has them.

        Raises:
            InvalidOptionError: on all ranks, for the first name under which a rank has another.
            RanksError: if another rank has ended.
        """
        first, *others = self.gather(facts)
        for rank, held in enumerate(others, 1):
            for name, fact in first.items():
                if held[name] != fact:
                    raise InvalidOptionError(
                        f"rank {rank} has a different {name} from rank 0 ({held[name]!r}, not "
                        f"{fact!r}); give all ranks the same command, files and packages."
                    )

    def _rows(self, row: bytes) -> list[bytes]:
        """The rows of all ranks, which have one length."""
        ours = mx.array(np.frombuffer(row, np.uint8))[None]
        with self._meeting():
            rows = mx.distributed.all_gather(ours, group=self._group)
            mx.eval(rows)
        return [each.tobytes() for each in np.array(rows)]

    @contextmanager
    def _meeting(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RanksError(
                f"rank {self.rank} has lost another rank, whose own message may say why ({error}). "
                "Start all ranks again to resume."
            ) from error


def checksum(tree: Any) -> int:
    """CRC-32 of all bytes in a tree of arrays."""
    arrays: dict[str, mx.array] = dict(tree_flatten(tree))  # pyright: ignore
    found = 0
    for name in sorted(arrays):
        found = zlib.crc32(np.array(arrays[name].reshape(-1).view(mx.uint8)).tobytes(), found)
    return found
