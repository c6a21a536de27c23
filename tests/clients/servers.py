"""A server in a process, as its owner starts it, and TLS before it, as a proxy does it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from repository import ROOT

STOP_S = 60


class Server:
    """``mlx-simul serve`` in a process.

    Args:
        options: of the command.

    Attributes:
        port: that it listens on.
        log: what it has logged, once it has ended.
    """

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "mlx_simul", "serve", *options]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        if not first.startswith("serving "):
            raise RuntimeError(f"the server has not begun: {self._process.communicate()[1]}")
        self.port = int(first.rpartition(":")[2])
        self.log: list[dict] = []

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal, and wait.

        Returns:
            The exit code of the process.
        """
        self._process.send_signal(how)
        said = self._process.communicate(timeout=STOP_S)[1]
        lines = [line for line in said.splitlines() if line.startswith("{")]
        self.log = [json.loads(line) for line in lines]
        return self._process.returncode

    def kill_if_alive(self) -> None:
        """End it whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def appended(text: str) -> dict[str, str]:
    """The message with a piece of source."""
    return {"type": "session.input_text_buffer.append", "text": text}


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """A server on a free port, which is ended at last."""
    server = Server("--port", "0", *options)
    try:
        yield server
    finally:
        server.kill_if_alive()


@contextmanager
def tls_before(port: int, context: ssl.SSLContext) -> Iterator[int]:
    """Pass bytes on from a port with TLS to one without.

    Args:
        port: of the server.
        context: with a certificate for ``localhost``.

    Yields:
        The port with TLS.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, before = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pass_on(reader, before), pass_on(behind, writer))

    async def begin() -> asyncio.Server:
        return await asyncio.start_server(join, "localhost", 0, ssl=context)

    async def end(server: asyncio.Server) -> None:
        server.close()
        tasks = asyncio.all_tasks(loop) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.1)  # the loop lets go of what was closed

    server = asyncio.run_coroutine_threadsafe(begin(), loop).result()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(end(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
