"""Write docs/gguf.md from the tables in the code and from what was measured; --check only compares.

To measure anew::

    tox -e parity -- tests/parity/test_gguf_parity.py -n 0 --record docs/gguf.json
    python tools/gguf_page.py
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

from mlx_simul.checkpoints.gguf_blocks import BITS
from mlx_simul.checkpoints.gguf_families import FAMILIES, Family
from mlx_simul.checkpoints.gguf_keys import HARMLESS, NEUTRAL, READ
from mlx_simul.checkpoints.gguf_pieces import PRE_TOKENIZERS

DOCS = Path(__file__).parents[1] / "docs"
HEAD = """\
# GGUF files

`mlx-simul convert model.gguf folder` converts a GGUF file to an MLX folder with the config, the
weights, the tokenizer and the chat template. If the file is split (`-00001-of-00003.gguf`), name
any of its pieces. For a file on the Hugging Face Hub, name `owner/name/file.gguf`. If the
converted model could not compute the same, the file is refused, and the error says why.

`tools/gguf_page.py` writes this page; no figure is typed by hand.

## Families

For each family, tiny random models were written to GGUF files as llama.cpp's converter does it
(`tests/llama_cpp.py`), converted, and compared with the transformers models that they came from.
If transformers itself can read the architecture from GGUF, the last column compares with what it
reads from the same file. The error is the largest difference of any logit, relative to the largest
logit, in float32 on the CPU ({versions}). `tox -e real-weights` converts the published files of
SmolLM2 and Gemma 3, validates them and translates with them.

| architecture | becomes | rows reordered | scaled positions | files | error | in transformers |
|---|---|---|---|--:|--:|--:|
"""
BLOCKS = """
## Types of tensors

Conversion reads every type that the gguf package can decode. The error is that of a round trip
through the package, relative to the root mean square of normally distributed weights. A dash
marks a type that the package can read but not write. With `--keep-quantized`, weights of the
types {kept} keep their stored values in MLX's quantised layers; all others get the type of
`--dtype`.

| type | bits per weight | error | kept as it is |
|---|--:|--:|---|
"""
TOKENIZERS = """
## Tokenizers

Conversion supports two kinds of tokenizers. Byte-level BPE (`tokenizer.ggml.model` is `gpt2`) is
rebuilt from the name of its pre-tokenizer, and SentencePiece BPE (`llama`) from its scores, or
from its merges if the file lists them. `tox -e real-tokenizers` writes real tokenizers to GGUF
files, and compares ids and texts with the originals in a dozen scripts. A SentencePiece
vocabulary whose pieces all have the same score does not say which pieces to join first, so it is
refused.

Pre-tokenizers: {names}.

## Metadata

The table lists every key of the format. A key that is *read* is used for all families; a key that
is *read by* some families is used only for these. Other keys are either *refused*, unless their
value changes nothing, or *ignored*, for the reason given. Keys of the model or of the tokenizer
that are not in this table are refused, and keys of other programs are ignored.

| key | treatment |
|---|---|
"""


def page() -> str:
    """The whole page."""
    measured = json.loads((DOCS / "gguf.json").read_text("utf-8"))
    versions = sorted(measured["versions"].items())
    made_with = ", ".join(f"{name} {number}" for name, number in versions)
    return "".join(
        [
            HEAD.format(versions=made_with),
            *(_family(family, measured["model_types"]) for family in FAMILIES),
            BLOCKS.format(kept=_listed(kind.name for kind in BITS)),
            *_blocks(),
            TOKENIZERS.format(names=", ".join(f"`{name}`" for name in sorted(PRE_TOKENIZERS))),
            *_keys(),
        ]
    )


def _family(family: Family, measured: dict[str, Any]) -> str:
    figures = measured.get(family.model_type, {})
    errors = [
        f"{figures[what]['error']:.1e}" if what in figures else "—"
        for what in ("gguf", "gguf read by transformers")
    ]
    files = figures.get("gguf", {}).get("laws", "—")
    name = f"`{family.architecture}`"
    if family.needs_window:
        name += " with a window"
    elif family.has_experts and family.architecture == "llama":
        name += " with experts"
    scaled = ", ".join(sorted(family.scaling)) or "—"
    turned = "yes" if family.is_interleaved else "—"
    cells = (name, f"`{family.model_type}`", turned, scaled, files, *errors)
    return f"| {' | '.join(map(str, cells))} |\n"


def _blocks() -> Iterable[str]:
    weights = np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)
    for kind, (size, n_bytes) in GGML_QUANT_SIZES.items():
        error = _round_trip(kind, weights)
        if error is not None:
            kept = "yes" if kind in BITS else ""
            yield f"| {kind.name} | {8 * n_bytes / size:g} | {error} | {kept} |\n"


def _round_trip(kind: GGMLQuantizationType, weights: np.ndarray) -> str | None:
    """The error of a type's round trip; a dash if it can only be read, None if it cannot be."""
    with np.errstate(all="ignore"):  # an empty block may hold numbers that are not finite
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError:
            return None
    try:
        read = dequantize(quantize(weights, kind), kind)
    except NotImplementedError:
        return "—"
    return f"{np.sqrt(np.mean((read - weights) ** 2) / np.mean(weights**2)):.1e}"


def _keys() -> Iterable[str]:
    for key in sorted({*READ, *NEUTRAL, *HARMLESS}):
        shown = key.replace("{arch}.", "")
        yield f"| `{shown}` | {_treatment(key)} |\n"


def _treatment(key: str) -> str:
    if key in READ:
        return "read"
    if key in HARMLESS:
        return f"ignored: {HARMLESS[key]}"
    readers = [f"`{family.model_type}`" for family in FAMILIES if key in family.keys]
    values = list(dict.fromkeys(repr(value) for value in NEUTRAL[key]))
    rule = f"refused unless {' or '.join(values)}" if values else "refused"
    return f"read by {', '.join(readers)}; otherwise {rule}" if readers else rule


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="fail if the page is not up to date")
    path = DOCS / "gguf.md"
    if not parser.parse_args().check:
        path.write_text(page(), "utf-8")
        return 0
    if path.read_text("utf-8") == page():
        return 0
    print(f"{path} is not what the tables say; run tools/gguf_page.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
