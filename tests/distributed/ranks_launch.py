"""Starts a program as several ranks on this machine, waits for all, and leaves none behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from repository import ROOT

LIMIT_S = 500
"""Only a failure takes so long; a rank that waits for ever is killed then."""


@dataclass
class Rank:
    """One of the processes.

    Attributes:
        process: itself.
        folder: where its output goes.
        number: its rank.
    """

    process: subprocess.Popen
    folder: Path
    number: int

    @property
    def code(self) -> int | None:
        """Its exit code, once it has ended."""
        return self.process.returncode

    @property
    def out(self) -> str:
        """Standard output so far."""
        return (self.folder / f"out.{self.number}").read_text("utf-8", errors="replace")

    @property
    def err(self) -> str:
        """Standard error so far."""
        return (self.folder / f"err.{self.number}").read_text("utf-8", errors="replace")

    def __repr__(self) -> str:
        return f"rank {self.number} ended with {self.code}: {self.out!r} {self.err!r}"


@contextmanager
def started(n_ranks: int, arguments: Sequence[str], folder: Path) -> Iterator[list[Rank]]:
    """``python ARGUMENTS`` as so many ranks of the ring, which are killed at the end.

    Args:
        n_ranks: how many.
        arguments: of Python.
        folder: for the list of hosts, and for what they write.
    """
    with ExitStack() as sockets:
        # Held open together, so that the ports differ.
        servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(n_ranks)]
        ports = [sockets.enter_context(server).getsockname()[1] for server in servers]
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
    path = [ROOT, ROOT / "tests", ROOT / "tests" / "distributed"]
    environment = {
        **os.environ,
        "MLX_HOSTFILE": str(hosts),
        "MKL_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, path)),
    }
    ranks: list[Rank] = []
    try:
        for number in range(n_ranks):
            with (
                (folder / f"out.{number}").open("wb") as out,
                (folder / f"err.{number}").open("wb") as err,
            ):
                process = subprocess.Popen(
                    [sys.executable, *arguments],
                    env={**environment, "MLX_RANK": str(number)},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                )
            ranks.append(Rank(process, folder, number))
        yield ranks
    finally:
        for rank in ranks:
            rank.process.kill()
            rank.process.wait()


def wait_for(ranks: Sequence[Rank], limit_s: float = LIMIT_S) -> list[Rank]:
    """Wait until all have ended.

    Raises:
        TimeoutError: if one of them has not.
    """
    for rank in ranks:
        try:
            rank.process.wait(limit_s)
        except subprocess.TimeoutExpired as error:
            said = "\n".join(each.err for each in ranks)
            raise TimeoutError(
                f"rank {rank.number} did not end within {limit_s} s:\n{said}"
            ) from error
    return list(ranks)


def launch(n_ranks: int, arguments: Sequence[str], folder: Path) -> list[Rank]:
    """Run ``python ARGUMENTS`` as so many ranks of the ring, to the end of all."""
    with started(n_ranks, arguments, folder) as ranks:
        return wait_for(ranks)
