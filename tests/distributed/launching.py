"""Ranks as ``mlx.launch --backend ring`` starts them here, each with its output and exit code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LIMIT_S = 300
"""Nothing takes so long, however busy the machine is; what hangs fails."""

_ENVIRONMENT = {
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
}


@dataclass
class Ended:
    """What became of a rank, or of ``mlx.launch``."""

    code: int
    out: str
    err: str


@dataclass
class Rank:
    """A process that runs.

    Attributes:
        process: itself; it writes into files, so it never waits for who reads them.
        folder: of these.
        number: its rank.
    """

    process: subprocess.Popen
    folder: Path
    number: int

    @property
    def out(self) -> str:
        """Standard output so far."""
        return (self.folder / f"out.{self.number}").read_text("utf-8", "replace")

    @property
    def err(self) -> str:
        """Standard error so far."""
        return (self.folder / f"err.{self.number}").read_text("utf-8", "replace")

    def lines(self) -> Iterator[str]:
        """The lines of standard output, as they come."""
        n_seen, has_ended = 0, False
        while not has_ended:
            has_ended = self.process.poll() is not None
            lines = self.out.splitlines(keepends=True)
            for line in lines[n_seen:]:
                if not line.endswith("\n"):
                    break
                n_seen += 1
                yield line.rstrip()
            time.sleep(0 if has_ended else 0.002)

    def wait_for(self, line: str) -> None:
        """Wait until it has said a line."""
        assert any(said == line for said in self.lines()), f"{line!r} was never said"

    def ended(self) -> Ended:
        """What became of it, once it has ended.

        Raises:
            AssertionError: if it does not.
        """
        try:
            code = self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{self!r} did not end within {LIMIT_S} s") from error
        return Ended(code, self.out, self.err)

    def __repr__(self) -> str:
        return f"rank {self.number}, {self.process.poll()}: {self.out!r} {self.err!r}"


@contextmanager
def started(
    n_ranks: int,
    *argv: Any,
    argv_of: Mapping[int, Sequence[Any]] | None = None,
    n_started: int | None = None,
) -> Iterator[list[Rank]]:
    """Processes that run Python with these arguments; none of them is left behind.

    Args:
        n_ranks: how many the group has; one runs without any group.
        argv: for all ranks.
        argv_of: for single ranks, in place of it.
        n_started: so many of them are started only.
    """
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        env = {**os.environ, **_ENVIRONMENT}
        if n_ranks > 1:
            hosts = folder / "hosts.json"
            hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in _free_ports(n_ranks)]))
            env["MLX_HOSTFILE"] = str(hosts)
        ranks = []
        for number in range(n_ranks if n_started is None else n_started):
            given = (argv_of or {}).get(number, argv)
            with (
                (folder / f"out.{number}").open("wb") as out,
                (folder / f"err.{number}").open("wb") as err,
            ):
                process = subprocess.Popen(
                    [sys.executable, *map(str, given)],
                    env={**env, "MLX_RANK": str(number)} if n_ranks > 1 else env,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            held.callback(_end, process)
            ranks.append(Rank(process, folder, number))
        yield ranks


def ended(ranks: Sequence[Rank]) -> list[Ended]:
    """What became of ranks, once all have ended."""
    return [rank.ended() for rank in ranks]


def launched(
    n_ranks: int, *argv: Any, argv_of: Mapping[int, Sequence[Any]] | None = None
) -> list[Ended]:
    """Run ranks as :func:`started` starts them, until all have ended."""
    with started(n_ranks, *argv, argv_of=argv_of) as ranks:
        return ended(ranks)


def by_mlx_launch(n_ranks: int, *argv: Any) -> Ended:
    """What ``mlx.launch`` itself gives for a command of this Python: all outputs together."""
    launcher = ["-c", "from mlx._distributed_utils.launch import main; main()"]
    while True:
        first = _free_ports(1)[0]
        ended = _run(
            *launcher, "-n", n_ranks, "--backend", "ring", "--starting-port", first,
            "--", sys.executable, *argv,
        )  # fmt: skip
        # It takes the ports after the first one, too, which other programs may have.
        if "Couldn't bind socket" not in ended.err:
            return ended


def _run(*argv: Any) -> Ended:
    process = subprocess.Popen(
        [sys.executable, *map(str, argv)],
        env={**os.environ, **_ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    finally:
        _end(process)
    return Ended(process.returncode, out, err)


def cases(n_ranks: int, script: str, told: Any) -> list[Any]:
    """Run a script of this folder on some ranks, and read what each prints as JSON.

    Args:
        n_ranks: how many.
        script: its name.
        told: for its ``sys.argv[1]``, as JSON.
    """
    results = launched(n_ranks, HERE / script, json.dumps(told))
    for result in results:
        assert result.code == 0, result.err
    return [json.loads(result.out) for result in results]


def _free_ports(n: int) -> list[int]:
    with ExitStack() as held:
        # Held open together, so that they differ.
        servers = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return [server.getsockname()[1] for server in servers]


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, 9)
    process.communicate()
