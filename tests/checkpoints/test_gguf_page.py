"""The page about GGUF files: what it says is what the code has."""

import sys
from importlib import import_module

import pytest
from repository import ROOT

from mlx_simul.checkpoints.gguf_families import FAMILIES

TOOLS = ROOT / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    return import_module("gguf_page")


def test_the_page_in_the_documents_is_up_to_date(tool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gguf_page.py", "--check"])
    assert tool.main() == 0


def test_every_family_was_measured(tool) -> None:
    for family in FAMILIES:
        row = next(row for row in tool.page().splitlines() if f"| `{family.model_type}` |" in row)
        errors = [float(cell) for cell in row.split("|") if "e-0" in cell]
        assert errors and max(errors) < 2e-5, row


def test_another_page_is_told(tool, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(tool, "page", lambda: "something else")
    monkeypatch.setattr(sys, "argv", ["gguf_page.py", "--check"])
    assert tool.main() == 1
    assert "run tools/gguf_page.py" in capsys.readouterr().err
