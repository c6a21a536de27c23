"""``mlx-simul inspect``: a text as a staircase of reads and writes, as text or a picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_simul.console.arguments import require_writable, utf8
from mlx_simul.console.live import INCOMPLETE, exit_code
from mlx_simul.console.options import add_session_arguments, session_maker, session_options
from mlx_simul.errors import InvalidOptionError, SimulError
from mlx_simul.evaluation.pictures import picture, require_matplotlib, save
from mlx_simul.events import Event, Finished, Read, TurnEnd, Write
from mlx_simul.loop.remarks import remark
from mlx_simul.machine.files import expanded
from mlx_simul.machine.terminal import emit, harmless
from mlx_simul.options import SessionOptions
from mlx_simul.policies import Shown, as_policy
from mlx_simul.text.characters import is_visible

# From no attention to half of what falls on the source, in equal steps.
_SHADES = " ░▒▓█"
_READ, _UNREAD = "█", "·"


@dataclass(frozen=True)
class Staircase:
    """How a text was read and written.

    Attributes:
        source: its words.
        target: the words written.
        delays: for each target word, the source words read when it was written.
        firsts: for each target word, the first source word of its turn: it was written without
            those before; all 0 by default.
        attention: for each target word, the share of attention on each source word of its turn that
            was read; empty if none was shown.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    delays: tuple[int, ...]
    firsts: tuple[int, ...] = ()
    attention: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.firsts:
            object.__setattr__(self, "firsts", (0,) * len(self.delays))


def staircase(events: Iterable[Event], attention: Sequence[Sequence[float]] = ()) -> Staircase:
    """What the events of a finished session say.

    Args:
        events: all of them.
        attention: of each word written, if it was observed.
    """
    source, target, delays, firsts = [], [], [], []
    words, word = [], ""
    for event in events:
        match event:
            case Read(source=text) if text:
                source.append(text.strip())
            case Write(text=text):
                word += text
                if event.word_complete:
                    words.append(word.strip())
                    word = ""
            case TurnEnd() | Finished():
                if word.strip():  # cut by a limit
                    words.append(word.strip())
                first = event.source_span_words[0] if isinstance(event, TurnEnd) else 0
                target += words[: len(event.delays)]
                delays += event.delays
                firsts += [first] * len(event.delays)
                words, word = [], ""
    shown = tuple(map(tuple, attention))[: len(delays)]
    return Staircase(tuple(source), tuple(target), tuple(delays), tuple(firsts), shown)


def as_text(stairs: Staircase) -> str:
    """A line per target word: how much of its turn was read, and where attention fell."""
    width = max(map(len, (*stairs.target, "")), default=0)
    cells = [max(len(word), 1) for word in stairs.source]
    head = " ".join(map(str.ljust, stairs.source, cells))
    lines = [f"{'':{width}}  {head}  delay"]
    rows = zip(stairs.target, stairs.delays, stairs.firsts, strict=True)
    for i, (word, delay, first) in enumerate(rows):
        shares = stairs.attention[i] if stairs.attention else ()
        row = " ".join(_cell(j - first, delay - first, shares, cells[j]) for j in range(len(cells)))
        lines.append(f"{word:{width}}  {row}  {delay:5d}")
    if stairs.delays:
        mean = (sum(stairs.delays) - sum(stairs.firsts)) / len(stairs.delays)
        per_turn = " of its sentence" if any(stairs.firsts) else ""
        lines.append(
            f"{'':{width}}  on average {mean:.1f} words{per_turn} read when one was written"
        )
    return "".join(f"{harmless(line)}\n" for line in lines)


def _cell(j: int, n_read: int, shares: Sequence[float], columns: int) -> str:
    """What stands below source word j of a turn of which some words were read."""
    if not 0 <= j < n_read:
        return (" " if j < 0 else _UNREAD) * columns
    if not shares:
        return _READ * columns
    if j >= len(shares):
        return _UNREAD.center(columns)
    level = 2 * shares[j] / (sum(shares) or 1) * (len(_SHADES) - 1)
    return _SHADES[min(round(level), len(_SHADES) - 1)].center(columns)


def require_drawable(path: Path) -> None:
    """Check that a picture can be drawn there, as far as can be known before.

    Raises:
        InvalidOptionError: if matplotlib is not installed, the file is of another kind, or there is
            no such folder.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise InvalidOptionError(f"a picture is a .png or .svg file, got {path.name!r}.")
    require_writable(path)
    require_matplotlib("eval", "leave --picture out")


def draw(stairs: Staircase, path: Path) -> None:
    """Draw the staircase, over the attention if there is any.

    Args:
        stairs: what to draw.
        path: a ``.png`` or ``.svg`` file, replaced.

    Raises:
        InvalidOptionError: as :func:`require_drawable` does.
    """
    require_drawable(path)
    n_source, n_target = len(stairs.source), len(stairs.target)
    rows = [i + 0.5 for i in range(n_target)]
    columns = [j + 0.5 for j in range(n_source)]
    with picture(2 + 0.5 * n_source, 1.5 + 0.35 * n_target) as figure:
        axes = figure.add_subplot(xlim=(0, n_source), ylim=(n_target, 0))
        axes.set_xticks(columns, [*map(harmless, stairs.source)], rotation=60, ha="right")
        axes.set_yticks(rows, [*map(harmless, stairs.target)])
        if stairs.attention:
            shares = [
                [*[0.0] * first, *row, *[0.0] * (n_source - first - len(row))]
                for first, row in zip(stairs.firsts, stairs.attention, strict=True)
            ]
            mesh = axes.pcolormesh(shares, cmap="Blues", vmin=0)
            figure.colorbar(mesh, ax=axes, label="attention")
        else:
            widths = [
                delay - first for delay, first in zip(stairs.delays, stairs.firsts, strict=True)
            ]
            axes.barh(rows, widths, left=stairs.firsts, height=1, color="lightsteelblue")
        axes.stairs(
            stairs.delays,
            range(n_target + 1),
            orientation="horizontal",
            color="black",
            baseline=list(stairs.firsts),
        )
        axes.set_title("source words read when each target word was written")
        save(figure, path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.usage = "%(prog)s TEXT [options]"
    parser.epilog = INCOMPLETE
    parser.add_argument("text", type=utf8, metavar="TEXT", help="the source")
    parser.add_argument(
        "--attention",
        action="store_true",
        help="show the attention of the heads that `mlx-simul calibrate` found",
    )
    parser.add_argument("--picture", type=expanded, metavar="FILE", help="draw it: .png or .svg")
    add_session_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Translate a text and show how; return the exit code.

    Raises:
        SimulError: for options, models or texts that will not do.
    """
    if not is_visible(args.text):
        raise InvalidOptionError(f"there are no words to inspect in {args.text!r}.")
    if args.picture is not None:
        require_drawable(args.picture)
    options = session_options(args)
    policy = as_policy(options.policy)
    if args.attention:
        policy = Shown(policy)
    session = session_maker(args, SessionOptions.of(options, policy=policy))()
    attention: list[tuple[float, ...]] = []
    if policy.needs.attention:
        session.observe(lambda word: attention.append(word.attention))
    events = [*session.feed(args.text), *session.finish()]
    stairs = staircase(events, attention)
    emit(as_text(stairs))
    if args.picture is not None:
        draw(stairs, args.picture)
    finished = events[-1]
    if not isinstance(finished, Finished):
        raise SimulError(f"the session ended with {finished!r}, which is not Finished.")
    for said in filter(None, map(remark, events)):
        print(f"mlx-simul: warning: {said}", file=sys.stderr)
    return exit_code(finished)
