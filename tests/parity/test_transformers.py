"""The same logits as transformers on PyTorch, from the folders that transformers writes."""

import shutil

import mlx.core as mx
import numpy as np
import pytest
from golden_cases import GOLDEN

import mlx_simul
from mlx_simul.cache.positions import FixedStart
from mlx_simul.engine import StreamingEngine
from mlx_simul.testing import LAWS

pytestmark = pytest.mark.parity

TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
    "max_position_embeddings": 128,
    "eos_token_id": 2,
    "bos_token_id": None,
    "initializer_range": 0.1,
}
THETA = 777.0
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": THETA}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": THETA,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": THETA, "factor": 2.0}
QWEN2_WINDOW = {"use_sliding_window": True, "sliding_window": 7}

CASES = [
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen2", {"tie_word_embeddings": False, "rope_theta": THETA}),
    ("qwen2", {**QWEN2_WINDOW, "max_window_layers": 0}),
    ("qwen2", {**QWEN2_WINDOW, "max_window_layers": 2}),
    ("qwen2", {"use_sliding_window": False, "sliding_window": 7, "max_window_layers": 0}),
    ("qwen2", {"rope_parameters": {**YARN, "original_max_position_embeddings": 32}}),
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"rope_theta": THETA, "attention_bias": True, "mlp_bias": True}),
    ("llama", {"head_dim": 24, "num_key_value_heads": 1}),
    ("llama", {"rope_parameters": LLAMA3}),
    ("llama", {"rope_parameters": LINEAR}),
    ("llama", {"rope_parameters": YARN}),
    ("llama", {"rope_parameters": {**YARN, "attention_factor": 1.5}}),
    ("mistral", {"sliding_window": None}),
    ("mistral", {"sliding_window": 7, "rope_theta": THETA}),
    ("mistral", {"sliding_window": 1}),
    ("mistral", {"sliding_window": 7, "rope_parameters": YARN}),
]
IDS = [f"{name}-{'-'.join(map(str, config))}-{i}" for i, (name, config) in enumerate(CASES)]
TOKENS = [(7 * i * i + 3 * i + 11) % 1024 for i in range(48)]


@pytest.fixture(scope="module", params=CASES, ids=IDS)
def checkpoint(request, tmp_path_factory):
    """A folder written by transformers, and transformers' logits for TOKENS, (48, 1024)."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, config = request.param
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(model_type, **{**TINY, **config}), dtype=torch.float32
    )
    # Fresh biases are zero and fresh norms one, which would hide a mistake in either.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.eval()
    folder = tmp_path_factory.mktemp(model_type)
    model.save_pretrained(folder)
    shutil.copy(GOLDEN / "tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}'
    )
    with torch.no_grad():
        return folder, model(torch.tensor([TOKENS])).logits[0].numpy()


def relative_error(got: mx.array, wanted: np.ndarray) -> float:
    return float(np.abs(np.array(got) - wanted).max() / np.abs(wanted).max())


def test_batch_logits(checkpoint):
    folder, wanted = checkpoint
    model, _ = mlx_simul.load(folder)
    assert relative_error(model(mx.array([TOKENS]))[0], wanted) < 2e-5


@pytest.mark.parametrize("n_source", [1, 20, 40])
def test_streamed_logits(checkpoint, n_source):
    folder, wanted = checkpoint
    model, _ = mlx_simul.load(folder)
    engine = StreamingEngine(model, FixedStart(n_source))
    for i in range(0, n_source, 3):
        engine.read(TOKENS[i : min(i + 3, n_source)])
    got = [engine.write(TOKENS[i : i + 2])[0] for i in range(n_source, len(TOKENS), 2)]
    assert relative_error(mx.concatenate(got)[: len(TOKENS) - n_source], wanted[n_source:]) < 2e-5


@pytest.mark.parametrize("law", LAWS)
def test_laws(checkpoint, law):
    law(mlx_simul.load(checkpoint[0])[0]).require()
