"""The same beams as transformers' generate(), with the whole source read."""

import shutil

import pytest
from golden_cases import GOLDEN

import mlx_simul
from mlx_simul import Finished
from mlx_simul.text.prompts import TokenizedSource

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
    "initializer_range": 0.15,
}
MAX_TOKENS = 14
SOURCES = [[(7 * i * i + 3 * i * n + 11 + n) % 1000 + 3 for i in range(9)] for n in range(6)]


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def checkpoint(request, tmp_path_factory):
    """A folder written by transformers, and its model, which likes to end a sequence."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    config = AutoConfig.for_model(request.param, **TINY, tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        # An output that is larger in one direction makes one token likelier everywhere.
        rows = model.lm_head.weight
        rows *= 2.5
        rows[2] += 0.8 * rows[torch.randint(3, 1000, (8,))].sum(0)
    model.eval()
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    shutil.copy(GOLDEN / "tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}'
    )
    return folder, model


def generated(model, prompt, **options):
    """What transformers writes, and whether it ended by itself."""
    import torch

    with torch.no_grad():
        row = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=MAX_TOKENS,
            pad_token_id=0,
            eos_token_id=2,
            **options,
        )[0].tolist()
    tokens = row[len(prompt) :]
    return (tokens[: tokens.index(2)], True) if 2 in tokens else (tokens, False)


def streamed(folder, source, **options):
    """What a session writes once it has read all, and whether the model ended its turn."""
    model, tokenizer = mlx_simul.load(folder)
    segments = (source[:3], source[3:6], source[6:8])
    tokenized = TokenizedSource(tuple(map(tuple, segments)), tuple(source[8:]))
    *_, finished = mlx_simul.stream_generate(
        model,
        tokenizer,
        tokenized,
        policy="whole",
        max_tokens=MAX_TOKENS,
        max_target_source_ratio=None,
        **options,
    )
    assert isinstance(finished, Finished)
    return list(finished.token_ids), finished.reason != "max_tokens"


@pytest.mark.parametrize("mode", ["group", "reencode"])
@pytest.mark.parametrize("num_beams", [2, 4])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.0])
def test_with_the_whole_source_beams_are_those_of_transformers(
    checkpoint, mode, num_beams, length_penalty
):
    folder, model = checkpoint
    search = {"num_beams": num_beams, "length_penalty": length_penalty}
    start = {"target_start": 8} if mode == "group" else {}
    wanted = [generated(model, source, early_stopping=False, **search) for source in SOURCES]
    got = [streamed(folder, source, mode=mode, **start, **search) for source in SOURCES]
    assert got == wanted
    # Some ends are the model's own, and a greedy target differs.
    if length_penalty == 0:
        assert any(ended for _, ended in wanted)
    assert wanted != [generated(model, source, num_beams=1) for source in SOURCES]
