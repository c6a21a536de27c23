"""Write docs/architectures.md from the registry and from what was measured; --check only compares.

To measure anew::

    tox -e archs -- --record=mlx_simul/archs/verified.json -n 0
    tox -e parity -- --record=mlx_simul/archs/verified.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from mlx_simul import archs
from mlx_simul.archs.base import Architecture

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
MODES = ("group", "reencode", "interleaved")
HEAD = """\
# Architectures

`tools/architectures.py` writes this page from the registry and from a recorded run with tiny
random models of every family, in float32 on the CPU ({versions}).
No figure is typed by hand. mlx-lm has the kernels of `bitnet` and `muse_spark` only for Metal; for
these two, the same computation was done in plain MLX (`tests/without_metal.py`).

Each family is tested against the laws of each mode in which it streams (`mlx_simul.testing`): in
two groups ({group} laws), by re-encoding ({reencode}), and in order of arrival ({interleaved}).
The error is the largest deviation of any logit from the value that a law requires, relative to
the largest logit; the tolerance is 2e-5. One law of each mode compares the result with an ordinary
pass of mlx-lm's own model over its own caches. Laws about moving the target do not apply where the
target cannot be moved, or where its logits depend on its place. The law about trees of tokens
(beams) does not apply to a family that does not accept positions and masks for each token. If
transformers has the family, a whole pass is also compared with transformers on PyTorch, with
checkpoints that transformers wrote.

* **group**: source and target have separate positions and caches ([SPEC.md](SPEC.md), section 1).
* **reencode**: after each read, the whole target is run again after the source. This is for
  families that cannot keep two groups apart; `mode="reencode"` selects it for any family.
* **interleaved**: all tokens are in one row, in order of arrival. This mode is for comparison;
  `mode="interleaved"` selects it.

| model_type | streams by | laws | largest error | transformers |
|---|---|---|---|---|
"""
LEFT_OUT = """
## Left out

"""


def page() -> str:
    """The whole page."""
    found = [archs.find(model_type) for model_type in archs.registered_types()]
    measured = archs.verified()
    counts = {
        mode: max(figures[mode]["laws"] for figures in measured.values() if mode in figures)
        for mode in MODES
    }
    versions = ", ".join(f"{name} {number}" for name, number in archs.verified_with().items())
    aliases = [f"`{alias}` as `{known}`" for alias, known in archs.remapped_types().items()]
    return "".join(
        [
            HEAD.format(versions=versions, **counts),
            *map(_row, found),
            f"\nOther names: {', '.join(aliases)}.\n\n## Special cases\n\n",
            *_notes(found),
            LEFT_OUT,
            *(f"* `{model_type}`: {why}.\n" for model_type, why in archs.LEFT_OUT.items()),
        ]
    )


def _row(architecture: Architecture) -> str:
    figures = archs.verified()[architecture.model_type]
    laws = " + ".join(str(figures[mode]["laws"]) for mode in architecture.modes)
    error = max(figures[mode]["error"] for mode in architecture.modes)
    other = f"{figures['transformers']['error']:.1e}" if "transformers" in figures else "—"
    name, mode = architecture.model_type, architecture.modes[0]
    return f"| `{name}` | {mode} | {laws} | {error:.1e} | {other} |\n"


def _notes(found: list[Architecture]) -> Iterator[str]:
    """One line for each particularity, with the types that have it."""
    types: dict[str, list[str]] = {}
    for architecture in found:
        for note in _particularities(architecture):
            types.setdefault(note, []).append(f"`{architecture.model_type}`")
    for note, names in types.items():
        yield f"* {note}: {', '.join(names)}.\n"


def _particularities(architecture: Architecture) -> Iterator[str]:
    reasons = {
        "The target is encoded again after each read, because": architecture.not_in_groups_because,
        "`target_start` stays at its first value, because": architecture.positions_fixed_because,
        "Logits depend on `target_start`, even without a source, because": (
            architecture.positions_absolute_because
        ),
    }
    for what, why in reasons.items():
        if why is not None:
            yield f"{what} {why}"
    if "group" in architecture.modes and not architecture.quantizes_kv:
        yield "`kv_bits` is not available, because the attention cannot read quantised arrays"


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="fail if the page is not up to date")
    if not parser.parse_args().check:
        PAGE.write_text(page(), "utf-8")
        return 0
    if PAGE.read_text("utf-8") == page():
        return 0
    print(f"{PAGE} is not what the registry says; run tools/architectures.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
