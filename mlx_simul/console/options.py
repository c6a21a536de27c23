"""The model and the options of a session, for every command that runs sessions.

MLX is only imported once the options are known to be right.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mlx_simul.console.arguments import add_instruction, add_languages, loading, utf8
from mlx_simul.errors import InvalidOptionError, SimulWarning
from mlx_simul.loop.limits import DEFAULT_MAX_RATIO, Limits
from mlx_simul.machine.files import expanded
from mlx_simul.policies import WHOLE, parse_policy, policy_names, usage

if TYPE_CHECKING:
    from mlx_simul.session import SimulSession

MAX_OPTION_FILE_BYTES = 1_048_576
"""The most that a glossary or context file may hold; a prompt takes far less."""


def add_session_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the model and the options of a session, for whatever command runs sessions."""
    parser.add_argument(
        "--model",
        help="folder or Hugging Face repository id (default: the packaged English-French one)",
    )
    parser.add_argument("--adapter", metavar="FOLDER", help="LoRA or DoRA adapters")
    parser.add_argument(
        "--allow-unverified",
        action="store_true",
        help="of a type that `mlx-simul models` does not list, try the laws on the weights first",
    )

    prompt = parser.add_argument_group("what to do")
    add_languages(prompt)
    add_instruction(prompt)
    prompt.add_argument(
        "--context", type=utf8, metavar="TEXT|@FILE", help="what the model should know"
    )
    prompt.add_argument(
        "--glossary", metavar="FILE", help="terms: lines 'source<TAB>target', or a .json object"
    )
    prompt.add_argument(
        "--frame",
        choices=("auto", "few-shot"),
        default="auto",
        help="chat template if there is one, or example translations (for base models)",
    )
    prompt.add_argument(
        "--date", metavar="YYYY-MM-DD", help="for chat templates that print it (default: today)"
    )

    when = parser.add_argument_group("when to write, and how much")
    latency = when.add_mutually_exclusive_group()
    latency.add_argument(
        "--wait-k", type=_wait_k, default="3", metavar="K|whole", help="words behind (default: 3)"
    )
    latency.add_argument(
        "--policy",
        metavar="NAME[:OPTIONS]",
        help=f"when to read and when to write: {', '.join(map(usage, policy_names()))}",
    )
    when.add_argument(
        "--target-start",
        type=_target_start,
        default="auto",
        metavar="auto|follow|N",
        help="where target positions start (default: auto)",
    )
    when.add_argument(
        "--mode",
        choices=("auto", "group", "reencode", "interleaved"),
        default="auto",
        help="how the model streams (default: as it can best; see `mlx-simul models`)",
    )
    when.add_argument("--max-words", type=int, metavar="N", help="target words of speech in all")
    when.add_argument("--max-tokens", type=int, default=1024, metavar="N", help="default: 1024")
    when.add_argument(
        "--max-tokens-per-word", type=int, default=50, metavar="N", help="default: 50"
    )
    when.add_argument(
        "--max-ratio",
        type=float,
        metavar="R",
        help=f"target words per source word read, at most; words of speech, as long in any script "
        f"(default: {DEFAULT_MAX_RATIO:g}, --gpe-compat has none; inf: no limit)",
    )
    when.add_argument(
        "--early-eos",
        choices=("read", "stop"),
        default="read",
        help="the model is done before the source is: read on (default), or stop",
    )
    when.add_argument(
        "--gpe-compat", action="store_true", help="token for token as EIT-NLP/StreamingLLM"
    )

    speed = parser.add_argument_group("several tokens a pass, the same ones")
    speed.add_argument(
        "--drafter", choices=("ngram",), help="look up ahead what may be copied from the source"
    )
    speed.add_argument(
        "--draft-model", metavar="FOLDER", help="a smaller model with the same tokenizer guesses"
    )
    speed.add_argument(
        "--num-draft-tokens", type=int, default=4, metavar="N", help="at most (default: 4)"
    )

    memory = parser.add_argument_group("memory")
    memory.add_argument(
        "--kv-bits", type=int, metavar="N", help="store keys and values in N bits: 8 or 4, say"
    )
    memory.add_argument("--kv-group-size", type=int, default=64, metavar="N", help="default: 64")

    how = parser.add_argument_group("how to choose a token (default: the likeliest)")
    how.add_argument("--temp", type=_number(0, 100), default=0.0, metavar="T")
    how.add_argument("--top-p", type=_number(0, 1), metavar="P")
    how.add_argument("--min-p", type=_number(0, 1), metavar="P")
    how.add_argument("--repetition-penalty", type=_number(0.01, 100), metavar="R")
    how.add_argument("--seed", type=_seed, metavar="N")


def load_sessions(args: argparse.Namespace) -> Callable[[], SimulSession]:
    """Load the model; what is returned begins a session, any number of times.

    What stands before the source is encoded once for all of them.

    Args:
        args: of :func:`add_session_arguments`.

    Raises:
        SimulError: for options or models that will not do.
    """
    make = session_maker(args, session_options(args))
    prefix = make().encode_prefix()
    return lambda: make(prefix=prefix)


def session_options(args: argparse.Namespace) -> dict[str, Any]:
    """What the arguments say of a session, as SimulSession takes it.

    Raises:
        InvalidOptionError: for options that will not do.
    """
    if args.temp == 0 and (args.top_p is not None or args.min_p is not None):
        raise InvalidOptionError("--top-p and --min-p choose among samples; give a --temp above 0.")
    max_ratio = None if args.max_ratio == math.inf else args.max_ratio
    limits = Limits(args.max_words, args.max_tokens, max_ratio)
    if args.max_ratio is None:
        max_ratio = "auto"
    context = args.context
    if context and context.startswith("@"):
        context = _read_option_file("--context", context[1:])
    return {
        "policy": parse_policy(args.policy or args.wait_k),
        "instruction": args.instruction,
        "source_language": args.source_language,
        "target_language": args.target_language,
        "context": context,
        "glossary": args.glossary and _read_glossary(args.glossary),
        "frame": args.frame,
        "date": args.date,
        "mode": args.mode,
        "target_start": args.target_start,
        "kv_bits": args.kv_bits,
        "kv_group_size": args.kv_group_size,
        "max_words": limits.max_words,
        "max_tokens": limits.max_tokens,
        "max_tokens_per_word": args.max_tokens_per_word,
        "max_target_source_ratio": max_ratio,
        "early_eos": args.early_eos,
        "gpe_compat": args.gpe_compat,
        "drafter": args.drafter,
        "num_draft_tokens": args.num_draft_tokens,
    }


def session_maker(
    args: argparse.Namespace, options: Mapping[str, Any]
) -> Callable[..., SimulSession]:
    """Load the model; what is returned makes a session, with more options if there are any.

    Raises:
        SimulError: for models that will not do.
    """
    with loading(args.model):
        import mlx.core as mx
        from mlx_lm.sample_utils import make_logits_processors, make_sampler

        from mlx_simul.archs import streaming_config
        from mlx_simul.checkpoints.loading import load
        from mlx_simul.session import SimulSession

        model, tokenizer = load(
            args.model, adapter_path=args.adapter, allow_unverified=args.allow_unverified
        )
        told = args.instruction, args.target_language, streaming_config(model).to_json()
        if not any(told):
            warnings.warn(
                "neither --to nor --instruction: the model is not told what to do with the source.",
                SimulWarning,
                stacklevel=2,
            )
        if args.seed is not None:
            mx.random.seed(args.seed)
        return partial(
            SimulSession,
            model,
            tokenizer,
            sampler=make_sampler(args.temp, args.top_p or 0.0, args.min_p or 0.0)
            if args.temp
            else None,
            logits_processors=make_logits_processors(repetition_penalty=args.repetition_penalty),
            draft_model=load(args.draft_model) if args.draft_model else None,
            **options,
        )


def _read_glossary(path: str) -> dict[str, str]:
    text = _read_option_file("--glossary", path)
    if path.endswith(".json"):
        try:
            terms = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidOptionError(f"--glossary {path} is no JSON: {error}.") from error
        if not isinstance(terms, dict) or not all(isinstance(t, str) for t in terms.values()):
            raise InvalidOptionError(
                f"--glossary {path}: the JSON must be one object of strings, source term to target."
            )
        return terms
    terms = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        source, tab, target = line.partition("\t")
        if not (tab and source.strip() and target.strip()) or "\t" in target:
            raise InvalidOptionError(
                f"--glossary {path}, line {number}: {line!r} is not a source term, one tab, and "
                "its target."
            )
        terms[source.strip()] = target.strip()
    return terms


def _read_option_file(option: str, path: str) -> str:
    try:
        with open(expanded(path), "rb") as file:
            data = file.read(MAX_OPTION_FILE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise InvalidOptionError(f"{option} {path}: {error}.") from error
    if len(data) > MAX_OPTION_FILE_BYTES:
        raise InvalidOptionError(
            f"{option} {path} has more than {MAX_OPTION_FILE_BYTES} bytes; a prompt takes far less."
        )
    return text


def _wait_k(text: str) -> str:
    """The policy that is meant."""
    if text == WHOLE:
        return WHOLE
    try:
        return f"wait-k:{int(text)}"
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of words, or whole") from error


def _target_start(text: str) -> int | str:
    if text in ("auto", "follow"):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not auto, follow, or a position from 0 on")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2**64 - 1")
    return int(text)


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low} to {high}")
        return value

    return parse
