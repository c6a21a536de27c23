"""A run small enough for a test: four words of a made-up language, and a model to learn them."""

from pathlib import Path
from typing import Any

from mlx_simul.evaluation.pairs import Pair
from mlx_simul.training.config import make_options
from mlx_simul.training.layout import Example
from mlx_simul.training.options import TrainOptions

MODEL = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "vocab_size": 280,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
WORDS = {"red": "rouge", "house": "maison", "tree": "arbre", "big": "grand"}
PAIRS = [
    Pair(f"{first} {second}.", f"{WORDS[second]} {WORDS[first]} .")
    for first in WORDS
    for second in WORDS
]

# Source and target as segments of token ids.
SHORT = Example(((1, 2), (3,), (4, 5), (6,)), ((7, 8), (9,), (10, 11), (2,)))
LONG = Example(
    ((1, 2), (30,), (31, 32, 33), (34,), (35, 36), (6,)),
    ((7, 8), (9, 40), (41,), (42, 43, 44), (45,), (46,), (2,)),
)


def write_pairs(path: Path) -> Path:
    """The whole corpus as TSV."""
    path.write_text("".join(f"{pair.source}\t{pair.target}\n" for pair in PAIRS), "utf-8")
    return path


def tables(folder: Path, **changes: dict[str, Any]) -> dict[str, Any]:
    """Options of a run in ``folder/run``, some tables changed."""
    pairs = folder / "pairs.tsv"
    if not pairs.exists():
        write_pairs(pairs)
    made: dict[str, Any] = {
        "data": {"train": str(pairs), "valid": str(pairs)},
        "model": {"config": MODEL},
        "layout": {"wait_k": [1, 2, "whole"], "target_start": 16},
        "batches": {"max_tokens": 60, "passage_rate": 0.2, "pool_pairs": 8},
        "optimiser": {"steps": 6, "warmup_steps": 3, "learning_rate": 4e-3},
        "run": {"folder": str(folder / "run"), "log_steps": 2, "validate_steps": 1000},
    }
    for name, table in changes.items():
        made[name] = table if name == "model" else {**made.get(name, {}), **table}
    return made


def options(folder: Path, **changes: dict[str, Any]) -> TrainOptions:
    """As :func:`tables`, made into options."""
    return make_options(tables(folder, **changes))
