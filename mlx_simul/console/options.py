"""The model and the options of a session, for every command that runs sessions.

MLX is only imported once the options are known to be right.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from mlx_simul.console import ranks
from mlx_simul.console.arguments import loading, utf8
from mlx_simul.console.fields import add_options, chosen
from mlx_simul.errors import InvalidOptionError, SimulWarning
from mlx_simul.machine.fields import read_toml, set_option
from mlx_simul.machine.files import expanded
from mlx_simul.options import SessionOptions
from mlx_simul.policies import WHOLE, as_policy, policy_names, usage

if TYPE_CHECKING:
    from mlx_simul.session import SimulSession

MAX_OPTION_FILE_BYTES = 1_048_576
"""The most that a glossary or context file may hold; a prompt takes far less."""


def add_model_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare the model, for every command that loads one."""
    parser.add_argument(
        "--model",
        help="folder or Hugging Face repository id (default: the packaged English-French one)",
    )
    parser.add_argument("--adapter", metavar="FOLDER", help="LoRA or DoRA adapters")
    parser.add_argument(
        "--allow-unverified",
        action="store_true",
        help="load a type that `mlx-simul models` does not list if it keeps the laws of streaming",
    )


def add_session_arguments(parser: argparse.ArgumentParser, skip: Collection[str] = ()) -> None:
    """Declare the model and the options of a session, for whatever command runs sessions.

    Args:
        parser: to extend.
        skip: options that the command does not have.
    """
    # That of argparse names thirty options.
    parser.usage = parser.usage or "%(prog)s [options]"
    add_model_arguments(parser)
    parser.add_argument(
        "--config", type=expanded, metavar="FILE", help="a TOML file with the options below"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="an option as in that file, limits.max_words=9 for example; may be repeated",
    )
    if "policy" not in skip:
        add_policy_arguments(parser)
    add_options(
        parser,
        SessionOptions,
        skip={"policy", *skip},
        types={**FILE_READERS, "draft": str},
    )


def add_policy_arguments(parser: argparse._ActionsContainer, default: str = "3") -> None:
    """Declare when to read and when to write.

    Args:
        parser: to extend.
        default: what help says of wait-k without an argument.
    """
    when = parser.add_mutually_exclusive_group()
    when.add_argument(
        "--wait-k",
        type=_wait_k,
        dest="policy",
        default=argparse.SUPPRESS,
        metavar="K|whole",
        help=f"stay K words behind (default: {default})",
    )
    when.add_argument(
        "--policy",
        default=argparse.SUPPRESS,
        metavar="NAME[:OPTIONS]",
        help=f"when to read and when to write: {', '.join(map(usage, policy_names()))}",
    )


def session_options(args: argparse.Namespace) -> SessionOptions:
    """What a configuration file, --set and the flags say of a session; the later of them win.

    Raises:
        InvalidOptionError: for options that will not do.
    """
    tables = {} if args.config is None else read_toml(args.config)
    for assignment in args.set:
        set_option(tables, assignment)
    options = SessionOptions.from_plain(tables)
    given = chosen(args, SessionOptions)
    if given.get("draft") not in (None, "ngram"):
        del given["draft"]  # a folder, to be loaded with the model
    options = SessionOptions.of(options, **given)
    as_policy(options.policy)
    return options


def load_sessions(args: argparse.Namespace) -> Callable[[], SimulSession]:
    """Load the model; the function returned begins a session, any number of times.

    What stands before the source is encoded once for all of them.

    Args:
        args: of :func:`add_session_arguments`.

    Raises:
        SimulError: for options or models that will not do.
    """
    make = session_maker(args, session_options(args))
    prefix = make().encode_prefix()
    return lambda: make(prefix=prefix)


def session_maker(args: argparse.Namespace, options: SessionOptions) -> Callable[..., SimulSession]:
    """Load the model; the function returned makes a session, with more options if there are any.

    Raises:
        SimulError: for models that will not do.
    """
    model, tokenizer, options = load_model(
        options,
        args.model,
        adapter=args.adapter,
        draft=getattr(args, "draft", None),
        allow_unverified=args.allow_unverified,
    )
    from mlx_simul.archs import streaming_config
    from mlx_simul.session import SimulSession

    prompt = options.prompt
    if not any((prompt.instruction, prompt.target_language, streaming_config(model).to_json())):
        warnings.warn(
            "neither --to nor --instruction: the model is not told what to do with the source.",
            SimulWarning,
            stacklevel=2,
        )

    def make(**more: Any) -> SimulSession:
        return SimulSession(model, tokenizer, options, **more)

    return make


def load_model(
    options: SessionOptions,
    model: str | None,
    *,
    adapter: str | None,
    draft: str | None,
    allow_unverified: bool,
) -> tuple[Any, Any, SessionOptions]:
    """Load the model of a session, and the smaller one that guesses for it if one is named.

    Args:
        options: of the session.
        model: folder or repository id; None for the packaged one.
        adapter: folder of adapters.
        draft: folder or repository id of the smaller model; None or "ngram" for none.
        allow_unverified: as for ``mlx_simul.load``.

    Returns:
        The model, its tokenizer, and the options with the smaller model among them.

    Raises:
        SimulError: for models that will not do.
    """
    with loading(model):
        loaded, tokenizer = ranks.load(model, adapter=adapter, allow_unverified=allow_unverified)
        if draft not in (None, "ngram"):
            # It is small, so rank 0 runs it alone.
            from mlx_simul.checkpoints.loading import load

            options = SessionOptions.of(options, draft=load(draft))
    return loaded, tokenizer, options


def _text_or_file(text: str) -> str:
    """A text, or the text of a file that is named after an @."""
    return _read_option_file(text[1:]) if text.startswith("@") else utf8(text)


def _read_glossary(path: str) -> dict[str, str]:
    """A glossary from a file: lines 'source<TAB>target', or a .json object."""
    text = _read_option_file(path)
    if path.endswith(".json"):
        try:
            terms = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidOptionError(f"{path} is not JSON: {error}.") from error
        if not isinstance(terms, dict) or not all(isinstance(t, str) for t in terms.values()):
            raise InvalidOptionError(
                f"{path}: the JSON must be one object of strings, source term to target."
            )
        return terms
    terms = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        source, tab, target = line.partition("\t")
        if not (tab and source.strip() and target.strip()) or "\t" in target:
            raise InvalidOptionError(
                f"{path}, line {number}: {line!r} is not a source term, one tab, and its target."
            )
        terms[source.strip()] = target.strip()
    return terms


def _read_option_file(path: str) -> str:
    try:
        with open(expanded(path), "rb") as file:
            data = file.read(MAX_OPTION_FILE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise InvalidOptionError(f"{path}: {error}.") from error
    if len(data) > MAX_OPTION_FILE_BYTES:
        raise InvalidOptionError(
            f"{path} has more than {MAX_OPTION_FILE_BYTES} bytes; a prompt takes far less."
        )
    return text


def _wait_k(text: str) -> str:
    """The policy that is meant."""
    if text == WHOLE:
        return WHOLE
    try:
        return f"wait-k:{int(text)}"
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number of words nor 'whole'"
        ) from error


FILE_READERS: dict[str, Callable[[str], Any]] = {
    "context": _text_or_file,
    "glossary": _read_glossary,
}
"""Options whose value, or a part of it, a file may hold."""
