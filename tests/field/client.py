"""The real client of SimulEval in processes of its own, and what our own sessions say."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

from simuleval.evaluator.instance import LogInstance
from simuleval.evaluator.scorers import get_scorer_class
from streams import words_of
from tiny_chat import write_chat_folder

import mlx_simul
from mlx_simul.evaluation.corpus import Item
from mlx_simul.evaluation.figures import policy_figures
from mlx_simul.evaluation.translate import Player, Translator
from mlx_simul.options import SessionOptions

LIMIT_S = 300
WAIT_K = 3
METRICS = ("AL", "LAAL", "AP", "DAL")
OPTIONS = ["--from", "English", "--to", "French", "--wait-k", str(WAIT_K)]
OPTIONS += ["--max-tokens", "24", "--max-tokens-per-word", "4"]

SOURCES = [
    *(" ".join("abcdefghijkl"[:n]) for n in range(1, 9)),
    *(f"Train {n} to Paris leaves at {n} o'clock, from platform {n + 1}." for n in range(8)),
    "Good morning, how are you today?",
    "I would like to buy a ticket, please.",
    "  white   space \t of several\u3000kinds ",
    "Łódź is a town, où est l'hôtel ?",
    "a 👩‍👧 and a café to end",
    "",  # SimulEval scores it for quality, and leaves it out of the latency
    "3.5 and 1,000 and https://example.org/a?b=c",
    "word",
]


class Corpus:
    """The sources as files, beside a tiny model, and how SimulEval's command is run on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = write_chat_folder(folder / "model")
        references = [f"a reference of {len(source)} words" for source in SOURCES]
        for name, lines in (("source", SOURCES), ("target", references)):
            (folder / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")
        self._loaded = mlx_simul.load(self.model)
        self.expected = list(map(self._by_sessions, SOURCES))

    def _by_sessions(self, source):
        """The words of our own session, and when each was there; SimulEval's split of a source."""
        events = mlx_simul.stream_generate(
            *self._loaded,
            " ".join(source.split()),
            policy=mlx_simul.WaitK(WAIT_K),
            source_language="English",
            target_language="French",
            max_tokens=24,
            max_tokens_per_word=4,
            max_target_source_ratio=3.0,
        )
        return words_of(events)

    def evaluate_ourselves(self, policy):
        """What ``mlx-simul evaluate`` records of the sources with words, and its latency."""
        options = SessionOptions.of(
            source_language="English",
            target_language="French",
            max_tokens=24,
            max_tokens_per_word=4,
            max_target_source_ratio=3.0,
        )
        translate = Translator(Player(*self._loaded, options))
        items = [
            Item(" ".join(source.split()), (f"a reference of {len(source)} words",))
            for source in SOURCES
            if source
        ]
        records = [translate(i, item.source, policy) for i, item in enumerate(items)]
        return records, policy_figures(items, records, "word", 400)["latency"]

    def evaluate(self, name, *options):
        """Run ``simuleval``; its log as words with their delays, and its scores."""
        out = self.folder / name
        files = ["--source", str(self.folder / "source"), "--target", str(self.folder / "target")]
        done = subprocess.run(
            [sys.executable, "-m", "simuleval.cli", *files, "--output", str(out), *options],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        assert done.returncode == 0, done.stderr
        names, values = (out / "scores.tsv").read_text().splitlines()
        scores = dict(zip(names.split("\t"), map(float, values.split("\t")), strict=True))
        log = [json.loads(line) for line in (out / "instances.log").read_text().splitlines()]
        words = [list(zip(row["prediction"].split(), row["delays"], strict=True)) for row in log]
        return words, scores

    def expected_scores(self, n=None):
        """What SimulEval's scorers make of the delays that we recorded, of the first n sources."""
        instances = {}
        for i, (source, words) in enumerate(list(zip(SOURCES, self.expected, strict=True))[:n]):
            row = {
                "index": i,
                "delays": [delay for _, delay in words],
                "source_length": len(source.split()),
                "reference": f"a reference of {len(source)} words\n",
            }
            instances[i] = LogInstance(json.dumps(row))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # SimulEval's, at an empty output
            scorers = {name: get_scorer_class("latency", name)() for name in METRICS}
            return {name: round(scorer(instances), 3) for name, scorer in scorers.items()}


def environment():
    """This one, in which the agents beside the tests are found, and threads are few."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "MKL_NUM_THREADS": "1"}
