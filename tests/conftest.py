"""Fixtures that the whole suite shares: the golden cases' models and tokenizer."""

import mlx_simul.before_mlx

import pytest
from golden_cases import GOLDEN, GOLDEN_MODELS
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_model
from transformers import PreTrainedTokenizerFast

from mlx_simul import archs


def pytest_addoption(parser):
    parser.addoption("--arch", help="run the laws of this architecture only (tests/conformance)")


@pytest.fixture(scope="session")
def tokenizer() -> TokenizerWrapper:
    """The golden cases' tokenizer: byte-level BPE, end of turn 2, no chat template."""
    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(GOLDEN / "tokenizer.json"), eos_token="<|im_end|>"
    )
    return TokenizerWrapper(fast, eos_token_ids=[2])


@pytest.fixture(scope="session")
def golden_models():
    """The tiny checkpoints of the golden cases, by name."""
    return {
        name: load_model(
            GOLDEN / name, get_model_classes=lambda config: archs.find(config["model_type"]).classes
        )[0]
        for name in GOLDEN_MODELS
    }


@pytest.fixture(scope="session")
def model(golden_models):
    """A tiny model, for tests to which the family does not matter."""
    return golden_models["qwen2-tiny-0"]
