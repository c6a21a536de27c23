"""Measure again what docs/results has of the packaged model, and write docs/results.md.

python tools/renew_results.py --corpora FOLDER --work RUN/results
python tools/renew_results.py --corpora FOLDER --work RUN/results en-fr en-fr-all-policies

Each record says how it was made; that is done again, with the packaged model of today. FOLDER holds
the test sets under the names that the records have. With names, only these records are renewed. The
same command resumes what was stopped; give each model a folder of its own to work in. To begin a
record, make it once with `mlx-simul evaluate` and `tools/results.py`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mlx_simul.evaluation.report import command, is_packaged

TOOLS = Path(__file__).parent
RESULTS = TOOLS.parent / "docs" / "results"


def main() -> int:
    """Renew one record after the other; the page is written after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="records to renew (default: all)")
    parser.add_argument("--corpora", type=Path, required=True, help="folder of the test sets")
    parser.add_argument("--work", type=Path, required=True, help="folder to measure in")
    parser.add_argument("--results", type=Path, default=RESULTS, help="(default: docs/results)")
    args = parser.parse_args()
    records = dict(of_the_packaged_model(args.results))
    if unknown := set(args.names) - set(records):
        parser.error(f"no record of the packaged model has these names: {', '.join(unknown)}.")
    names = args.names or list(records)
    for n_done, name in enumerate(names):
        told: list[str] = []
        for number, (kind, words) in enumerate(records[name]):
            print(f"{n_done} of {len(names)} records: {name}, {kind}", file=sys.stderr, flush=True)
            folder = args.work / f"{name}.{kind}.{number}"
            run(sys.executable, "-m", "mlx_simul", *with_folders(words, args.corpora, folder))
            told += [f"--{kind}", f"{name}={folder}"]
        run(sys.executable, TOOLS / "results.py", *told, "--docs", args.results.parent)
    return 0


def of_the_packaged_model(folder: Path) -> Iterator[tuple[str, list[tuple[str, list[str]]]]]:
    """Records by name, each with the kinds and the commands of its runs."""
    for name in sorted({path.name.partition(".")[0] for path in folder.glob("*.json")}):
        runs: list[tuple[str, list[str]]] = []
        for kind in ("evaluation", "talks"):
            path = folder / f"{name}.{kind}.json"
            held = json.loads(path.read_text("utf-8")) if path.is_file() else []
            for results in held if isinstance(held, list) else [held]:
                if is_packaged(results):
                    runs.append((kind, shlex.split(command(results))[1:]))
        if runs:
            yield name, runs


def with_folders(words: list[str], corpora: Path, folder: Path) -> list[str]:
    """A recorded command with the test set and the folder of results where they are here."""
    changed = [*words]
    changed[words.index("--corpus") + 1] = str(corpora / words[words.index("--corpus") + 1])
    changed[words.index("--folder") + 1] = str(folder)
    return changed


def run(*words: object) -> None:
    """Run a command; end with what it says if it fails."""
    done = subprocess.run([str(word) for word in words])
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    sys.exit(main())
