"""``mlx-simul serve``: live translation for many, over WebSocket and HTTP, with a page."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_simul.console import ranks
from mlx_simul.console.arguments import loading
from mlx_simul.console.fields import add_options, chosen
from mlx_simul.errors import InvalidOptionError, SimulError
from mlx_simul.machine.extras import require
from mlx_simul.machine.fields import as_table, flat_fields, make, read_toml, set_option
from mlx_simul.machine.files import expanded
from mlx_simul.machine.terminal import emit, emit_json
from mlx_simul.options import SessionOptions
from mlx_simul.policies import as_policy
from mlx_simul.serving.keys import read_keys
from mlx_simul.serving.options import ServingOptions
from mlx_simul.speech.registry import load_recogniser

if TYPE_CHECKING:
    from mlx_simul.serving.worker import Loader
    from mlx_simul.speech.recogniser import Recogniser

PACKAGED = "en-fr"
"""How clients call the packaged model."""

ENVIRONMENT = "MLX_SIMUL_SERVE_"
"""What begins the variables that hold options, MLX_SIMUL_SERVE_PORT for example."""

_EPILOG = f"""\
A configuration file has the tables [address], [capacity], [speech] and [records] with the options
above, [models] with a folder or repository id for each name ("{PACKAGED}" = "" is the packaged
model), and [session] with the options of sessions, as `mlx-simul translate --config` takes them. An
option may also come from the environment: {ENVIRONMENT}PORT is --port. Flags win over --set, --set
over the environment, and the environment over the file. Events are logged to standard error, a line
of JSON each. Ctrl-C and SIGTERM end the server cleanly, with exit code 0.
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
    """Serve until a signal ends it, which is not a failure.

    Raises:
        SimulError: for options, models or addresses that will not do.
    """
    options, session, models = all_options(args, os.environ)
    keys = options.address.keys
    owners = None if keys is None else read_keys(expanded(keys))
    if args.check:
        emit_json({**as_table(options), "models": models, "session": as_table(session)})
        return 0
    for package in ("uvicorn", "starlette", "msgspec", "prometheus_client", "sse_starlette"):
        require(package, "serve", "use `mlx-simul translate`")
    os.umask(0o077)  # the texts in journals are for the server's own user
    recogniser = options.speech.recogniser
    _serve(
        options,
        owners,
        {name: _loader(place, session) for name, place in models.items()},
        None if recogniser is None else partial(load_recogniser, recogniser),
    )
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
    given = {
        name.removeprefix(ENVIRONMENT).lower(): text
        for name, text in environment.items()
        if name.startswith(ENVIRONMENT)
    }
    _require_known(f"{ENVIRONMENT}… variables", given, group_of)
    for name, text in given.items():
        set_option(tables, f"{group_of[name]}.{name}={text}")
    for assignment in args.set:
        set_option(tables, assignment)
    _require_known("tables", tables, [*dict.fromkeys(group_of.values()), "models", "session"])
    for name, value in chosen(args, ServingOptions).items():
        tables.setdefault(group_of[name], {})[name] = value
    session = SessionOptions.from_plain(tables.pop("session", {}))
    as_policy(session.policy)
    models = _models(tables.pop("models", {}), args.model)
    return make(ServingOptions, tables), session, models or {PACKAGED: ""}


def _models(table: Any, flags: Iterable[str]) -> dict[str, str]:
    """The place of each model by its name, as a file says and as flags do; flags win."""
    if not isinstance(table, dict):
        raise InvalidOptionError(f"models must be a table of names and folders, got {table!r}.")
    for name, place in table.items():
        if not isinstance(place, str):
            raise InvalidOptionError(
                f"models.{name} must be a folder or a Hugging Face repository id, got {place!r}."
            )
    named: dict[str, str] = {}
    for text in flags:
        name, equals, place = text.partition("=")
        if not equals:
            name, place = Path(text).name, "" if text == PACKAGED else text
        if not name:
            raise InvalidOptionError(f"--model is given as FOLDER or NAME=FOLDER, got {text!r}.")
        if name in named:
            raise InvalidOptionError(
                f"two models are called {name!r}; name one by --model NAME=FOLDER."
            )
        named[name] = place
    return table | named


def _require_known(kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise InvalidOptionError(
            f"unknown {kind}: {', '.join(unknown)}; known are {', '.join(known)}."
        )


def _loader(place: str, options: SessionOptions) -> Loader:
    def load() -> tuple[Any, Any, SessionOptions]:
        model, tokenizer = ranks.load(place or None)
        return model, tokenizer, options

    return load


def _serve(
    options: ServingOptions,
    owners: Mapping[str, str] | None,
    loaders: Mapping[str, Loader],
    recogniser: Callable[[], Recogniser] | None,
) -> None:
    import uvicorn

    from mlx_simul.serving.app import make_app, server_config
    from mlx_simul.serving.keys import Keys
    from mlx_simul.serving.logs import logging_to, note
    from mlx_simul.serving.streams import Streams

    address, capacity = options.address, options.capacity
    if options.records.journal is not None:
        _make_folder(expanded(options.records.journal))
    # First the port: a model takes long to load, and that it is taken is known at once.
    with _listening(address.host, address.port) as listener:
        streams = Streams(loaders, options, recogniser)
        with loading(", ".join(loaders)):
            streams.load()
        port = listener.getsockname()[1]
        shown = f"[{address.host}]" if ":" in address.host else address.host
        place = f"http://{shown}:{port}"
        emit(f"serving {', '.join(loaders)} on {place}\n")
        config = server_config(make_app(streams, Keys(owners)), capacity)
        with logging_to(sys.stderr, texts=options.records.log_texts):
            note(
                logging.getLogger(__name__),
                "started",
                address=place,
                models=list(loaders),
                recogniser=options.speech.recogniser,
                keys=owners is not None,
                journal=options.records.journal is not None,
            )
            server = uvicorn.Server(config)
            try:
                server.run(sockets=[listener])
            except (SystemExit, KeyboardInterrupt):
                # Once it has ended in order, uvicorn raises the signal that asked for it again.
                if not server.should_exit:
                    raise


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise SimulError(
            f"{host} port {port} cannot be listened on: {_reason(error)}. Give another --port, or "
            "--port 0 for any that is free."
        ) from error


def _reason(error: OSError) -> str:
    # Python's own text repeats the address.
    return (error.strerror or str(error)).partition(" (while attempting")[0]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidOptionError(f"--journal {folder} cannot be made: {error.strerror}.") from error
