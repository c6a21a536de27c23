"""SmolLM2-135M-Instruct, from the GGUF file to a translation (tox -e real-weights).

The file and the folder made of it are kept in $MLX_SIMUL_CACHE, by default where
tools/fetch_weights.py keeps the file.
"""

import argparse
import json

import pytest
from golden_cases import GOLDEN

import mlx_simul
from mlx_simul.console.validate import run

pytestmark = pytest.mark.real_weights

CASES = json.loads((GOLDEN / "smollm2_golden.json").read_text())["generation"]
SOURCE = "Good morning, how are you today?"


@pytest.fixture(scope="module")
def folder(converted):
    return converted("smollm2", "SmolLM2-135M-Instruct-float32")


@pytest.fixture(scope="module")
def loaded(folder):
    return mlx_simul.load(folder)


def test_folder_is_valid(folder, capsys):
    assert run(argparse.Namespace(folder=folder)) == 0, capsys.readouterr().out


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"k{case['wait_k']}-{case['source_text']}")
def test_ids_and_delays_are_those_of_the_reference(loaded, case):
    header, noted = case["assistant_ids"], case["wait_lagging"]
    *_, finished = mlx_simul.stream_generate(
        *loaded,
        mlx_simul.TokenizedSource(case["source_segments"], header),
        policy=mlx_simul.WaitK(case["wait_k"]),
        target_start=case["target_start"],
        max_tokens=len(case["output_ids"]) - len(header),
        gpe_compat=True,
    )
    # The reference's last id may be a look-ahead that its length limit let through.
    wanted = case["output_ids"][len(header) : -1]
    assert list(finished.token_ids[: len(wanted)]) == wanted
    assert list(finished.delays[: len(noted)]) == noted
    assert len(finished.delays) - len(noted) <= 1


def translate(loaded, source):
    return list(
        mlx_simul.stream_generate(
            *loaded,
            source,
            target_language="French",
            turns=None,
            policy=mlx_simul.WaitK(3),
            max_words=6,
        )
    )


def test_translation_keeps_to_its_schedule(loaded):
    *events, finished = translate(loaded, SOURCE)
    text = "".join(event.text for event in events if isinstance(event, mlx_simul.Write))
    assert text == finished.target_text == loaded[1].decode(list(finished.token_ids))
    assert text.startswith("Bienvenue"), text
    assert finished.delays == (3, 4, 5, 6, 6, 6)


def test_translation_of_a_live_source_is_the_same(loaded):
    assert translate(loaded, iter(SOURCE)) == translate(loaded, SOURCE)
