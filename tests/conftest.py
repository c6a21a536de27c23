"""Fixtures that the whole suite shares: golden cases and tiny models."""

import mlx_simul.before_mlx

import json
from pathlib import Path

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from transformers import PreTrainedTokenizerFast

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def tokenizer() -> TokenizerWrapper:
    """The golden cases' tokenizer: byte-level BPE, end of turn 2, no chat template."""
    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(GOLDEN / "tokenizer.json"), eos_token="<|im_end|>"
    )
    return TokenizerWrapper(fast, eos_token_ids=[2])
