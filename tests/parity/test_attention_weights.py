"""The same attention as transformers' eager layers, which keep theirs."""

import shutil

import numpy as np
import pytest
from golden_cases import GOLDEN

import mlx_simul
from mlx_simul.engine import make_engine
from mlx_simul.engine.attention import View, recording

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
N_SOURCE = 20
TOKENS = [(7 * i * i + 3 * i + 11) % 1024 for i in range(32)]
HEADS = [(layer, head) for layer in range(3) for head in range(4)]


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def checkpoint(request, tmp_path_factory):
    """A folder written by transformers, and its attention on TOKENS, (12 heads, 32, 32)."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(request.param, **TINY),
        dtype=torch.float32,
        attn_implementation="eager",
    )
    model.eval()
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    shutil.copy(GOLDEN / "tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}'
    )
    with torch.no_grad():
        layers = model(torch.tensor([TOKENS]), output_attentions=True).attentions
    return folder, np.concatenate([layer[0].numpy() for layer in layers])


@pytest.mark.parametrize("mode", ["group", "reencode"])
def test_attention_over_the_source_is_that_of_transformers(checkpoint, mode):
    folder, wanted = checkpoint
    model, _ = mlx_simul.load(folder)
    start = {"target_start": N_SOURCE} if mode == "group" else {}
    engine = make_engine(model, mode=mode, **start)
    engine.watch(HEADS)
    engine.read(TOKENS[:N_SOURCE])
    with recording([View.of_newest(HEADS, 12)]) as recorded:
        engine.write(TOKENS[N_SOURCE:])
    columns = list(engine.source_columns(0))
    got = np.array(recorded.weights())
    assert got.shape == (12, 12, 32)
    assert np.abs(got.sum(axis=-1) - 1).max() < 1e-5
    assert np.abs(got[..., columns] - wanted[:, N_SOURCE:, :N_SOURCE]).max() < 1e-5
    # Negative control: heads of another layer differ.
    assert np.abs(got[:4][..., columns] - wanted[4:8, N_SOURCE:, :N_SOURCE]).max() > 1e-3
