"""A server of the packaged model in its own process, which tests may kill; sizes of windows."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

import mlx_simul

WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}


@cache
def french(source: str) -> str:
    """What a session of the packaged model writes."""
    model, tokenizer = _loaded()
    return "".join(event.text for event in mlx_simul.stream_generate(model, tokenizer, source))


@cache
def _loaded() -> tuple[Any, Any]:
    return mlx_simul.load()


class Server:
    """``mlx-simul serve`` on a free port, and on the same one again after :meth:`kill`.

    Args:
        flags: of the command.
        log: a file for what it says on standard error.
    """

    def __init__(self, *flags: str, log: Path) -> None:
        self._flags, self._log, self._port = flags, log, 0
        self.start()

    def start(self) -> None:
        """Start, and wait for the address that it prints."""
        command = [sys.executable, "-m", "mlx_simul", "serve", "--port", str(self._port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._flags], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found = re.search(r"(http://\S+):(\d+)", line)
        assert found, f"no address in {line!r}; {self._log.read_text('utf-8')}"
        self.url, self._port = f"{found[1]}:{found[2]}", int(found[2])

    def kill(self, how: int = signal.SIGKILL) -> None:
        """End the process."""
        self._process.send_signal(how)
        self._process.wait(30)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def get(self, path: str) -> bytes:
        """What it answers at a path."""
        with urllib.request.urlopen(f"{self.url}/{path}", timeout=30) as response:
            return response.read()
