"""Write docs/results.md from the results recorded in docs/results; --check only compares.

To record results there::

    mlx-simul evaluate --corpus dev.tsv --folder runs/en-fr
    python benchmarks/target_start.py --model models/smollm2 --json runs/target_start.json
    python benchmarks/modes.py --model models/smollm2 --json runs/modes.json
    python tools/results.py --evaluation en-fr=runs/en-fr \\
        --target-start smollm2=runs/target_start.json --modes smollm2=runs/modes.json

Results of talks are recorded likewise. Several under one name stand in one section, which shows the
evaluation of that name beside them if it is of the same model and the same sentences::

    mlx-simul evaluate --corpus dev.tsv --sentences-per-talk 50 --folder runs/talks
    python benchmarks/history.py --corpus dev.tsv --json runs/history.json
    python tools/results.py --talks en-fr=runs/talks --history en-fr=runs/history.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_simul.checkpoints.loading import DEFAULT_MODEL
from mlx_simul.evaluation.folder import files_digest
from mlx_simul.evaluation.report import evaluation_section, is_packaged, losses_section
from mlx_simul.evaluation.talk_report import history_section, talks_section
from mlx_simul.evaluation.talk_run import TALK_RESULTS

DOCS = Path(__file__).parents[1] / "docs"
HEAD = """\
# Results

`tools/results.py` writes this page from the records in `docs/results`; no figure is typed by hand.
[evaluation.md](evaluation.md) explains the scores.
"""
# The title of a benchmark's table, and the head of its column of names.
BENCHMARKS = {
    "target_start": ("Where the target starts", "target starts at"),
    "modes": ("Modes and quantised caches", "mode"),
}


EARLIER = """\
*Of an earlier packaged model; `tools/renew_results.py` measures the one in this version.*
"""


def page(folder: Path) -> str:
    """The whole page, from a folder of recorded results."""
    parts = [HEAD]
    packaged = files_digest(DEFAULT_MODEL)

    def told(section: str, *runs: Mapping[str, Any]) -> str:
        """A section, which says below its title if a model is not the one in the package now."""
        if all(not is_packaged(run) or run.get("model_sha256") == packaged for run in runs):
            return section
        title, _, rest = section.partition("\n\n")
        return f"{title}\n\n{EARLIER}\n{rest}"

    for path in sorted(folder.glob("*.evaluation.json")):
        name = path.name.removesuffix(".evaluation.json")
        picture = folder / f"{name}.svg"
        shown = f"{folder.name}/{picture.name}" if picture.is_file() else None
        results = json.loads(path.read_text("utf-8"))
        parts.append(told(evaluation_section(name, results, shown), results))
    for path in sorted(folder.glob("*.talks.json")):
        name = path.name.removesuffix(".talks.json")
        beside = folder / f"{name}.evaluation.json"
        alone = json.loads(beside.read_text("utf-8")) if beside.is_file() else None
        runs = json.loads(path.read_text("utf-8"))
        parts.append(told(talks_section(name, runs, alone), *runs))
    for path in sorted(folder.glob("*.history.json")):
        name = path.name.removesuffix(".history.json")
        parts.append(history_section(name, json.loads(path.read_text("utf-8"))))
    for kind, (title, first) in BENCHMARKS.items():
        for path in sorted(folder.glob(f"*.{kind}.json")):
            name = path.name.removesuffix(f".{kind}.json")
            made_by = f"python benchmarks/{kind}.py --model {name}"
            figures = json.loads(path.read_text("utf-8"))
            parts.append(losses_section(f"{title}: {name}, zero-shot", first, figures, made_by))
    return "\n".join(parts)


def record(args: argparse.Namespace, folder: Path) -> None:
    """Copy results into the folder, under the names they are given."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in args.evaluation:
        shutil.copyfile(source / "evaluation.json", folder / f"{name}.evaluation.json")
        for picture in source.glob("quality-latency.*"):
            shutil.copyfile(picture, folder / f"{name}{picture.suffix}")
    runs: dict[str, list[Any]] = {}
    for name, source in args.talks:
        runs.setdefault(name, []).append(json.loads((source / TALK_RESULTS).read_text("utf-8")))
    for name, results in runs.items():
        text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
        (folder / f"{name}.talks.json").write_text(text, "utf-8")
    for kind in ("history", *BENCHMARKS):
        for name, source in getattr(args, kind):
            shutil.copyfile(source, folder / f"{name}.{kind}.json")


def main() -> int:
    """Record what is given, and write the page; or compare it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="fail if the page is not up to date")
    kinds = {"evaluation": "DIR", "talks": "DIR", "history": "FILE"}
    for kind, what in {**kinds, **dict.fromkeys(BENCHMARKS, "FILE")}.items():
        parser.add_argument(
            f"--{kind.replace('_', '-')}",
            action="append",
            default=[],
            type=_named,
            metavar=f"NAME={what}",
            help="results to record",
        )
    parser.add_argument("--docs", type=Path, default=DOCS, help="default: docs")
    args = parser.parse_args()
    written, folder = args.docs / "results.md", args.docs / "results"
    if not args.check:
        record(args, folder)
        written.write_text(page(folder), "utf-8")
        return 0
    if written.read_text("utf-8") == page(folder):
        return 0
    print(f"{written} differs from the recorded results; run tools/results.py", file=sys.stderr)
    return 1


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path) or "/" in name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, Path(path)


if __name__ == "__main__":
    sys.exit(main())
