"""Starts a program as several ranks on this machine, waits for all, and leaves none behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from repository import ROOT

LIMIT_S = 500
"""Only a failure takes so long; a rank that waits for ever is killed then."""


@dataclass
class Ended:
    """How a rank ended.

    Attributes:
        code: of its exit.
        out: standard output.
        err: standard error.
    """

    code: int
    out: str
    err: str


def launch(
    n_ranks: int, arguments: Sequence[str], folder: Path, limit_s: float = LIMIT_S
) -> list[Ended]:
    """Run ``python ARGUMENTS`` as so many ranks of the ring.

    Args:
        n_ranks: how many.
        arguments: of Python.
        folder: for the list of hosts.
        limit_s: all are killed then.

    Raises:
        TimeoutError: if one of them did not end.
    """
    with ExitStack() as sockets:
        # Held open together, so that the ports differ.
        held = [
            sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n_ranks)
        ]
        ports = [each.getsockname()[1] for each in held]
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
    environment = {**os.environ, "MLX_HOSTFILE": str(hosts), "MKL_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests' / 'distributed'}"
    outputs = [(tempfile.TemporaryFile(), tempfile.TemporaryFile()) for _ in range(n_ranks)]
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**environment, "MLX_RANK": str(rank)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        for rank, (out, err) in enumerate(outputs)
    ]
    try:
        for process in processes:
            process.wait(limit_s)
    except subprocess.TimeoutExpired as error:
        for process in processes:
            process.kill()
        said = "\n".join(_text(err) for _, err in outputs)
        raise TimeoutError(f"a rank did not end within {limit_s} s:\n{said}") from error
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [
        Ended(process.returncode, _text(out), _text(err))
        for process, (out, err) in zip(processes, outputs, strict=True)
    ]


def _text(file) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
