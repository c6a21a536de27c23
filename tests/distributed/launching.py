"""Ranks as ``mlx.launch --backend ring`` starts them here, each with its output and exit code."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
TIMEOUT_S = 240
"""Long for a busy machine; what hangs fails."""


@dataclass
class Ended:
    """What became of a rank."""

    code: int
    out: str
    err: str


@contextmanager
def started(n_ranks, *argv, argv_of=None):
    """Processes that run Python with these arguments; none of them is left behind.

    Args:
        n_ranks: how many; one runs without any group.
        argv: for all ranks.
        argv_of: for single ranks, in place of it.
    """
    with ExitStack() as held:
        env = {**os.environ, "MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        if n_ranks > 1:
            hosts = held.enter_context(_hostfile(n_ranks))
            env["MLX_HOSTFILE"] = str(hosts)
        ranks = []
        for rank in range(n_ranks):
            command = [sys.executable, *((argv_of or {}).get(rank, argv))]
            process = subprocess.Popen(
                [str(part) for part in command],
                env={**env, "MLX_RANK": str(rank)} if n_ranks > 1 else env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            held.callback(_end, process)
            ranks.append(process)
        yield ranks


def launched(n_ranks, *argv, argv_of=None):
    """Likewise, until all have ended."""
    with started(n_ranks, *argv, argv_of=argv_of) as ranks:
        return ended(ranks)


def by_mlx_launch(n_ranks, *argv):
    """What ``mlx.launch`` itself gives for a command of this Python: all outputs together."""
    with _hostfile(n_ranks) as hosts:
        (first,), *_ = json.loads(Path(hosts).read_text("utf-8"))
    launcher = [Path(sys.executable).with_name("mlx.launch"), "-n", n_ranks, "--backend", "ring"]
    # The ports after the first one are free, or the test fails.
    launcher += ["--starting-port", first.rpartition(":")[2], "--", sys.executable]
    process = subprocess.Popen(
        [str(part) for part in (*launcher, *argv)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
        return Ended(process.returncode, out, err)
    finally:
        _end(process)


def ended(ranks):
    """What became of ranks, once all have ended."""
    results = []
    for rank in ranks:
        out, err = rank.communicate(timeout=TIMEOUT_S)
        results.append(Ended(rank.returncode, out, err))
    return results


def cases(n_ranks, script, told):
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


@contextmanager
def _hostfile(n_ranks):
    # Held until all are known, so that no two ranks get the same port.
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n_ranks)]
    hosts = [[f"127.0.0.1:{each.getsockname()[1]}"] for each in sockets]
    for each in sockets:
        each.close()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(hosts, file)
        file.flush()
        yield file.name


def _end(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
