"""SimulEval's own command on our agent: the words, delays and scores of our own sessions."""

import pytest
from client import METRICS, OPTIONS

import mlx_simul

pytestmark = pytest.mark.field


@pytest.fixture(scope="module")
def evaluated(corpus):
    return run(corpus, "mlx_simul.console.simuleval.MLXSimulAgent")


def run(corpus, agent, *more):
    model = ["--model", str(corpus.model)]
    return corpus.evaluate(agent, "--agent-class", agent, *model, *OPTIONS, *more)


def test_words_and_delays_are_those_of_our_sessions(corpus, evaluated):
    assert evaluated[0] == corpus.expected
    assert len(corpus.expected) == 24
    assert sum(map(len, corpus.expected)) > 100
    assert not corpus.expected[21]


def test_scores_are_those_of_our_delays(corpus, evaluated):
    expected = corpus.expected_scores()
    assert {name: evaluated[1][name] for name in expected} == expected


def test_where_all_comes_at_once_it_is_what_evaluate_finds(corpus):
    """Then nothing is written on to a word that was given before: SimulEval would part the two."""
    words, scores = run(corpus, "mlx_simul.console.simuleval.MLXSimulAgent", "--wait-k", "100")
    records, latency = corpus.evaluate_ourselves(mlx_simul.WaitK(100))
    found = [[word for word, _ in each] for each in words if each]
    assert found == [record.prediction.split() for record in records]
    assert [[delay for _, delay in each] for each in words if each] == [
        list(record.delays) for record in records
    ]
    for name in METRICS:
        assert scores[name] == pytest.approx(latency[name.lower()], abs=0.00051)


@pytest.mark.parametrize("broken", ["Early", "Late", "CutsWords", "NeverResets"])
def test_an_agent_that_counts_or_cuts_otherwise_is_detected(corpus, broken):
    words, scores = run(corpus, f"broken_agents.{broken}", "--end-index", "8")
    assert len(words) == 8
    assert words != corpus.expected[:8]
    assert any(scores[name] != score for name, score in corpus.expected_scores(8).items())
