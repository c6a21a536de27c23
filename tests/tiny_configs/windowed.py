"""Families whose layers see a window, some or all of them."""

from typing import Any

from tiny_configs.base import FULL, LINEAR, LLAMA3, SLIDING, TINY, WINDOW, YARN

GEMMA3 = {
    # mlx-lm rounds the root of it to bfloat16, transformers does not; the root of 64 is exact.
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "head_dim": 8,
    "query_pre_attn_scalar": 12,
    "rope_local_base_freq": 100.0,
    "sliding_window": WINDOW,
    "sliding_window_pattern": 3,
}
MUSE_GLIMMER = {
    "model_type": "muse_glimmer_text",
    **TINY,
    "num_hidden_layers": 4,
    "head_dim": 8,
    "post_norm_eps": 1e-8,
    "qk_scale_factor": 1.5,
    "sliding_window": WINDOW,
    "final_logit_softcapping": 20.0,
    "output_multiplier": 0.5,
    "tie_word_embeddings": False,
    "layer_types": [SLIDING, SLIDING, SLIDING, FULL],
}
MUSE_SPARK = {
    **MUSE_GLIMMER,
    "model_type": "muse_spark_text",
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
    "layer_rope_theta": [1000.0, 1000.0, 1000.0, 0],
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_hidden_size": 16,
    "moe_intermediate_size": 16,
    "routed_scaling_factor": 1.5,
}

CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
    "cohere2": {
        "every-fourth-full": {
            "num_hidden_layers": 4,
            "head_dim": 8,
            "layer_norm_eps": 1e-5,
            "logit_scale": 0.25,
            "sliding_window": WINDOW,
            "sliding_window_pattern": 4,
        },
    },
    "exaone4": {
        "hybrid": {
            "num_hidden_layers": 4,
            "head_dim": 8,
            "tie_word_embeddings": True,
            "rope_scaling": LLAMA3,
            "sliding_window": WINDOW,
            "sliding_window_pattern": "LLLG",
        },
        "global": {
            "head_dim": 8,
            "tie_word_embeddings": False,
            "rope_scaling": None,
            "sliding_window": None,
            "sliding_window_pattern": None,
        },
    },
    "gemma2": {
        "capped": {
            "head_dim": 8,
            "query_pre_attn_scalar": 12,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
            "sliding_window": WINDOW,
        },
    },
    "gemma3": {
        "text": {"text_config": {"model_type": "gemma3_text", **TINY, **GEMMA3}},
    },
    "gemma3_text": {
        "two-ropes": GEMMA3,
        "linear": {**GEMMA3, "rope_scaling": LINEAR},
    },
    "iquestloopcoder": {
        "two-loops": {"head_dim": 8, "loop_num": 2, "loop_window_size": WINDOW},
    },
    "mellum": {
        "sparse": {
            "num_hidden_layers": 3,
            "head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "norm_topk_prob": True,
            "tie_word_embeddings": False,
            "sliding_window": WINDOW,
            "layer_types": [SLIDING, SLIDING, FULL],
            "rope_parameters": {
                SLIDING: {"rope_type": "default", "rope_theta": 100.0},
                FULL: {**YARN, "rope_theta": 1000.0},
            },
        },
    },
    "ministral3": {
        **{
            name: {
                "rope_parameters": {
                    **YARN,
                    "original_max_position_embeddings": 16,
                    "rope_theta": 1000.0,
                    "llama_4_scaling_beta": beta,
                },
            }
            for name, beta in (("warm", 0.1), ("cold", 0.0))
        },
        "windowed": {
            "tie_word_embeddings": False,
            "sliding_window": WINDOW,
            "layer_types": [SLIDING, FULL],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1000.0,
                "original_max_position_embeddings": 8,
                "llama_4_scaling_beta": 0.2,
            },
        },
    },
    "muse_glimmer": {
        "nope-where-full": {"text_config": MUSE_GLIMMER},
    },
    "muse_spark": {
        "nope-where-full": {"text_config": MUSE_SPARK},
    },
    "olmo3": {
        "yarn": {
            "num_hidden_layers": 3,
            "sliding_window": WINDOW,
            "layer_types": [SLIDING, SLIDING, FULL],
            "rope_scaling": YARN,
        },
        "biased": {
            "num_hidden_layers": 2,
            "sliding_window": WINDOW,
            "layer_types": [SLIDING, FULL],
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
    },
    "plamo3": {
        "two-ropes": {
            "num_hidden_layers": 3,
            "head_dim": 8,
            "window_size": WINDOW,
            "sliding_window_pattern": 3,
            "rope_local_theta": 100,
        },
    },
    "spark2_5": {
        "gated": {
            "num_hidden_layers": 4,
            "head_dim": 8,
            "sliding_window": WINDOW,
            "rope_parameters": {
                SLIDING: {"rope_theta": 100.0, "partial_rotary_factor": 1.0},
                FULL: {"rope_theta": 1000.0, "partial_rotary_factor": 0.5},
            },
        },
        "windows-only": {
            "head_dim": 8,
            "sliding_window": WINDOW,
            "layer_types": [SLIDING, SLIDING],
            "rope_parameters": {SLIDING: {"rope_theta": 100.0}},
            "tie_word_embeddings": False,
        },
    },
}

_OLMO3_ROPE = {"rope_type": "default", "rope_theta": 1000.0}
_TINY_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
}

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "exaone4-global": {"layer_types": [FULL, FULL]},
    "exaone4-hybrid": {"sliding_window_pattern": 4},
    "gemma3": {"vision_config": _TINY_VISION, "mm_tokens_per_image": 4},
    "muse_glimmer": {
        "vision_config": _TINY_VISION,
        "out_hidden_size": 64,
        "projector_hidden_size": 16,
    },
    "muse_spark": {
        "vision_config": {**_TINY_VISION, "pos_emb_height": 4, "pos_emb_width": 4},
        "audio_config": {
            "num_hidden_layers": 2,
            "patch_sizes": [16, 6],
            "hidden_sizes": [8, 16],
            "depths": [1, 1],
            "out_hidden_size": 32,
        },
        "out_hidden_size": 64,
        "projector_hidden_size": 16,
    },
    "olmo3-biased": {"rope_parameters": {SLIDING: _OLMO3_ROPE, FULL: _OLMO3_ROPE}},
    "olmo3-yarn": {
        "rope_scaling": None,
        "rope_parameters": {SLIDING: _OLMO3_ROPE, FULL: {**YARN, "rope_theta": 1000.0}},
    },
}

NOT_COMPARED: dict[str, str] = {
    "iquestloopcoder": "not in transformers",
    "ministral3-windowed": "transformers has one window for all layers, whatever layer_types says",
    "plamo3": "not in transformers",
    "spark2_5": "not in transformers",
}
