"""``mlx-simul inspect``: one sentence as a staircase of reads and writes, as text or a picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_simul.console.arguments import require_writable, utf8
from mlx_simul.console.live import exit_code
from mlx_simul.console.options import add_session_arguments, session_maker, session_options
from mlx_simul.errors import InvalidOptionError, SimulError
from mlx_simul.evaluation.pictures import picture, require_matplotlib, save
from mlx_simul.events import Event, Finished, Read, TurnEnd, Write
from mlx_simul.loop.endings import remark
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
    """How one sentence was read and written.

    Attributes:
        source: its words.
        target: the words written.
        delays: for each target word, the source words read when it was written.
        attention: for each target word, the share of attention on each source word read; empty if
            none was shown.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    delays: tuple[int, ...]
    attention: tuple[tuple[float, ...], ...] = ()


def staircase(events: Iterable[Event], attention: Sequence[Sequence[float]] = ()) -> Staircase:
    """What the events of a finished session say.

    Args:
        events: all of them.
        attention: of each word written, if it was observed.
    """
    source, target, word = [], [], ""
    delays: list[int] = []
    for event in events:
        match event:
            case Read(source=text) if text:
                source.append(text.strip())
            case Write(text=text):
                word += text
                if event.word_complete:
                    target.append(word.strip())
                    word = ""
            case TurnEnd() | Finished():
                delays += event.delays
    if word.strip():  # cut by a limit
        target.append(word.strip())
    shown = tuple(map(tuple, attention))
    return Staircase(
        tuple(source), tuple(target[: len(delays)]), tuple(delays), shown[: len(delays)]
    )


def as_text(stairs: Staircase) -> str:
    """A line per target word: how much of the source was read, and where attention fell."""
    width = max(map(len, (*stairs.target, "")), default=0)
    cells = [max(len(word), 1) for word in stairs.source]
    head = " ".join(map(str.ljust, stairs.source, cells))
    lines = [f"{'':{width}}  {head}  delay"]
    for i, (word, delay) in enumerate(zip(stairs.target, stairs.delays, strict=True)):
        shares = stairs.attention[i] if stairs.attention else ()
        row = " ".join(
            _cell(j, delay, shares).center(cell, _UNREAD if j >= delay else " ")
            if shares
            else (_READ if j < delay else _UNREAD) * cell
            for j, cell in enumerate(cells)
        )
        lines.append(f"{word:{width}}  {row}  {delay:5d}")
    if stairs.delays:
        mean = sum(stairs.delays) / len(stairs.delays)
        lines.append(f"{'':{width}}  on average {mean:.1f} words read when one was written")
    return "".join(f"{harmless(line)}\n" for line in lines)


def _cell(j: int, delay: int, shares: Sequence[float]) -> str:
    if j >= delay or j >= len(shares):
        return _UNREAD
    level = 2 * shares[j] / (sum(shares) or 1) * (len(_SHADES) - 1)
    return _SHADES[min(round(level), len(_SHADES) - 1)]


def require_drawable(path: Path) -> None:
    """Pass if a picture can be drawn there, as far as can be known before.

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
            shares = [[*row, *[0.0] * (n_source - len(row))] for row in stairs.attention]
            mesh = axes.pcolormesh(shares, cmap="Blues", vmin=0)
            figure.colorbar(mesh, ax=axes, label="attention")
        else:
            axes.barh(rows, stairs.delays, height=1, color="lightsteelblue")
        axes.stairs(
            stairs.delays,
            range(n_target + 1),
            orientation="horizontal",
            color="black",
            baseline=None,
        )
        axes.set_title("source words read when each target word was written")
        save(figure, path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("text", type=utf8, help="the source")
    parser.add_argument(
        "--attention",
        action="store_true",
        help="show it though the policy goes without (of the heads that calibrate found)",
    )
    parser.add_argument("--picture", type=expanded, metavar="FILE", help="draw it: .png or .svg")
    add_session_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Translate one sentence and show how; return the exit code.

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
