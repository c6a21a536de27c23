"""The subcommand ``listen``: speech in as it is spoken, translation out as it is produced.

Audio and recogniser run on threads of their own; all MLX work of the translation is on this one.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from mlx_simul.console.arguments import loading
from mlx_simul.console.destination import (
    add_output_arguments,
    open_outputs,
    require_turns,
    show_session,
)
from mlx_simul.console.ear import Ear, stopping_first
from mlx_simul.console.fields import add_options, chosen
from mlx_simul.console.live import INCOMPLETE
from mlx_simul.console.options import add_session_arguments, session_maker, session_options
from mlx_simul.console.outputs import require_outputs
from mlx_simul.errors import InvalidOptionError, SimulError
from mlx_simul.machine.files import expanded
from mlx_simul.speech.audio_clock import AudioClock
from mlx_simul.speech.registry import load_recogniser, recogniser_names
from mlx_simul.speech.window import WindowOptions

if TYPE_CHECKING:
    from mlx_simul.speech.capture import Audio
    from mlx_simul.speech.hearing import Hearing

JSON_LINES = "json-lines"
"""In place of a recogniser: hypotheses on standard input, one a line."""

RECOGNISER = "faster-whisper"
"""The default one: it runs on any machine."""

_STANDARD_INPUT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.usage = "%(prog)s [AUDIO] [options]"
    parser.epilog = (
        "Ctrl-C stops listening: what was said until then is still translated. A second Ctrl-C "
        f"ends at once. {INCOMPLETE}"
    )
    parser.add_argument(
        "audio",
        nargs="?",
        metavar="AUDIO",
        help="an audio file, at the pace at which it was spoken; - for raw PCM on standard input "
        "(16 bits, little-endian, 16 kHz, one channel); by default the microphone",
    )
    heard = parser.add_argument_group("speech")
    heard.add_argument(
        "--recogniser",
        default=RECOGNISER,
        metavar="NAME[:MODEL]",
        help=f"{', '.join(recogniser_names())}; or {JSON_LINES}: hypotheses of another program on "
        f"standard input (default: {RECOGNISER})",
    )
    heard.add_argument(
        "--fast", action="store_true", help="take recorded audio as fast as it is recognised"
    )
    heard.add_argument(
        "--microphone", metavar="NAME|NUMBER", help="which microphone (default: the system's)"
    )
    add_options(heard, WindowOptions)
    add_output_arguments(parser)
    add_session_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Listen and translate as the command line says; return the exit code.

    Raises:
        SimulError: for options, models or audio that will not do; for audio or a recogniser that
            broke off, once what was heard before has been translated.
        KeyboardInterrupt: Ctrl-C; what was written is out, and the terminal as it was. If it is the
            first one, what was heard before has been translated, and a microphone just ends.
        BrokenPipeError: the reader of the output has gone.
    """
    options = session_options(args)
    require_turns(args, options, "output")
    inputs = [expanded(args.audio)] if _is_file(args) else []
    require_outputs(args.output, inputs, may_exist=args.overwrite)
    if sys.stdout is None:
        raise SimulError("standard output is closed; there is nowhere to write to.")
    with ExitStack() as opened:
        hearing = _hearing(args, options.prompt.source_language, opened)
        make_session = session_maker(args, options)
        session_began_s = time.perf_counter()
        session = make_session()
        outputs = [*open_outputs(args, session, opened)]
        ear = Ear(hearing)
        clock = AudioClock(ear.words, lambda: hearing.began_s, session_began_s)
        with stopping_first(ear.stop), ear:
            code = show_session(args, session, ear, outputs, timed=clock.timed)
        ear.require_whole()
    if ear.is_stopped and not _is_microphone(args):
        raise KeyboardInterrupt  # there was more to hear; a microphone has no other end
    return code


def _hearing(args: argparse.Namespace, language: str | None, opened: ExitStack) -> Hearing:
    """What is listened to; refuses what cannot be, before a model is loaded."""
    from mlx_simul.speech.hearing import Recognised
    from mlx_simul.speech.json_lines import JsonLines

    _require_fitting(args)
    if _is_lines(args):
        return JsonLines(_standard_input(), has_clock=not args.fast)
    given = chosen(args, WindowOptions)
    window = WindowOptions(**given) if given else None  # not every recogniser has one
    audio = _audio(args)
    if args.audio == _STANDARD_INPUT:
        # A program that records loses audio if nobody reads it while a model is loaded.
        opened.enter_context(audio)
    with loading(args.recogniser):
        recogniser = load_recogniser(args.recogniser, window)
    return Recognised(recogniser, audio, language)


def _audio(args: argparse.Namespace) -> Audio:
    from mlx_simul.speech.audio import read_file
    from mlx_simul.speech.capture import AtOnce, Pumped, read_pipe
    from mlx_simul.speech.microphone import Microphone

    if _is_microphone(args):
        return Microphone(args.microphone)
    if not _is_file(args):
        stopped = threading.Event()
        blocks = read_pipe(_standard_input(), stopped.is_set)
        return (AtOnce if args.fast else Pumped)(blocks, stopped=stopped)
    blocks = read_file(expanded(args.audio))
    return AtOnce(blocks) if args.fast else Pumped(blocks, is_paced=True)


def _require_fitting(args: argparse.Namespace) -> None:
    """Check that the arguments say one thing to listen to.

    Raises:
        InvalidOptionError: if they do not.
    """
    if _is_lines(args) and args.audio not in (None, _STANDARD_INPUT):
        raise InvalidOptionError(
            f"--recogniser {JSON_LINES} reads what another program has recognised, and the audio "
            f"{args.audio} would not be heard; name a recogniser for it, or leave it out."
        )
    if args.microphone is not None and not _is_microphone(args):
        raise InvalidOptionError(
            f"--microphone {args.microphone}, and another source beside it; give one of them."
        )
    if args.fast and _is_microphone(args):
        raise InvalidOptionError("--fast is for recorded audio; a microphone has its own pace.")


def _standard_input() -> int:
    if sys.stdin is None:
        raise InvalidOptionError("standard input is closed; name an audio file.")
    if sys.stdin.isatty():
        raise InvalidOptionError(
            "standard input is a terminal, and audio or hypotheses belong there; pipe them in, as "
            "in ffmpeg -i INPUT -f s16le -ar 16000 -ac 1 - | mlx-simul listen -."
        )
    return sys.stdin.fileno()


def _is_lines(args: argparse.Namespace) -> bool:
    return args.recogniser == JSON_LINES


def _is_microphone(args: argparse.Namespace) -> bool:
    return args.audio is None and not _is_lines(args)


def _is_file(args: argparse.Namespace) -> bool:
    return args.audio not in (None, _STANDARD_INPUT)
