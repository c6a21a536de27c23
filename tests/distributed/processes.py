"""Ranks in processes, as ``mlx.launch`` starts them, but with nothing that ends the others."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repository import ROOT

SCRIPT = Path(__file__).parent / "one_rank.py"
NEVER_S = 120
"""Nothing takes so long, however loaded the machine is; a test that waits for it has failed."""


class Rank:
    """A process, and what it says."""

    def __init__(self, rank: int, hostfile: Path, options: tuple[str, ...]) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        known = {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hostfile), "PYTHONPATH": path}
        self._errors = hostfile.with_name(f"errors_{rank}")
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), *options],
                env={**os.environ, **known},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.said: list[str] = []

    def lines(self) -> Iterator[str]:
        """What it says, as it says it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip())
            yield self.said[-1]

    def wait_for(self, line: str) -> None:
        """Read to a line."""
        assert any(said == line for said in self.lines()), f"{line!r} was never said"

    def code(self) -> int:
        """Its exit code, once it has ended."""
        try:
            code = self.process.wait(NEVER_S)
        except subprocess.TimeoutExpired as error:
            raise AssertionError("a rank hangs") from error
        for _ in self.lines():
            pass
        return code

    @property
    def errors(self) -> str:
        """What it has said on standard error."""
        return self._errors.read_text("utf-8")

    @property
    def tokens(self) -> list[str]:
        """What its passes gave."""
        return [line for line in self.said if line.startswith("token")]


@contextmanager
def ranks(
    folder: Path, n: int, *options: str, n_started: int | None = None
) -> Iterator[list[Rank]]:
    """Start the ranks of a group; all are ended at last.

    Args:
        folder: for the hostfile and what they say on standard error.
        n: how many the group has.
        options: of ``one_rank.py``.
        n_started: how many of them are started; all by default.
    """
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    hosts = [[f"127.0.0.1:{each.getsockname()[1]}"] for each in listeners]
    for each in listeners:
        each.close()
    folder.mkdir(parents=True, exist_ok=True)
    hostfile = folder / "hosts.json"
    hostfile.write_text(json.dumps(hosts), "utf-8")
    started = [
        Rank(rank, hostfile, options) for rank in range(n if n_started is None else n_started)
    ]
    try:
        yield started
    finally:
        for each in started:
            if each.process.poll() is None:
                each.process.send_signal(signal.SIGKILL)
            each.process.communicate()


def seconds_to_end(group: list[Rank]) -> float:
    """How long it takes from now until these have ended."""
    since = time.monotonic()
    for each in group:
        each.code()
    return time.monotonic() - since
