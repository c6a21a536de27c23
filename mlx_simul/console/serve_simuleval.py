"""``mlx-simul serve-simuleval``: the protocol of SimulEval's remote evaluation, without SimulEval.

A client sends ``POST /reset`` before each sentence, then by turns ``PUT /input`` with a segment of
source and ``GET /output`` for what was written because of it. There are no names of sessions, so
one source is under way at a time; the requests are served one by one, on the thread that owns all
MLX work. That is what the standard library's server does, and so there is no other.
"""

from __future__ import annotations

import argparse
import json
import socketserver
import sys
import traceback
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from mlx_simul.console.options import add_session_arguments, load_sessions
from mlx_simul.errors import InvalidOptionError, SimulError
from mlx_simul.machine.terminal import emit, say
from mlx_simul.serving.interpreter import Answer, Interpreter

DEFAULT_PORT = 12321
"""Where SimulEval's client looks by default."""

MAX_BODY_BYTES = 65_536
"""A segment is a word; this leaves room for sixteen times the longest one, escaped."""

MAX_SOURCE_CHARS = 20_000
"""The most of one source, so that a client that never resets fills no memory and holds up no
others."""

IDLE_S = 30.0
"""Seconds that a client may keep silent within one request."""

_MAX_DRAINED_BYTES = 16 * MAX_BODY_BYTES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_session_arguments(parser)
    place = parser.add_argument_group("where to listen")
    place.add_argument(
        "--host",
        default="127.0.0.1",
        help="default: 127.0.0.1, this machine only; anyone who can reach the server may use it",
    )
    place.add_argument(
        "--port",
        type=_port,
        default=DEFAULT_PORT,
        metavar="N",
        help=f"default: {DEFAULT_PORT}; 0: any that is free",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it.

    Raises:
        SimulError: for options, models or addresses that will not do.
        KeyboardInterrupt: Ctrl-C.
    """
    # First the port: a model takes long to load, and that it is taken is known at once.
    with Server(args.host, args.port) as server:
        server.service = Service(Interpreter(load_sessions(args)))
        emit(f"listening on http://{args.host}:{server.server_address[1]}\n")
        server.serve_forever()
    return 0


class Refusal(Exception):
    """A request that will not do.

    Args:
        status: of HTTP.
        message: what was refused, and what to do.
    """

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Service:
    """What the requests do; it knows no sockets.

    As with SimulEval's own server, the work is done when the output is asked for: its client looks
    at no other answer.

    Args:
        interpreter: hears the source; to be used by the thread that made its model.
    """

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._reset()

    def answer(self, method: str, path: str, body: bytes) -> Mapping[str, Any]:
        """Do what a request says.

        Args:
            method: of HTTP.
            path: of the URL.
            body: at most ``MAX_BODY_BYTES``.

        Returns:
            What to answer, as JSON.

        Raises:
            Refusal: if the request is wrong, or comes after an error or out of bounds.
            SimulError: if the session cannot go on; only a reset helps then.
        """
        match method, path:
            case "POST", "/reset":
                self._reset()
                return {}
            case "PUT", "/input":
                self._hear(*_segment(body))
                return {}
            case "GET", "/output":
                words, self._words = self._words, []
                answer = self._interpreter.answer(words, self._source_finished)
                if answer.remark is not None:
                    print(f"mlx-simul: warning: {answer.remark}", file=sys.stderr)
                return _output(answer)
            case "GET", "/":
                return {"info": "mlx_simul[text -> text]"}
            case _, "/reset" | "/input" | "/output" | "/":
                raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} does not take {method}.")
        raise Refusal(
            HTTPStatus.NOT_FOUND,
            f"there is no {path!r} here; there are POST /reset, PUT /input and GET /output.",
        )

    def _reset(self) -> None:
        self._interpreter.reset()
        self._words: list[str] = []
        self._source_finished = False
        self._n_chars = 0

    def _hear(self, words: Sequence[str], finished: bool) -> None:
        self._n_chars += sum(len(word) + 1 for word in words)
        if self._n_chars > MAX_SOURCE_CHARS:
            raise Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"this source has more than {MAX_SOURCE_CHARS} characters; POST /reset begins "
                "another.",
            )
        self._words.extend(words)
        # What has ended has ended, whatever is said after it.
        self._source_finished |= finished


class Server(socketserver.TCPServer):
    """HTTP for one service, one request at a time.

    Args:
        host: address or name of this machine.
        port: 0 for any that is free.

    Raises:
        InvalidOptionError: if it cannot listen there.
    """

    allow_reuse_address = True
    request_queue_size = 16
    service: Service

    def __init__(self, host: str, port: int) -> None:
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise InvalidOptionError(
                f"cannot listen on {host}, port {port}: {error.strerror or error}; give another "
                "--host or --port."
            ) from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell what a request broke off with; the next one is served."""
        error = sys.exc_info()[1]
        if isinstance(error, ConnectionError | TimeoutError):
            say(f"a client left before its answer: {error}")
        else:
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    # HTTP/1.0, the default, ends the connection with the answer: none keeps the others waiting.
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = IDLE_S

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

    def _serve(self) -> None:
        path = self.path.partition("?")[0]
        try:
            self._send(HTTPStatus.OK, self.server.service.answer(self.command, path, self._body()))
        except Refusal as refusal:
            self.send_error(refusal.status, str(refusal))
        except SimulError as error:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        except (ConnectionError, TimeoutError):
            raise  # the client has left
        except Exception as error:
            # A mistake of ours: the client hears of it too, and the next request is served.
            traceback.print_exc()
            said = f"an unexpected {type(error).__name__}: {error}"
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, said)

    def _body(self) -> bytes:
        if "Transfer-Encoding" in self.headers:
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "send a Content-Length, and no chunks.")
        said = self.headers.get("Content-Length", "0")
        # int() takes much that is not a number in HTTP, and more digits than anyone needs.
        if not (said.isascii() and said.isdecimal() and len(said) <= 19):
            raise Refusal(
                HTTPStatus.BAD_REQUEST, f"Content-Length must be a number, got {said[:20]!r}."
            )
        length = int(said)
        if length > MAX_BODY_BYTES:
            self._drain(length)
            raise Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"a segment of {length} bytes is too long; at most {MAX_BODY_BYTES} are accepted.",
            )
        body = self.rfile.read(length)
        if len(body) < length:
            raise Refusal(
                HTTPStatus.BAD_REQUEST, f"only {len(body)} of {length} bytes have arrived."
            )
        return body

    def _drain(self, length: int) -> None:
        """Read what is not wanted: closed with bytes unread, a connection may lose the answer."""
        left = min(length, _MAX_DRAINED_BYTES)
        while left and (piece := self.rfile.read(min(left, MAX_BODY_BYTES))):
            left -= len(piece)

    def _send(self, status: int, answer: Mapping[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer in JSON what the standard library would refuse in HTML."""
        # SimulEval's client reads no status: it fails on the answer, so it is told here as well.
        said = message or HTTPStatus(code).phrase
        self.log_error("%s: %s", self.requestline, said)
        self._send(code, {"error": said})

    def log_message(self, format: str, *args: Any) -> None:
        """Say it on standard error, where no client can steer a terminal."""
        say(f"{self.address_string()}: {format % args}")

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Says nothing: there are several requests for each word."""


def _segment(body: bytes) -> tuple[list[Any], bool]:
    """The words of SimulEval's ``TextSegment``, or ``EmptySegment``; and whether it is the last."""
    try:
        segment = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"the segment is not JSON: {error}.") from error
    if not isinstance(segment, dict):
        raise Refusal(HTTPStatus.BAD_REQUEST, "a segment must be a JSON object.")
    kind, finished = segment.get("data_type"), segment.get("finished", False)
    if kind not in (None, "text"):
        raise Refusal(
            HTTPStatus.BAD_REQUEST, f"a segment of {kind!r}; this system reads text and writes it."
        )
    words = [segment.get("content")] if kind == "text" else []
    if not all(isinstance(word, str) for word in words):
        raise Refusal(HTTPStatus.BAD_REQUEST, "the content of a segment of text must be a string.")
    if not isinstance(finished, bool):
        raise Refusal(HTTPStatus.BAD_REQUEST, "finished must be true or false.")
    return words, finished


def _output(answer: Answer) -> dict[str, Any]:
    """A segment as its client reads it: the fields that every SimulEval 1.1 knows, and no more."""
    return {
        "index": 0,
        "content": " ".join(answer.words) if answer.words else [],
        "finished": answer.finished,
        "is_empty": not answer.words,
        "data_type": "text" if answer.words else None,
    }


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)
