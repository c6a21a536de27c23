"""Write the packaged model's card from its record; --check only compares.

The record, ``record.json`` beside the weights, is written by ``tools/pack_default.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from measure_default import BEAMS, LOOKS, MAIN_POLICY, N_BEAMS, POLICIES, TALK_SENTENCES

from mlx_simul.checkpoints.loading import DEFAULT_MODEL

Tables: TypeAlias = Mapping[str, Mapping[str, Any]]

RECORD = "record.json"
CARD = "README.md"

TEMPLATE = """\
---
language: [en, fr]
license: mit
pipeline_tag: translation
library_name: mlx
tags: [simultaneous-translation, wait-k, mlx, mlx-simul]
---

# English to French, while the speaker is still talking

Written by `tools/model_card.py` from `{record}`, the record of a run. No figure is typed by hand.

This model comes with mlx_simul, which uses it unless you name another:

```
mlx-simul translate "I would like a cup of coffee."
```

It translates everyday English to French at any latency, from one word behind to the whole source,
with or without capitals and punctuation. It was trained from scratch with `mlx-simul train`. It is
small: use it to try things out, not where mistakes matter. Its training data are short sentences,
so it is best at these. It does not take an instruction, a context or a glossary.

## What it is

{n_parameters:.1f} M parameters: a {model_type} of {layers} layers, width {width}, {heads} heads
over {kv_heads} for keys and values, and a byte-level BPE of {vocabulary:,} entries. It is stored
in {bits} bits (groups of {group_size}, scales in float16), {megabytes:.1f} MB; on a CPU it is
converted to float32 when it is loaded. Source and target have separate positions (group position
encoding, arXiv 2505.16983); those of the target begin at {target_start}. SHA-256 of the weights:
`{weights_sha256}`.

## How well it translates

{the_set}, {n_sources:,} English sentences with {n_references:,} French references, none of
them in the training data. BLEU and chrF are sacrebleu's, against all references of a sentence; LAAL
is in source words, against the first reference. A dash means that it was not measured.

The sentences come in six spellings. *Captions* are in lower case and have no punctuation, as many
recognisers write. *Disfluent* sentences have one or two fillers ("uh") or repeated words. One row
is for `num_beams={n_beams}`, which takes more time; all other rows are greedy.

{looks}
{others}
* **Before packing**: `{main_policy}` in float32, as it was trained.
* **Talks**: the same sentences in talks of {talk_sentences}, each talk in one session. The same
  sentences alone are in the tables above.
* **History given**: the session was given the sentences before, each with its translation.
  {history}
  *History shown* is what the model writes if it sees them all the same.
* **Passages**: several sentences joined into one source, each with its first reference.
* **Plain mlx-lm**: the whole source in mlx-lm's own generation, where the target's positions follow
  the source's. The model was not trained for those.

A translation may have 64 tokens and 8 for each source word. {device}.
{versions}.
`{bleu_signature}`, `{chrf_signature}`.

`docs/speech.md` has its delays with a speech recogniser.

## How it was trained

{runs}
## Data

Sentence pairs of [Tatoeba](https://tatoeba.org) and its contributors, under
[CC BY 2.0 FR](https://creativecommons.org/licenses/by/2.0/fr/). `docs/default-model.md` says how
they were split and where to get them. The pairs are not part of this package; the weights are under
the package's own licence, with this attribution (`NOTICE`).
"""

_RUN = """\
{begin}{steps:,} steps over {tokens:,} tokens ({epochs} of {n_pairs:,} pairs),
{hours:.1f} hours on {hardware}. SHA-256 of the corpus, as `mlx_simul.evaluation.pairs` has it:
`{corpus}`. {options}
"""

_COLUMNS = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "laal": "LAAL",
    "ended": "ends by itself",
    "within_twice_the_source": "within twice the source",
    "length_ratio": "length ratio",
}
ROWS = ("clean", BEAMS, *(look for look in LOOKS if look != "clean"))
_SHARES = ("ended", "within_twice_the_source")


def card(record: Mapping[str, Any]) -> str:
    """The card's text.

    Args:
        record: as ``tools/pack_default.py`` writes it.
    """
    config, training, measured = record["config"], record["training"], record["test_set"]
    return TEMPLATE.format(
        record=RECORD,
        n_parameters=record["n_parameters"] / 1e6,
        megabytes=record["weights_bytes"] / 1e6,
        weights_sha256=record["weights_sha256"],
        model_type=config["model_type"],
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        vocabulary=config["vocab_size"],
        bits=config["quantization"]["bits"],
        group_size=config["quantization"]["group_size"],
        target_start=config["mlx_simul"]["target_start"],
        the_set="The validation set's beginning" if measured["is_part"] else "The validation set",
        n_sources=measured["n_sources"],
        n_references=measured["n_references"],
        looks="\n".join(
            _by_policy(record["quality"], metric) for metric in ("bleu", "chrf", "laal")
        ),
        others=_others(record["quality"]),
        main_policy=MAIN_POLICY,
        n_beams=N_BEAMS,
        talk_sentences=TALK_SENTENCES,
        history=_history(config["mlx_simul"].get("history_pairs", 0)),
        versions=", ".join(f"{name} {number}" for name, number in measured["versions"].items()),
        device=measured["device"],
        bleu_signature=measured["signatures"]["bleu"],
        chrf_signature=measured["signatures"]["chrf"],
        runs=_runs(training),
    )


def _by_policy(quality: Mapping[str, Any], metric: str) -> str:
    """One metric of each spelling under each policy."""
    rows = (
        [look, *(_cell(metric, quality.get(look, {}).get(p, {}).get(metric)) for p in POLICIES)]
        for look in ROWS
    )
    return _table([_COLUMNS[metric], *(f"`{policy}`" for policy in POLICIES)], rows)


def _others(quality: Mapping[str, Any]) -> str:
    """What was measured in one way or two, with all metrics."""
    rows = (
        [f"{group}: {name}", *(_cell(column, scores.get(column)) for column in _COLUMNS)]
        for group, named in quality.items()
        if group not in ROWS
        for name, scores in named.items()
    )
    return _table(["", *_COLUMNS.values()], rows)


def _packed_before(training: Mapping[str, Any]) -> str:
    """The weights of the last packed model that a run builds on."""
    before = training["after"]
    return before.get("weights_sha256") or _packed_before(before)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _history(n_pairs: int) -> str:
    """What a session does with earlier sentences."""
    if n_pairs:
        return f"It shows the model the last {n_pairs} at most."
    return "It leaves them out, because they would make this model worse: history changes nothing."


def _runs(training: Mapping[str, Any]) -> str:
    """One run after the other, the earliest first."""
    before = training.get("after")
    text = _RUN.format(
        begin="From there `mlx-simul train` once more, " if before else "`mlx-simul train`, ",
        steps=training["step"],
        tokens=training["tokens"],
        epochs="1 epoch" if training["epochs"] == 1 else f"{training['epochs']} epochs",
        n_pairs=training["n_pairs"],
        hours=training["seconds"] / 3600,
        hardware=training["hardware"],
        corpus=training["corpus"],
        options=_options(training["options"], before["options"] if before else {}),
    )
    if (share := training.get("share")) is not None:
        text += (
            f"\nThe weights are a mean: {share:g} of those of this run, and {1 - share:g} of those "
            f"of the earlier packed model, whose SHA-256 was\n`{_packed_before(training)}`.\n"
        )
    return f"{_runs(before)}\n{text}" if before else text


def _options(options: Tables, before: Tables) -> str:
    """A run's options, those that the run before did not have."""
    changed = {
        table: {k: v for k, v in entries.items() if before.get(table, {}).get(k) != v}
        for table, entries in options.items()
    }
    changed = {table: entries for table, entries in changed.items() if entries}
    if not changed:
        return "The options are the same."
    said = "The options that changed:" if before else "The options:"
    return f"{said}\n\n```toml\n{_toml(changed)}```"


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return "—"
    if column in _SHARES:
        return f"{100 * value:.1f} %"
    return f"{value:.2f}" if column in ("laal", "length_ratio") else f"{value:.1f}"


def _toml(tables: Tables) -> str:
    return "\n".join(
        f"[{table}]\n" + "".join(_entry(key, value) for key, value in options.items())
        for table, options in tables.items()
    )


def _entry(key: str, value: Any) -> str:
    text = json.dumps(value)
    return f"{key} = {text}\n" if len(text) < 90 else f"# {key}: in {RECORD}\n"


def main() -> int:
    """Write the card, or compare it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="fail if the card is not up to date")
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_MODEL)
    args = parser.parse_args()
    text = card(json.loads((args.folder / RECORD).read_text("utf-8")))
    if not args.check:
        (args.folder / CARD).write_text(text, "utf-8")
        return 0
    if (args.folder / CARD).read_text("utf-8") == text:
        return 0
    print(f"{args.folder / CARD} is not what its record says: tools/model_card.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
