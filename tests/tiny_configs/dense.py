"""Decoders with one plain key-value cache a layer, and rotary positions in each."""

from typing import Any

from tiny_configs.base import FULL, LINEAR, LLAMA3, SLIDING, WINDOW, YARN

LONGROPE = {
    "type": "longrope",
    # transformers takes these up to the original length, here 64; mlx_simul at any.
    "short_factor": [1.0, 1.1, 1.3, 1.5],
    "long_factor": [1.0, 1.4, 2.0, 3.0],
}
ATTENTION, NO_ATTENTION = {"n_heads_in_group": 2}, {"no_op": True}
FFN = {"ffn_mult": 4.0}

CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
    "apertus": {
        "plain": {
            "mlp_bias": False,
            "attention_bias": False,
            "post_norm": False,
            "qk_norm": True,
            "tie_word_embeddings": False,
            "hidden_act": "xielu",
        },
    },
    "bitnet": {
        "tied": {},
    },
    "cohere": {
        "plain": {"layer_norm_eps": 1e-5, "logit_scale": 0.25},
        "normed": {"layer_norm_eps": 1e-5, "logit_scale": 0.5, "use_qk_norm": True},
    },
    "ernie4_5": {
        "tied": {"head_dim": 8, "use_bias": False, "tie_word_embeddings": True},
        "biased": {"head_dim": 12, "use_bias": True, "tie_word_embeddings": False},
    },
    "exaone": {
        "tied": {"num_layers": 2, "layer_norm_epsilon": 1e-5},
        "llama3": {
            "num_layers": 2,
            "layer_norm_epsilon": 1e-5,
            "rope_scaling": LLAMA3,
            "tie_word_embeddings": False,
        },
    },
    "gemma": {
        "plain": {"head_dim": 12},
    },
    "glm": {
        "tied": {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": True},
        "untied": {
            "head_dim": 16,
            "partial_rotary_factor": 0.25,
            "tie_word_embeddings": False,
        },
    },
    "glm4": {
        "half-rotary": {"head_dim": 8, "attention_bias": True, "partial_rotary_factor": 0.5},
    },
    "gpt_neox": {
        "parallel": {
            "layer_norm_eps": 1e-5,
            "rotary_emb_base": 1000,
            "rotary_pct": 0.25,
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_key_value_heads": 4,
        },
        "sequential": {
            "layer_norm_eps": 1e-5,
            "rotary_emb_base": 1000,
            "rotary_pct": 1.0,
            "use_parallel_residual": False,
            "hidden_act": "gelu_new",
            "intermediate_size": 128,
            "num_key_value_heads": 4,
        },
    },
    "gptj": {
        "partly-rotary": {
            "n_embd": 32,
            "n_head": 4,
            "n_layer": 2,
            "n_positions": 256,
            "rotary_dim": 4,
        },
    },
    "granite": {
        "multipliers": {
            "logits_scaling": 4.0,
            "attention_multiplier": 0.2,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.4,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
        },
        "biased": {
            "logits_scaling": 1.0,
            "attention_multiplier": 0.35,
            "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
        },
    },
    "helium": {
        "untied": {
            "attention_bias": False,
            "mlp_bias": False,
            "head_dim": 8,
            "tie_word_embeddings": False,
        },
    },
    "hunyuan_v1_dense": {
        "normed": {"head_dim": 8, "use_qk_norm": True, "tie_word_embeddings": True},
        "alpha": {
            "head_dim": 8,
            "use_qk_norm": True,
            "rope_scaling": {"type": "dynamic", "alpha": 20.0, "factor": 1.0},
        },
    },
    "internlm2": {
        "untied": {"bias": False},
        "linear": {"bias": True, "rope_scaling": {"type": "linear", "factor": 2.0}},
        "dynamic": {"bias": False, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    },
    "internlm3": {
        "untied": {"bias": False, "qkv_bias": False, "head_dim": 8},
        "biased": {"bias": True, "qkv_bias": True, "head_dim": 8, "rope_scaling": LINEAR},
        "dynamic": {
            "bias": False,
            "qkv_bias": False,
            "head_dim": 8,
            "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
        },
    },
    "lille-130m": {
        "tied": {
            "block_size": 256,
            "layer_norm_eps": 1e-5,
            "n_embd": 64,
            "n_head": 4,
            "n_kv_heads": 2,
            "n_layer": 2,
        },
    },
    "llama": {
        "tied": {"tie_word_embeddings": True},
        "windowed": {
            "layer_types": [SLIDING, FULL],
            "sliding_window": WINDOW,
            "tie_word_embeddings": False,
        },
        "biased": {
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": 12,
            "rope_scaling": LLAMA3,
        },
        "linear": {"rope_scaling": LINEAR},
        "yarn": {"rope_scaling": YARN},
    },
    "mimo": {
        "untied": {"num_nextn_predict_layers": 1},
    },
    "minicpm": {
        "scaled": {"dim_model_base": 16, "scale_depth": 1.4, "scale_emb": 12.0},
        "tied": {
            "dim_model_base": 16,
            "scale_depth": 1.0,
            "scale_emb": 1.0,
            "tie_word_embeddings": True,
        },
        "longrope": {
            "dim_model_base": 16,
            "scale_depth": 1.4,
            "scale_emb": 12.0,
            "rope_scaling": {**LONGROPE, "original_max_position_embeddings": 64},
        },
    },
    "mistral": {
        "plain": {"tie_word_embeddings": True},
        "windowed": {"sliding_window": WINDOW, "tie_word_embeddings": False},
        "window-of-one": {"sliding_window": 1},
        "yarn": {"rope_scaling": YARN, "sliding_window": 7},
    },
    "nanbeige": {
        "one-loop": {"head_dim": 8},
        "two-loops": {"num_loops": 2},
        "two-loops-without-norm": {"num_loops": 2, "skip_loop_final_norm": True},
    },
    "nanochat": {
        "plain": {},
    },
    "nemotron": {
        "half-rotary": {"hidden_act": "relu2", "norm_eps": 1e-5, "partial_rotary_factor": 0.5},
        "linear": {
            "hidden_act": "relu2",
            "norm_eps": 1e-5,
            "partial_rotary_factor": 1.0,
            "rope_scaling": {"type": "linear", "factor": 2.0},
        },
    },
    "nemotron-nas": {
        "every-kind": {
            "num_hidden_layers": 4,
            "block_configs": [
                {"attention": NO_ATTENTION, "ffn": FFN},
                {"attention": ATTENTION, "ffn": FFN},
                {"attention": {"replace_with_linear": True}, "ffn": {"no_op": True}},
                {"attention": {"n_heads_in_group": 4}, "ffn": {"replace_with_linear": True}},
            ],
        },
        "linear-first": {
            "block_configs": [
                {"attention": {"replace_with_linear": True}, "ffn": FFN},
                {"attention": ATTENTION, "ffn": FFN},
            ],
            "rope_scaling": LLAMA3,
        },
    },
    "olmo2": {
        "untied": {"tie_word_embeddings": False},
    },
    "openelm": {
        "tied": {
            "head_dim": 8,
            "num_transformer_layers": 2,
            "model_dim": 32,
            "ffn_dim_divisor": 16,
            "num_query_heads": [4, 6],
            "num_kv_heads": [2, 3],
            "ffn_multipliers": [1.0, 2.0],
        },
    },
    "phi": {
        "half-rotary": {
            "partial_rotary_factor": 0.5,
            "layer_norm_eps": 1e-5,
            "num_key_value_heads": 4,
        },
    },
    "phi3": {
        "plain": {"partial_rotary_factor": 1.0},
        "windowed": {"sliding_window": WINDOW},
        "longrope": {
            "rope_scaling": LONGROPE,
            "original_max_position_embeddings": 64,
        },
    },
    "phi3small": {
        "half-sparse": {
            "dense_attention_every_n_layers": 2,
            "ff_intermediate_size": 64,
            "gegelu_limit": 20.0,
            "layer_norm_epsilon": 1e-5,
            "blocksparse_block_size": 32,
            "blocksparse_num_local_blocks": 1,
            "blocksparse_vert_stride": 3,
        },
    },
    "plamo": {
        "shared-heads": {"n_shared_head": 2},
    },
    "qwen": {
        "untied": {"kv_channels": 8, "layer_norm_epsilon": 1e-5, "num_key_value_heads": 4},
    },
    "qwen2": {
        "tied": {"tie_word_embeddings": True},
        "windowed": {
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 1,
            "tie_word_embeddings": False,
        },
        "window-unused": {
            "use_sliding_window": False,
            "sliding_window": WINDOW,
            "max_window_layers": 0,
        },
        "yarn": {"rope_scaling": YARN},
    },
    "qwen3": {
        "tied": {"head_dim": 8, "tie_word_embeddings": True},
        "yarn": {"head_dim": 12, "tie_word_embeddings": False, "rope_scaling": YARN},
        "windowed": {
            "head_dim": 8,
            "tie_word_embeddings": False,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 1,
        },
    },
    "seed_oss": {
        "biased": {
            "head_dim": 12,
            "attention_bias": True,
            "attention_out_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": False,
        },
    },
    "stablelm": {
        "parallel": {
            "use_qkv_bias": True,
            "partial_rotary_factor": 0.5,
            "layer_norm_eps": 1e-5,
            "use_parallel_residual": True,
            "qk_layernorm": True,
        },
        "sequential": {
            "use_qkv_bias": False,
            "partial_rotary_factor": 0.25,
            "layer_norm_eps": 1e-5,
            "hidden_size": 64,
        },
    },
    "starcoder2": {
        "tied": {
            "norm_epsilon": 1e-5,
            "hidden_act": "gelu",
            "tie_word_embeddings": True,
            "sliding_window": None,
        },
        "windowed": {
            "norm_epsilon": 1e-5,
            "tie_word_embeddings": False,
            "sliding_window": WINDOW,
        },
    },
    "talkie": {
        "plain": {"head_dim": 8},
    },
    "telechat3": {
        "yarn": {"rope_scaling": {**YARN, "rope_type": "telechat3-yarn"}},
        "biased": {"head_dim": 12, "attention_bias": True, "mlp_bias": True},
    },
}

NOT_COMPARED: dict[str, str] = {
    "internlm2": "not in transformers",
    "lille-130m": "not in transformers",
    "llama-windowed": "transformers' Llama has no windows",
    "mimo": "not in transformers",
    "minicpm": "not in transformers",
    "nanbeige": "not in transformers",
    "nemotron-nas": "not in transformers",
    "openelm": "not in transformers",
    "phi3small": "not in transformers",
    "plamo": "not in transformers",
    "qwen": "not in transformers",
    "talkie": "not in transformers",
    "telechat3": "not in transformers",
}
