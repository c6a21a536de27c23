"""Families with learned positions, or with layers that have none."""

from typing import Any

from tiny_configs.base import FULL, SLIDING, WINDOW

GPT2 = {
    "n_ctx": 256,
    "n_embd": 32,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 256,
    "layer_norm_epsilon": 1e-5,
    "num_key_value_heads": 4,
}
LLAMA4 = {
    "num_hidden_layers": 4,
    "intermediate_size_mlp": 48,
    "head_dim": 8,
    "tie_word_embeddings": True,
    "no_rope_layers": [1, 1, 1, 0],
}

CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
    "gpt2": {
        "tied": GPT2,
    },
    "gpt_bigcode": {
        "multi-query": {**GPT2, "n_inner": 64, "num_key_value_heads": 1},
        "multi-head": {
            **GPT2,
            "n_inner": 64,
            "multi_query": False,
            "activation_function": "gelu",
        },
    },
    "llama4_text": {
        "normed": {**LLAMA4, "use_qk_norm": True},
        "plain": {**LLAMA4, "use_qk_norm": False, "tie_word_embeddings": False},
    },
    "smollm3": {
        "every-fourth-nope": {"num_hidden_layers": 4, "tie_word_embeddings": True},
        "windowed": {
            "num_hidden_layers": 2,
            "no_rope_layers": [1, 0],
            "tie_word_embeddings": False,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "layer_types": [SLIDING, FULL],
        },
        "window-off": {
            "num_hidden_layers": 2,
            "no_rope_layers": [1, 0],
            "use_sliding_window": False,
            "sliding_window": WINDOW,
            "layer_types": [SLIDING, FULL],
        },
    },
}

TRANSFORMERS: dict[str, dict[str, Any]] = {
    # mlx-lm has no experts here, and leaves out what begins to matter beyond 8,192 tokens.
    "llama4_text": {
        "moe_layers": [],
        "attn_temperature_tuning": False,
        "attention_chunk_size": 256,
    },
}
