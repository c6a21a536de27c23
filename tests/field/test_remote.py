"""SimulEval's own client against our server: the same again, in the words of its protocol."""

import json
import subprocess
import sys
from argparse import Namespace

import pytest
from client import OPTIONS, environment
from hypothesis import given
from hypothesis import strategies as st
from simuleval.data.segments import EmptySegment, TextSegment, segment_from_json_string

from mlx_simul import Finished, Write
from mlx_simul.console import simuleval
from mlx_simul.console.serve_simuleval import Service
from mlx_simul.serving.interpreter import Interpreter

pytestmark = pytest.mark.field

REMOTE = ["--remote-eval", "--dataloader", "text"]
REMOTE += ["--dataloader-class", "mlx_simul.console.simuleval.RemoteText"]


@pytest.fixture(scope="module")
def server(corpus):
    command = [sys.executable, "-m", "mlx_simul", "serve-simuleval", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--model", str(corpus.model), *OPTIONS],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        said = process.stdout.readline()
        yield ["--remote-address", "127.0.0.1", "--remote-port", said.rpartition(":")[2].strip()]
    finally:
        process.kill()
        process.communicate()


def test_words_delays_and_scores_are_those_of_our_sessions(corpus, server):
    words, scores = corpus.evaluate("remote", *REMOTE, *server)
    assert words == corpus.expected
    expected = corpus.expected_scores()
    assert {name: scores[name] for name in expected} == expected


class Echo:
    """A session that writes each word it hears twice, one word late."""

    def __init__(self):
        self._heard = []

    def feed(self, text):
        before, self._heard = self._heard, text.split()
        return [Write(0, f" {word}{word}", True, 0, 0) for word in before]

    def finish(self):
        return [*self.feed(""), Finished("end_of_turn", (), "", (), 0)]


words = st.text(st.characters(codec="utf-8"), max_size=5)
requests = st.lists(st.tuples(words, st.booleans()) | st.sampled_from(["empty", "output", "reset"]))


@pytest.fixture(scope="module")
def agent():
    """Our agent with an echo for a model, as SimulEval's own server runs one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simuleval, "load_sessions", lambda args: Echo)
        yield simuleval.MLXSimulAgent(Namespace())


@given(requests=requests)
def test_our_server_answers_as_simulevals_own(agent, requests):
    service = Service(Interpreter(Echo))
    agent.reset()
    ended = False  # SimulEval's takes an end back that a later segment does not repeat
    for request in [*requests, "output"]:
        if request == "reset":
            ended = False
            agent.reset()
            service.answer("POST", "/reset", b"")
        elif request == "output":
            ours = service.answer("GET", "/output", b"")
            theirs = json.loads(agent.pop().json())
            assert ours == {name: theirs[name] for name in ours}
            # What is left out has a default.
            assert segment_from_json_string(json.dumps(ours)).json
        else:
            segment = EmptySegment(finished=True)
            if request != "empty":
                finished = ended or request[1]
                segment = TextSegment(content=request[0], finished=finished, tgt_lang=None)
            ended |= segment.finished
            agent.push(segment_from_json_string(segment.json()))
            assert service.answer("PUT", "/input", segment.json().encode()) == {}
