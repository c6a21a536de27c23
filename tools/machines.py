"""Passes a second of a model over several machines, by a model on paper; writes docs/machines.md's.

It replaces the tables between the markers in the page, and the plot; ``--check`` only compares.
``--measured`` takes the files of ``benchmarks/ring.py`` and records them in docs/results::

    python tools/machines.py --measured runs/ring-2.json runs/ring-4.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "machines.md"
PLOT = DOCS / "machines.svg"
MEASURED = DOCS / "results" / "ring.json"
BEGIN, END = "<!-- tools/machines.py writes from here -->\n", "<!-- to here -->\n"


@dataclass(frozen=True)
class Model:
    """What a pass over a model costs.

    Attributes:
        name: as shown.
        n_layers: each has two sums over the ranks: after its attention and after its MLP.
        hidden_size: values of one token that a sum adds up.
        weight_bytes: read once a pass.
        bytes_per_value: of activations.
    """

    name: str
    n_layers: int
    hidden_size: int
    weight_bytes: float
    bytes_per_value: int = 2

    def sum_bytes(self, n_tokens: int) -> int:
        """Bytes of one vector that is summed."""
        return self.hidden_size * self.bytes_per_value * n_tokens


@dataclass(frozen=True)
class Link:
    """What joins machines.

    Attributes:
        name: as shown.
        latency_s: of one step, from one machine to the next.
        bytes_per_s: in one direction.
        is_mesh: each machine reaches all others in one step; else they form a ring.
    """

    name: str
    latency_s: float
    bytes_per_s: float
    is_mesh: bool = False

    def sum_s(self, n_bytes: float, n_ranks: int) -> float:
        """Seconds that a sum over the ranks takes.

        A ring passes parts of the vector on, ``n - 1`` times to add them up and ``n - 1`` times to
        hand the sums round; in a mesh each rank sends its whole vector to all others at once, and
        adds up for itself.
        """
        if n_ranks == 1:
            return 0.0
        if self.is_mesh:
            return self.latency_s + n_bytes / self.bytes_per_s
        return 2 * (n_ranks - 1) * (self.latency_s + n_bytes / n_ranks / self.bytes_per_s)


@dataclass(frozen=True)
class Machine:
    """One of several equal machines.

    Attributes:
        name: as shown.
        bytes_per_s: of its memory.
    """

    name: str
    bytes_per_s: float


# 4-bit weights with a scale and a bias for 64 of them: 4.5 bits a weight.
SMALL = Model("7B, 4-bit", n_layers=28, hidden_size=3584, weight_bytes=7.6e9 * 4.5 / 8)
LARGE = Model("70B, 4-bit", n_layers=80, hidden_size=8192, weight_bytes=70.6e9 * 4.5 / 8)
MODELS = (SMALL, LARGE, replace(LARGE, name="70B, bfloat16", weight_bytes=70.6e9 * 2))

MAC = Machine("M3 Ultra", 819e9)
GPU = Machine("H200", 4.8e12)

ETHERNET = Link("10 Gb/s Ethernet, TCP ring", 300e-6, 1.25e9)
CABLE = Link("Thunderbolt 5, TCP ring", 200e-6, 5e9)
RDMA = Link("Thunderbolt 5, JACCL mesh", 30e-6, 6.3e9, is_mesh=True)
NVLINK = Link("NVLink, NCCL", 10e-6, 450e9, is_mesh=True)
PAIRS = ((MAC, ETHERNET), (MAC, CABLE), (MAC, RDMA), (GPU, NVLINK))
RANKS = (2, 4)


def pass_s(model: Model, machine: Machine, link: Link, n_ranks: int, n_tokens: int = 1) -> float:
    """Seconds of a pass in which reading the weights is what takes time, not arithmetic."""
    n_sums = 2 * model.n_layers
    read_s = model.weight_bytes / n_ranks / machine.bytes_per_s
    return read_s + n_sums * link.sum_s(model.sum_bytes(n_tokens), n_ranks)


def break_even_s(model: Model, machine: Machine, n_ranks: int, *, is_mesh: bool) -> float:
    """The latency of a step at which ranks are as fast as one machine, on a link of any width."""
    saved_s = model.weight_bytes / machine.bytes_per_s * (1 - 1 / n_ranks)
    steps = 1 if is_mesh else 2 * (n_ranks - 1)
    return saved_s / (2 * model.n_layers * steps)


def fitted(sums: Sequence[Mapping[str, float]], n_ranks: int) -> Link:
    """The ring whose latency and width suit some measured sums best, in relative terms.

    Each is wrong by some share of itself, so each error is divided by what was measured.
    """
    steps = 2 * (n_ranks - 1)
    rows = [
        (steps / s, steps * b / n_ranks / s)
        for b, s in ((each["bytes"], each["least_us"] * 1e-6) for each in sums)
    ]
    # The normal equations of: latency · x + y / width = 1, for all rows.
    xx, xy, yy = (sum(r[i] * r[j] for r in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    x, y = (sum(r[i] for r in rows) for i in (0, 1))
    determinant = xx * yy - xy * xy
    latency_s, s_per_byte = (
        (x * yy - y * xy) / determinant,
        (y * xx - x * xy) / determinant,
    )
    return Link("this machine, TCP ring over loopback", latency_s, 1 / s_per_byte)


def published() -> str:
    """The one published figure that the model can be held against, and what it says of it."""
    # Qwen3.6-27B in bfloat16: 64 layers, as in Qwen3.5-27B.
    model = Model("27B, bfloat16", n_layers=64, hidden_size=5120, weight_bytes=27e9 * 2)
    gain = pass_s(model, MAC, RDMA, 1) / pass_s(model, MAC, RDMA, 4)
    return f"× {gain:.1f}"


def tables() -> str:
    """All that the page holds between the markers."""
    parts = ["### One token a pass, as in a single stream", *_passes(1)]
    parts += ["### Sixteen tokens a pass, as in a batch or with drafts", *_passes(16)]
    parts += ["### How slow a step may be", *_break_even()]
    parts += [
        "### The model compared with a published figure",
        "Apple showed four M3 Ultras in a JACCL mesh that generate with Qwen3.6-27B at [nearly "
        "three times the rate of one](https://developer.apple.com/videos/play/wwdc2026/233/). For "
        "64 layers and 27 billion weights in bfloat16 (the talk does not state the type), our "
        f"model predicts {published()}. Apart from sums, it counts only the reading of weights, so "
        "it has to predict more.",
    ]
    if MEASURED.is_file():
        parts += ["### The model compared with measurements", *_measured()]
    return "\n\n".join(parts) + "\n\n"


def _passes(n_tokens: int) -> Iterator[str]:
    head = ["model", "machine", "link", "one machine", *(f"{n} ranks" for n in RANKS)]
    rows = []
    for model in MODELS:
        for machine, link in PAIRS:
            one = 1 / pass_s(model, machine, link, 1)
            cells = [model.name, machine.name, link.name, f"{one:.1f}"]
            for n in RANKS:
                rate = 1 / pass_s(model, machine, link, n, n_tokens)
                cells.append(f"{rate:.1f} (× {rate / one:.2f})")
            rows.append(cells)
    yield _table(head, rows)


def _break_even() -> Iterator[str]:
    head = ["model", "machine", *(f"ring of {n}" for n in RANKS), *(f"mesh of {n}" for n in RANKS)]
    rows = []
    for model in MODELS:
        for machine in (MAC, GPU):
            cells = [model.name, machine.name]
            for is_mesh in (False, True):
                for n in RANKS:
                    least_s = break_even_s(model, machine, n, is_mesh=is_mesh)
                    cells.append(f"{least_s * 1e6:.0f} µs")
            rows.append(cells)
    yield _table(head, rows)


def _measured() -> Iterator[str]:
    runs = json.loads(MEASURED.read_text("utf-8"))
    (two,) = (run for run in runs if run["n_ranks"] == 2)
    link = fitted(two["sums"], 2)
    yield (
        f"A step of {link.latency_s * 1e6:.0f} µs and {link.bytes_per_s / 1e9:.1f} GB/s fit the "
        f"shortest times of two ranks best (MLX {two['mlx']}, {two['n_cores']} cores). All "
        "predictions use these two numbers."
    )
    head = ["bytes"]
    for run in runs:
        head += [f"{run['n_ranks']} ranks, least", "median", "predicted"]
    rows = []
    for index, each in enumerate(two["sums"]):
        cells = [f"{each['bytes']:,}"]
        for run in runs:
            held = run["sums"][index]
            predicted_s = link.sum_s(held["bytes"], run["n_ranks"])
            cells += [_us(held["least_us"]), _us(held["median_us"]), _us(predicted_s * 1e6)]
        rows.append(cells)
    yield _table(head, rows)
    head = ["ranks", "tokens in the pass", "bytes received", "predicted", "largest error", "same"]
    rows = [
        [
            str(run["n_ranks"]),
            str(each["n_tokens"]),
            f"{each['bytes_received']:,}",
            f"{bytes_of_pass(each, run['n_ranks']):,.0f}",
            f"{each['relative_error']:.0e}",
            "yes" if each["same_tokens"] else "no",
        ]
        for run in runs
        for each in run["passes"]
    ]
    yield _table(head, rows)


def bytes_of_pass(measured: Mapping[str, Any], n_ranks: int) -> float:
    """Bytes that each rank receives in a pass through a ring."""
    model = Model("", measured["n_layers"], measured["hidden_size"], 0, measured["bytes_per_value"])
    share = 2 * (n_ranks - 1) / n_ranks
    return 2 * model.n_layers * model.sum_bytes(measured["n_tokens"]) * share


def _us(value: float) -> str:
    return f"{value:,.0f} µs"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(path: Path) -> None:
    """Passes a second over the latency of a step, for both sizes and several widths of a link."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "machines", "svg.fonttype": "none"}
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    latencies_us = [10 ** (power / 20) for power in range(0, 61)]
    for axis, model in zip(axes, (SMALL, LARGE), strict=True):
        for n_ranks, colour in ((2, "tab:blue"), (4, "tab:orange")):
            for width, style in ((1.25e9, ":"), (6.3e9, "-"), (450e9, "--")):
                links = [Link("", us * 1e-6, width) for us in latencies_us]
                rates = [1 / pass_s(model, MAC, link, n_ranks) for link in links]
                label = f"ring of {n_ranks}, {width / 1e9:g} GB/s"
                axis.plot(latencies_us, rates, style, color=colour, label=label)
        one = 1 / pass_s(model, MAC, ETHERNET, 1)
        axis.axhline(one, color="black", linewidth=1, label="one machine")
        axis.set(xscale="log", title=f"{model.name}, {MAC.name}", xlabel="latency of a step (µs)")
        axis.set_ylabel("passes a second, one token each")
    axes[1].legend(fontsize="x-small")
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    """Write the page's tables and the plot, or compare the tables.

    Returns:
        The exit code: 0, or 1 if the page is not what this would write.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only compare")
    parser.add_argument("--measured", type=Path, nargs="+", metavar="FILE", help="record these")
    args = parser.parse_args()
    if args.measured:
        runs = [json.loads(path.read_text("utf-8")) for path in args.measured]
        MEASURED.write_text(json.dumps(runs, indent=1) + "\n", "utf-8")
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = before + BEGIN + "\n" + tables() + END + after
    if args.check:
        if wanted != text:
            print(f"{PAGE} is not what tools/machines.py writes; run it.", file=sys.stderr)
        return int(wanted != text)
    PAGE.write_text(wanted, "utf-8")
    draw(PLOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
