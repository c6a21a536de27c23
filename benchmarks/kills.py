"""Whether a talk comes out the same however often the command that translates it is killed.

The command is ``mlx-simul translate --journal … --output …``, which gets its text through a pipe.
It is killed (SIGKILL) at a random moment, and started again on the same journal, until the talk is
done. Then the turns in the journal and the text and subtitle files are compared with those of a
run that was left alone. Talks follow one another until there have been enough kills.

Half of the moments are any time in which the command loads and begins; the other half come just
after the journal or an output has grown, so that many kills fall between two writes.

    python benchmarks/kills.py [--kills 200] [--seed 0] [--text FILE] [--model FOLDER] [-- OPTIONS]

The exit code is 1 if anything differs. Folders of talks that differ are kept.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from mlx_simul.console.live import EXIT_INCOMPLETE
from mlx_simul.console.outputs import OutputFile
from mlx_simul.stream.journal import read_entries, read_turns

TALK = """\
Good morning, and welcome to the museum. Dr. Miller will show you the first rooms. Have you ever
been here before? The house was built in 1887, and it has been open since 1952. It costs 12.50
euros, but children do not pay. Please do not touch the pictures!

The first room is small. You can see three old maps on the wall, and a letter from a sailor. He
wrote it in the winter, when the sea was cold and his ship could not leave the harbour. "I am
well," he said. "We have bread, and we have water." What would you have done?

Let us go on. In the second room there are boats, nets, and a very big fish. The fish is not
real, of course; it is made of wood and paper. A café is on the right, the stairs are on the
left. Mr. Jones has lost his key. Thank you, here it is... We will meet at the door at half past
three. Is there another question? Then I wish you a pleasant afternoon. Good bye!
"""
NAMES = ("talk.srt", "talk.vtt", "talk.txt")
MOST_GROWTHS = 6
AFTER_GROWTH_S = 0.05
_CLOCK = re.compile(r"(\d\d):(\d\d):(\d\d)[.,](\d\d\d)")


@dataclass(frozen=True)
class Moment:
    """When to kill.

    Attributes:
        growths: so many times the files have to grow first; 0 counts from the start.
        then_s: after that, so many seconds pass.
    """

    growths: int
    then_s: float


@dataclass(frozen=True)
class Life:
    """One process of a talk.

    Attributes:
        moment: when it was to be killed.
        killed: it was; else it had come to the end of the talk before.
        source_chars: characters of source in the journal when it began.
        seconds: how long it lived.
    """

    moment: Moment | None
    killed: bool
    source_chars: int
    seconds: float


class Command:
    """The command on one journal, started as often as needed.

    Args:
        folder: for the journal and the outputs; it is made.
        text: the whole source.
        options: of the command.
    """

    def __init__(self, folder: Path, text: str, options: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True)
        self.folder, self.journal = folder, folder / "talk.journal"
        self._text = text
        outputs = [part for name in NAMES for part in ("--output", str(folder / name))]
        self._arguments = [
            *(sys.executable, "-m", "mlx_simul", "translate", "--plain"),
            *("--journal", str(self.journal), *outputs, *options),
        ]

    def live(self, rng: random.Random, moment: Moment | None = None) -> Life:
        """Start the command, feed it what its journal does not hold, and kill it at a moment.

        Raises:
            RuntimeError: if it ends with an error.
        """
        n_chars, began_s = self.n_source_chars(), time.monotonic()
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(
                self._arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors
            ) as process,
        ):
            data = self._text[n_chars:].encode()
            feeding = threading.Thread(target=_feed, args=(process, data, rng.random()))
            feeding.start()
            killed = moment is not None and self._reaches(moment, process)
            if killed:
                process.kill()
            feeding.join()
            code = process.wait()
            if code not in ((-9,) if killed else (0, EXIT_INCOMPLETE)):
                errors.seek(0)
                raise RuntimeError(f"exit code {code} in {self.folder}: {errors.read().decode()}")
        return Life(moment, killed, n_chars, time.monotonic() - began_s)

    def n_source_chars(self) -> int:
        """Characters of source that the journal holds."""
        if not self.size():
            return 0
        return sum(len(entry.text) for entry in read_entries(self.journal))

    def size(self) -> int:
        """Bytes of the journal and all outputs."""
        paths = (self.journal, *(self.folder / name for name in NAMES))
        return sum(path.stat().st_size for path in paths if path.exists())

    def _reaches(self, moment: Moment, process: subprocess.Popen[bytes]) -> bool:
        """Wait for a moment; whether the process is still there."""
        n_left, size = moment.growths, self.size()
        while n_left and process.poll() is None:
            time.sleep(0.001)
            if (now := self.size()) != size:
                n_left, size = n_left - 1, now
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment.then_s)
        return process.poll() is None


@dataclass(frozen=True)
class Outcome:
    """A talk that is done.

    Attributes:
        seed: of its moments and of its pieces of text.
        n_kills: how often it was killed.
        differences: from the run that was left alone.
    """

    seed: int
    n_kills: int
    differences: list[str]


def run(
    folder: Path, n_kills: int, seed: int, text: str = TALK, options: Sequence[str] = ()
) -> Iterator[Life | Outcome]:
    """Translate a text again and again, and kill each time until the talk is done.

    Args:
        folder: an empty one.
        n_kills: how often to kill, at least.
        seed: of the first talk.
        text: the source.
        options: of the command.

    Yields:
        Each life, and after those of a talk its outcome.

    Raises:
        RuntimeError: if a life ends with an error.
    """
    whole = Command(folder / "whole", text, options)
    begins_s = whole.live(random.Random(seed)).seconds / 2
    n_left = n_kills
    while n_left > 0:
        rng, lives = random.Random(seed), []
        command = Command(folder / f"talk-{seed}", text, options)
        while not lives or lives[-1].killed:
            # When there were enough kills, the talk comes to its end.
            moment = random_moment(rng, begins_s) if n_left > 0 else None
            lives.append(command.live(rng, moment))
            n_left -= lives[-1].killed
            yield lives[-1]
        found = differences(command.folder, whole.folder)
        yield Outcome(seed, len(lives) - 1, found)
        if not found:
            shutil.rmtree(command.folder)
        seed += 1


def random_moment(rng: random.Random, begins_s: float) -> Moment:
    """A moment near the start, or one just after something was written."""
    if rng.random() < 0.5:
        return Moment(0, rng.uniform(0, begins_s))
    return Moment(rng.randint(1, MOST_GROWTHS), rng.choice((0.0, rng.uniform(0, AFTER_GROWTH_S))))


def differences(folder: Path, whole: Path) -> list[str]:
    """What in a talk's files is not as in those of a run that was left alone; times may differ."""
    found: list[str] = []
    turns, wanted = (list(read_turns(path / "talk.journal")) for path in (folder, whole))
    if turns != wanted:  # times take no part in that
        found.append(f"the journal has turns {turns}, and not {wanted}")
    for name in NAMES:
        text, wanted_text = ((path / name).read_text("utf-8") for path in (folder, whole))
        if _CLOCK.sub("", text) != _CLOCK.sub("", wanted_text):
            found.append(f"{name} has {text!r}, and not {wanted_text!r}")
        times = _CLOCK.findall(text)
        if times != sorted(times):
            found.append(f"{name} goes back in time: {text!r}")
        with tempfile.TemporaryDirectory() as made:
            with closing(OutputFile(Path(made) / name, "target")) as output:
                for end in turns:
                    output.add(end)
            if output.path.read_text("utf-8") != text:
                found.append(f"{name} is not what the turns in its journal say")
    return found


def _feed(process: subprocess.Popen[bytes], data: bytes, seed: float) -> None:
    """Write to a process in pieces, cut anywhere, with pauses; until it is gone."""
    rng, stdin = random.Random(seed), process.stdin
    if stdin is None:
        return
    with suppress(BrokenPipeError), stdin:
        while data:
            n_bytes = rng.randint(1, 60)
            stdin.write(data[:n_bytes])
            stdin.flush()
            data = data[n_bytes:]
            time.sleep(rng.uniform(0, 0.03))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="how many, at least (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the first talk (default: 0)")
    parser.add_argument("--text", type=Path, metavar="FILE", help="a text; by default one in here")
    parser.add_argument("--model", help="folder or repository id; the packaged model by default")
    parser.add_argument("options", nargs="*", help="of mlx-simul translate, behind --")
    args = parser.parse_args()

    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

    console = Console(highlight=False)
    options = [*args.options, *(["--model", args.model] if args.model else [])]
    text = TALK if args.text is None else args.text.read_text("utf-8")
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    lives: list[Life] = []
    outcomes: list[Outcome] = []
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("kills", total=args.kills)
        for each in run(folder, args.kills, args.seed, text, options):
            if isinstance(each, Life):
                lives.append(each)
                progress.update(bar, advance=each.killed)
                continue
            outcomes.append(each)
            said = "; ".join(each.differences) or "as if left alone"
            console.print(f"talk with seed {each.seed}, killed {each.n_kills} times: {said}")
    moments = [life.moment for life in lives if life.killed and life.moment is not None]
    n_early = sum(not moment.growths for moment in moments)
    differing = [outcome.seed for outcome in outcomes if outcome.differences]
    console.print(
        f"{len(moments)} kills, {n_early} at a time near the start and {len(moments) - n_early} "
        f"behind a write; {len(outcomes)} talks, {len(differing)} of them differ"
    )
    if differing:
        console.print(f"seeds {differing}; the files are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
