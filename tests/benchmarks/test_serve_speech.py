"""The benchmark of a server that hears, with a language of tones."""

import subprocess
import sys

import pytest
import soundfile
import tone_recogniser
from repository import ROOT
from tone_recogniser import PAUSE, tones

TALK = ("Do", "you", "want", "coffee?", PAUSE, PAUSE)


@pytest.mark.parametrize(
    ("said", "rate"), [(None, "–"), ("Do you want coffee?", "0.000"), ("No", "4.000")]
)
def test_it_measures_what_is_said_and_what_is_lost(tmp_path, monkeypatch, said, rate):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tone_recogniser.install(tmp_path)}")
    soundfile.write(tmp_path / "talk.wav", tones(TALK, 44_100), 44_100)
    if said is not None:
        pytest.importorskip("jiwer", reason="word error rates take the group speech")
        (tmp_path / "talk.txt").write_text(said)
    command = [sys.executable, str(ROOT / "benchmarks" / "serve_speech.py"), "talk.wav"]
    done = subprocess.run(
        [*command, "--recogniser", "tones", "--text", ".", "--speakers", "1", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 1" in done.stdout and "2 of 2" in done.stdout
    assert done.stdout.count(rate) == 2 and done.stdout.count("none") == 2
