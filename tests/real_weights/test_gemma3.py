"""Gemma 3 with 270 million parameters, from the GGUF file to a translation (tox -e real-weights).

The file holds the base model in six types of tensors; it is translated with zero-shot, told by
examples in the prompt. It is under the Gemma Terms of Use, so it is fetched and never kept here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conftest import fetch

import mlx_simul
from mlx_simul.checkpoints.gguf_split import open_gguf
from mlx_simul.console.validate import run

SOURCE = "The children are playing in the garden behind the house."
TARGET = "Les enfants jouent dans la cour derrière la maison."


@pytest.fixture(scope="module")
def folder(converted) -> Path:
    return converted("gemma3-270m", "gemma-3-270m-float32")


@pytest.fixture(scope="module")
def loaded(folder: Path):
    return mlx_simul.load(folder)


@pytest.mark.real_weights
def test_the_file_has_the_types_of_a_k_quant() -> None:
    types = {tensor.type.name for tensor in open_gguf(fetch("gemma3-270m")).tensors.values()}
    assert types == {"F32", "Q4_K", "Q5_0", "Q6_K", "Q8_0"}


@pytest.mark.real_weights
def test_the_folder_is_valid(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The base model has no chat template, which is what one check looks for.
    run(argparse.Namespace(folder=folder))
    report = capsys.readouterr().out
    for check in ("tensor shapes", "tensor values", "tokenizer"):
        assert any(check in line and " ok " in line for line in report.splitlines()), report


@pytest.mark.real_weights
@pytest.mark.parametrize("policy", [mlx_simul.WaitK(3), mlx_simul.WaitK(20)])
def test_it_translates_behind_the_source_as_it_does_offline(loaded, policy) -> None:
    target = mlx_simul.generate(
        *loaded,
        SOURCE,
        frame="few-shot",
        source_language="English",
        target_language="French",
        policy=policy,
    )
    assert target == TARGET


@pytest.mark.parity
def test_the_logits_are_those_of_transformers(folder: Path, loaded) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    file = fetch("gemma3-270m")
    theirs = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()
    ids = loaded[1].encode(f"English: {SOURCE}\nFrench:")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    with torch.no_grad():
        plain = theirs(torch.tensor([ids])).logits[0].numpy()
        # Gemma was trained with this number in bfloat16, and mlx-lm rounds it so in float32 too.
        exact = config["hidden_size"] ** 0.5
        rounded = torch.tensor(exact, dtype=torch.bfloat16).float()
        theirs.model.embed_tokens.embed_scale.copy_(rounded)
        wanted = theirs(torch.tensor([ids])).logits[0].numpy()
    ours = np.array(loaded[0](mx.array([ids]))[0])
    assert abs(ours - wanted).max() / abs(wanted).max() < 1e-4
    assert (ours.argmax(-1) == plain.argmax(-1)).mean() > 0.9
