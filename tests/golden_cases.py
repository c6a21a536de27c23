"""The golden cases: outputs of the public reference implementation (see tests/golden/README.md)."""

import json
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_MODELS = ("qwen2-tiny-0", "llama-tiny-0")


def golden_cases(name: str) -> dict:
    """The golden file of one tiny model."""
    return json.loads((GOLDEN / name / "golden.json").read_text())
