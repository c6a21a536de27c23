"""``mlx-simul serve``: live translation for many, over WebSocket and HTTP, with a page."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_simul.console.arguments import loading
from mlx_simul.console.fields import add_options, chosen
from mlx_simul.errors import InvalidOptionError, SimulError
from mlx_simul.machine.extras import require
from mlx_simul.machine.fields import as_table, flat_fields, make, read_toml, set_option
from mlx_simul.machine.files import expanded
from mlx_simul.machine.terminal import emit, emit_json
from mlx_simul.options import SessionOptions
from mlx_simul.policies import as_policy
from mlx_simul.serving.options import ServingOptions

if TYPE_CHECKING:
    from mlx_simul.serving.worker import Loader

PACKAGED = "en-fr"
"""How clients call the packaged model."""

ENVIRONMENT = "MLX_SIMUL_SERVE_"
"""What begins the variables that hold options, MLX_SIMUL_SERVE_PORT for example."""

_EPILOG = f"""\
A configuration file has the tables [address], [capacity] and [records] with the options above,
[models] with a folder or repository id for each name ("{PACKAGED}" = "" is the packaged model), and
[session] with the options of sessions, as `mlx-simul translate --config` takes them. An option may
also come from the environment: {ENVIRONMENT}PORT is --port. Flags win over --set, --set over the
environment, and the environment over the file.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.usage = "%(prog)s [options]"
    parser.epilog = _EPILOG
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="serve a model, under the last part of its folder or Hugging Face repository id, or "
        f"a name; may be repeated. {PACKAGED} is the packaged one, and the default",
    )
    parser.add_argument("--config", type=expanded, metavar="FILE", help="a TOML file; see below")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TABLE.OPTION=VALUE",
        help="an option as in that file, session.policy=confidence:0.5 for example; may be "
        "repeated",
    )
    parser.add_argument(
        "--check", action="store_true", help="check the options, show them, and exit"
    )
    add_options(parser, ServingOptions)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it.

    Raises:
        SimulError: for options, models or addresses that will not do.
    """
    options, session, models = all_options(args, os.environ)
    if args.check:
        emit_json({**as_table(options), "models": models, "session": as_table(session)})
        return 0
    for package in ("uvicorn", "starlette", "msgspec", "prometheus_client", "sse_starlette"):
        require(package, "serve", "use `mlx-simul translate`")
    _serve(options, {name: _loader(place, session) for name, place in models.items()})
    return 0


def all_options(
    args: argparse.Namespace, environment: Mapping[str, str]
) -> tuple[ServingOptions, SessionOptions, dict[str, str]]:
    """The options of the server, those of its sessions, and the place of each model by its name.

    Raises:
        InvalidOptionError: for options that will not do.
    """
    tables: dict[str, Any] = {} if args.config is None else read_toml(args.config)
    group_of = flat_fields(ServingOptions)
    for name, group in group_of.items():
        if (text := environment.get(f"{ENVIRONMENT}{name.upper()}")) is not None:
            set_option(tables, f"{group}.{name}={text}")
    for assignment in args.set:
        set_option(tables, assignment)
    for name, value in chosen(args, ServingOptions).items():
        tables.setdefault(group_of[name], {})[name] = value
    session = SessionOptions.from_plain(tables.pop("session", {}))
    as_policy(session.policy)
    models = dict(tables.pop("models", {}))
    for text in args.model:
        name, equals, place = text.partition("=")
        if not equals:
            name, place = Path(text).name, "" if text == PACKAGED else text
        if not name:
            raise InvalidOptionError(f"--model is given as FOLDER or NAME=FOLDER, got {text!r}.")
        models[name] = place
    return make(ServingOptions, tables), session, models or {PACKAGED: ""}


def _loader(place: str, options: SessionOptions) -> Loader:
    def load() -> tuple[Any, Any, SessionOptions]:
        from mlx_simul.checkpoints.loading import load

        model, tokenizer = load(place or None)
        return model, tokenizer, options

    return load


def _serve(options: ServingOptions, loaders: Mapping[str, Loader]) -> None:
    import uvicorn

    from mlx_simul.serving.app import make_app
    from mlx_simul.serving.keys import Keys, read_keys
    from mlx_simul.serving.streams import Streams

    address, capacity = options.address, options.capacity
    owners = None if address.keys is None else read_keys(expanded(address.keys))
    if options.records.journal is not None:
        _make_folder(expanded(options.records.journal))
    # First the port: a model takes long to load, and that it is taken is known at once.
    with _listening(address.host, address.port) as listener:
        streams = Streams(loaders, options)
        with loading(", ".join(loaders)):
            streams.worker.start()
        port = listener.getsockname()[1]
        shown = f"[{address.host}]" if ":" in address.host else address.host
        emit(f"serving {', '.join(loaders)} on http://{shown}:{port}\n")
        config = uvicorn.Config(
            make_app(streams, Keys(owners)),
            log_config=None,
            access_log=False,
            ws="websockets-sansio",
            ws_max_size=capacity.max_message_bytes,
            ws_per_message_deflate=False,  # a small frame could become a very large message
            h11_max_incomplete_event_size=32_768,
            http="h11",
            timeout_graceful_shutdown=5,
            server_header=False,
        )
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise SimulError(
            f"{host} port {port} cannot be listened on: {error.strerror or error}. Give another "
            "--port, or --port 0 for any that is free."
        ) from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidOptionError(f"--journal {folder} cannot be made: {error.strerror}.") from error
