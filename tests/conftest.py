"""Fixtures that the whole suite shares: the golden cases' models and tokenizer."""

import json
import os
import signal
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import pytest
from golden_cases import GOLDEN, GOLDEN_MODELS
from hypothesis import settings
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_model
from transformers import PreTrainedTokenizerFast

from mlx_simul import archs

# A shell has its background jobs ignore Ctrl-C, and what they start does, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about the machine than about the code.
settings.register_profile("patient", deadline=None)
# tox tries the same examples in every run, so that a clean clone passes or fails for what is in it;
# pytest by itself tries new ones.
settings.register_profile("repeatable", settings.get_profile("patient"), derandomize=True)
settings.load_profile("repeatable" if "TOX_ENV_NAME" in os.environ else "patient")


def pytest_addoption(parser):
    parser.addoption("--arch", help="run the laws of this architecture, or of all (conformance)")
    parser.addoption("--record", type=Path, help="merge the errors measured into this JSON file")


@pytest.fixture(scope="session")
def record(request):
    """Notes a relative error measured on a model type, of a law in a mode or against another."""
    measured = defaultdict(lambda: defaultdict(dict))

    def note(model_type, what, name, error):
        errors = measured[model_type][what]
        errors[name] = max(error, errors.get(name, 0.0))

    yield note
    path = request.config.getoption("--record")
    if path is None:
        return
    recorded = json.loads(path.read_text("utf-8"))
    for model_type, kinds in measured.items():
        for what, errors in kinds.items():
            worst = float(f"{max(errors.values()):.1e}")
            figures = recorded["model_types"].setdefault(model_type, {})
            figures[what] = {"laws": len(errors), "error": worst}
            if what in ("transformers", "gguf"):
                recorded["versions"] |= {name: version(name) for name in ("transformers", "torch")}
            else:
                recorded["versions"] |= {name: version(name) for name in ("mlx", "mlx-lm")}
    path.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n", "utf-8")


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
