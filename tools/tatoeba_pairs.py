#!/usr/bin/env python
"""Make training and validation pairs from Tatoeba's weekly exports (CC BY 2.0 FR).

python tools/tatoeba_pairs.py pairs     # pairs/train.tsv.gz and pairs/valid.tsv

Fetches three files (some 45 MB) from downloads.tatoeba.org, unless they lie in the folder already.
All translations of a sentence go to the same side, chosen by the sentence itself: another week's
export puts it there too. Credit Tatoeba and its contributors for what you make of them.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import hashlib
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from mlx_simul.machine.files import replacing_file

EXPORTS = "https://downloads.tatoeba.org/exports/per_language"
MAX_WORDS = 60
"""Longer sources are rarely one sentence."""

VALIDATION_SHARE = 0.01


def pairs(folder: Path, source: str, target: str) -> Iterator[tuple[str, str]]:
    """Sentences and their translations, in the order of Tatoeba's ids, each pair once.

    Args:
        folder: where the exports lie, or are fetched to.
        source: language code, as in ``eng``.
        target: likewise.
    """
    links = _fetched(folder, source, f"{source}-{target}_links.tsv.bz2")
    texts = _sentences(_fetched(folder, source, f"{source}_sentences.tsv.bz2"))
    translations = _sentences(_fetched(folder, target, f"{target}_sentences.tsv.bz2"))
    seen = set()
    for source_id, target_id in _rows(links, 2):
        pair = texts.get(source_id, ""), translations.get(target_id, "")
        if all(pair) and pair not in seen and len(pair[0].split()) <= MAX_WORDS:
            seen.add(pair)
            yield pair


def is_for_validation(sentence: str) -> bool:
    """Which side of the split a source sentence belongs to, whatever it is paired with."""
    digest = hashlib.sha256(sentence.encode()).digest()
    return int.from_bytes(digest[:4], "big") < VALIDATION_SHARE * 2**32


def _sentences(path: Path) -> dict[str, str]:
    """Texts by id, without tabs: one stands between the two of a pair."""
    return {number: text.replace("\t", " ").strip() for number, _, text in _rows(path, 3)}


def _rows(path: Path, n_columns: int) -> Iterator[list[str]]:
    with bz2.open(path, "rt", encoding="utf-8", newline="\n") as file:
        for line in file:
            row = line.rstrip("\r\n").split("\t", n_columns - 1)
            if len(row) == n_columns:
                yield row


def _fetched(folder: Path, language: str, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        print(f"fetching {name}", file=sys.stderr)
        with (
            replacing_file(path) as partial,
            urllib.request.urlopen(f"{EXPORTS}/{language}/{name}", timeout=60) as answer,
            partial.open("wb") as file,
        ):
            shutil.copyfileobj(answer, file)
    return path


def main() -> int:
    """Fetch, join, split, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where everything goes")
    parser.add_argument("--from", dest="source", default="eng", help="code (default: eng)")
    parser.add_argument("--to", dest="target", default="fra", help="code (default: fra)")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    n_train = n_valid = 0
    with (
        gzip.open(args.folder / "train.tsv.gz", "wt", encoding="utf-8") as train,
        (args.folder / "valid.tsv").open("w", encoding="utf-8") as valid,
    ):
        for source, target in pairs(args.folder, args.source, args.target):
            if is_for_validation(source):
                n_valid += valid.write(f"{source}\t{target}\n") > 0
            else:
                n_train += train.write(f"{source}\t{target}\n") > 0
    print(f"{args.folder}: {n_train:,} pairs to train on, {n_valid:,} for validation")
    return 0


if __name__ == "__main__":
    sys.exit(main())
