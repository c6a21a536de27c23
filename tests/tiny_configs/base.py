"""What every tiny configuration starts from, and the ways of scaling RoPE that many share.

A family's own entries go on top: ``{"model_type": t, **TINY, **config}``. The laws feed 28 source
and 6 target tokens, parity 48, so a window of :data:`WINDOW` bites in each.
"""

from typing import Any

TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 96,
    "max_position_embeddings": 256,
    "rope_theta": 1000.0,
}

WINDOW = 5

SLIDING, FULL = "sliding_attention", "full_attention"

LINEAR: dict[str, Any] = {"rope_type": "linear", "factor": 2.0}
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
