"""The subcommand ``generate``: mlx_lm.generate's command line, for a prompt that may still arrive.

Each flag of mlx_lm.generate is here under its own name, with its default. It does the same, as an
option of the session, or it is refused with a reason. A test compares both command lines.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mlx_simul.console.arguments import utf8
from mlx_simul.console.fields import add_options, chosen
from mlx_simul.console.live import (
    Arrival,
    LiveText,
    TextSource,
    WholeText,
    run_session,
)
from mlx_simul.console.options import FILE_READERS, add_policy_arguments, load_model
from mlx_simul.errors import InvalidOptionError
from mlx_simul.events import Event, Finished, Read, Tail, Write
from mlx_simul.machine.terminal import emit, say
from mlx_simul.options import NOT_OPTIONS, SAMPLING, SessionOptions
from mlx_simul.policies import WHOLE, as_policy

if TYPE_CHECKING:
    from mlx_simul.session import SimulSession

RULE = "=" * 10
"""What mlx_lm.generate prints before and after an answer."""

_EPILOG = """\
By default the answer begins when the prompt has ended, as in mlx_lm.generate; a prompt from
standard input is encoded while it arrives. With --wait-k or --policy the answer is written while
the prompt still arrives. White space in a prompt counts as one space. The exit code is 0 even if
--max-tokens cut the answer off; a warning on standard error says so.
"""

_NEUTRAL = {
    "top_p": 1.0,
    "min_p": 0.0,
    "min_tokens_to_keep": 1,
    "top_k": 0,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
}
"""Values that change nothing in mlx-lm's samplers."""

_OWN_NAMES = {"instruction", "draft", "policy"}
"""Options of a session that have another name, or another default, here."""

REFUSED: Mapping[str, str] = {
    "trust_remote_code": "no code that comes with a model is ever run; take a model whose type "
    "`mlx-simul models` lists",
    "image": "a source is text; mlx_lm.generate takes images",
    "prefill_response": "an answer begins with what the model writes; say in --system-prompt how "
    "it is to begin",
    "ignore_chat_template": "a stream needs to know where a prompt ends and an answer begins; give "
    "--frame few-shot to a base model",
    "use_default_chat_template": "a tokenizer without a chat template has no default one; give "
    "--frame few-shot",
    "chat_template_config": "a template is always told to leave thoughts out, and nothing else; "
    "edit the template in the model's folder",
    "max_kv_size": NOT_OPTIONS["max_kv_size"],
    "prefill_step_size": NOT_OPTIONS["prefill_step_size"],
    "prompt_cache_file": "such a file holds keys and values without the tokens that they belong "
    "to, so a prompt cannot be checked against it; in Python, "
    "SimulSession.encode_prefix() encodes what many prompts begin with once, and save() keeps a "
    "session in a file",
    "quantize_activations": "activations stay as the model computes them; --kv-bits stores keys "
    "and values in less memory",
    "quantized_kv_start": NOT_OPTIONS["quantized_kv_start"],
}
"""Flags of mlx_lm.generate that mean nothing here: why, and what to use instead."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.usage = "%(prog)s [options]"
    parser.epilog = _EPILOG
    same = parser.add_argument_group("as in mlx_lm.generate")
    same.add_argument("--model", help="folder or Hugging Face repository id (default: mlx-lm's)")
    same.add_argument("--adapter-path", metavar="FOLDER", help="LoRA or DoRA adapters")
    same.add_argument(
        "--extra-eos-token",
        nargs="+",
        default=(),
        metavar="TOKEN",
        help="tokens, or their ids, that end the answer too",
    )
    same.add_argument("--system-prompt", type=utf8, metavar="TEXT", help="the system message")
    same.add_argument(
        "--prompt",
        "-p",
        type=utf8,
        default="hello",
        metavar="TEXT",
        help="what to answer, with \\n and \\t for line ends and tabs; - is standard input, as it "
        "arrives (default: hello)",
    )
    same.add_argument(
        "--max-tokens",
        "-m",
        type=int,
        default=100,
        metavar="N",
        help="tokens after which the answer is cut off; -1 sets no limit (default: 100)",
    )
    _add_decoding(same)
    same.add_argument(
        "--verbose",
        type=_is_true,
        default=True,
        metavar="True|False",
        help="print lines around the answer and figures after it (default: True)",
    )
    refused = parser.add_argument_group(
        "refused", "flags of mlx_lm.generate that a stream cannot take, each with its reason"
    )
    for name in ("trust_remote_code", "ignore_chat_template", "use_default_chat_template"):
        refused.add_argument(_flag(name), action="store_true", help=REFUSED[name])
    refused.add_argument(
        "--quantize-activations", "-qa", action="store_true", help=REFUSED["quantize_activations"]
    )
    refused.add_argument("--image", nargs="+", default=(), help=REFUSED["image"])
    for name in ("prefill_response", "chat_template_config", "prompt_cache_file"):
        refused.add_argument(_flag(name), help=REFUSED[name])
    numbers = (("max_kv_size", None), ("prefill_step_size", 2048), ("quantized_kv_start", 5000))
    for name, default in numbers:
        refused.add_argument(_flag(name), type=int, default=default, help=REFUSED[name])
    own = parser.add_argument_group("the stream")
    own.add_argument(
        "--allow-unverified",
        action="store_true",
        help="load a type that `mlx-simul models` does not list if it keeps the laws of streaming",
    )
    add_policy_arguments(own, default=WHOLE)
    said = {action.dest for action in same._group_actions}
    add_options(parser, SessionOptions, skip=said | _OWN_NAMES, types=FILE_READERS)


def _add_decoding(group: argparse._ArgumentGroup) -> None:
    """Declare how tokens are chosen and stored, with mlx-lm's defaults."""
    for name, kind, default, help_text in (
        ("temp", float, 0.0, "the temperature; 0 takes the likeliest token (default: 0)"),
        ("top_p", float, 1.0, "sample among the likeliest that add up to this (default: all)"),
        ("min_p", float, 0.0, "the least share of the likeliest's probability (default: 0)"),
        ("top_k", int, 0, "sample among this many of the likeliest (default: all)"),
        ("xtc_probability", float, 0.0, "how often to leave the likeliest out (default: never)"),
        ("xtc_threshold", float, 0.1, "the least probability of those (default: 0.1)"),
        ("min_tokens_to_keep", int, 1, "the fewest tokens that --min-p keeps (default: 1)"),
        ("seed", int, None, "seed of this session's random draws"),
        ("kv_bits", int, None, "bits in which each key and value is stored"),
        ("kv_group_size", int, 64, "with --kv-bits, how many numbers share a scale (default: 64)"),
        ("num_draft_tokens", int, 3, "the most guesses in one pass (default: 3)"),
    ):
        group.add_argument(_flag(name), type=kind, default=default, metavar="N", help=help_text)
    group.add_argument(
        "--draft-model",
        metavar="FOLDER|ngram",
        help="a smaller model that guesses ahead; ngram looks guesses up in the text so far",
    )


def run(args: argparse.Namespace) -> int:
    """Answer a prompt as the command line says; return the exit code.

    Raises:
        SimulError: for options, models or sources that will not do.
        KeyboardInterrupt: Ctrl-C; what was written is out.
        BrokenPipeError: the reader of the output has gone.
    """
    options = generate_options(args)
    source = _source(args.prompt)
    session = _session(args, options)
    with Answer(verbose=args.verbose, is_live=args.prompt == "-") as answer:
        run_session(session, source, answer)
    return 0


def generate_options(args: argparse.Namespace) -> SessionOptions:
    """The options of the session that the command line asks for.

    Raises:
        InvalidOptionError: for a flag that is refused, or options that will not do.
    """
    usual = argparse.ArgumentParser()
    add_arguments(usual)
    for name, why in REFUSED.items():
        if getattr(args, name) != usual.get_default(name):
            raise InvalidOptionError(f"{_flag(name)} is refused: {why}.")
    given = chosen(args, SessionOptions)
    for name in SAMPLING:
        is_neutral = given[name] == _NEUTRAL[name]
        if not is_neutral and not args.temp:
            say(f"warning: {_flag(name)} has no effect, because --temp is 0.")
        if is_neutral or not args.temp:
            del given[name]
    if args.max_tokens < 0:
        given["max_tokens"] = sys.maxsize
    if args.draft_model == "ngram":
        given["draft"] = "ngram"
    # An answer may be much longer than what it answers, unless it is a translation.
    if "target_language" not in given:
        given = {"max_target_source_ratio": None} | given
    options = SessionOptions.of(
        **{"policy": WHOLE, "instruction": args.system_prompt, "temp": 0.0} | given
    )
    as_policy(options.policy)
    return options


def _session(args: argparse.Namespace, options: SessionOptions) -> SimulSession:
    """Load the model, and begin."""
    model = args.model
    if model is None:
        from mlx_lm.generate import DEFAULT_MODEL

        model = DEFAULT_MODEL
    loaded, tokenizer, options = load_model(
        options,
        model,
        adapter=args.adapter_path,
        draft=args.draft_model,
        allow_unverified=args.allow_unverified,
    )
    for token in args.extra_eos_token:
        try:
            tokenizer.add_eos_token(token)
        except ValueError as error:
            raise InvalidOptionError(f"--extra-eos-token: {error}.") from error
    from mlx_simul.session import SimulSession

    return SimulSession(loaded, tokenizer, _placed_as_in_mlx_lm(options, loaded))


def _placed_as_in_mlx_lm(options: SessionOptions, model: Any) -> SessionOptions:
    """Options that place the target where mlx-lm places it, if it begins after the whole source.

    Nothing is read after the whole source, so the target needs no margin to move in. A checkpoint
    that was trained with another place keeps that.
    """
    from mlx_simul.archs import streaming_config
    from mlx_simul.cache.positions import StayStart
    from mlx_simul.engine import mode_of

    placement = options.placement
    reads_first = as_policy(options.policy) == as_policy(WHOLE)
    is_free = all(
        start in (None, "auto")
        for start in (placement.target_start, streaming_config(model).target_start)
    )
    if reads_first and is_free and mode_of(model, placement.mode) == "group":
        return SessionOptions.of(options, target_start=StayStart(0))
    return options


def _source(prompt: str) -> TextSource:
    if prompt != "-":
        return WholeText(prompt.replace("\\n", "\n").replace("\\t", "\t"))
    if sys.stdin is None:
        raise InvalidOptionError("standard input is closed; give a --prompt.")
    return LiveText(sys.stdin.fileno())


class Answer:
    """Writes an answer as mlx_lm.generate does.

    Args:
        verbose: with lines around it, and figures after it.
        is_live: the prompt may pause while it arrives, so that no rate says anything.
    """

    def __init__(self, *, verbose: bool, is_live: bool) -> None:
        self._verbose = verbose
        self._is_timed = not is_live
        self._prompt_tokens = self._answer_tokens = 0
        self._first_ms: float | None = None
        self._total_ms = 0.0
        self._remarks = True

    def __enter__(self) -> Answer:
        if self._verbose:
            emit(f"{RULE}\n")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None and issubclass(kind, BrokenPipeError):
            return
        emit("\n")
        if self._verbose and kind is None:
            emit(f"{RULE}\n")
            emit(self._figures())

    def arrived(self, piece: Arrival) -> None:
        """Shows nothing."""

    def show(self, event: Event | Tail) -> None:
        """Writes what became stable."""
        emit(event.text)
        if isinstance(event, Read):
            self._prompt_tokens += event.n_tokens
            # What is written between two reads would be counted for both.
            self._is_timed = self._is_timed and self._first_ms is None
        elif isinstance(event, Write):
            self._answer_tokens += 1
            self._first_ms = event.time_ms if self._first_ms is None else self._first_ms
        elif isinstance(event, Finished):
            self._total_ms = event.total_ms
            # Only a translation has to be as long as its source.
            self._remarks = event.reason != "drought"

    def note(self, remark: str) -> None:
        """Goes to standard error."""
        if self._remarks:
            say(f"warning: {remark}")

    def _figures(self) -> str:
        if not self._answer_tokens or self._first_ms is None:
            return "No text generated for this prompt\n"
        import mlx.core as mx

        counts = self._prompt_tokens, self._answer_tokens
        lines = [f"Prompt: {counts[0]} tokens", f"Generation: {counts[1]} tokens"]
        if self._is_timed:
            times_ms = self._first_ms, self._total_ms - self._first_ms
            lines = [
                f"{line}, {1000 * n / max(time_ms, 1e-3):.3f} tokens-per-sec"
                for line, n, time_ms in zip(lines, counts, times_ms, strict=True)
            ]
        return "\n".join([*lines, f"Peak memory: {mx.get_peak_memory() / 1e9:.3f} GB", ""])


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _is_true(text: str) -> bool:
    return text.lower() not in ("false", "f")
