"""The options of the server: flags win over --set, that over the environment, that over a file."""

import argparse
import json

import pytest

from mlx_simul.console import serve
from mlx_simul.errors import InvalidOptionError


def parsed(*argv):
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return parser.parse_args(argv)


def options(*argv, **environment):
    named = {f"{serve.ENVIRONMENT}{name}": value for name, value in environment.items()}
    return serve.all_options(parsed(*argv), {"HOME": "/", **named})


def test_flags_win_over_set_over_the_environment_over_the_file(tmp_path):
    config = tmp_path / "serve.toml"
    config.write_text("[address]\nport = 1\n[capacity]\nmax_sessions = 1\n", "utf-8")
    file = ("--config", str(config))
    assert options(*file)[0].address.port == 1
    assert options(*file, PORT="2")[0].address.port == 2
    assert options(*file, "--set", "address.port=3", PORT="2")[0].address.port == 3
    won, _, _ = options(*file, "--set", "address.port=3", "--port", "4", PORT="2")
    assert won.address.port == 4 and won.capacity.max_sessions == 1


def test_a_list_in_the_environment_is_written_as_in_toml():
    assert options(NAMES='["a.example", "b.example"]')[0].address.names == (
        "a.example",
        "b.example",
    )


def test_sessions_have_options_too():
    _, session, _ = options("--set", "session.policy=confidence:0.5")
    assert session.policy == "confidence:0.5"


@pytest.mark.parametrize(
    ("argv", "environment", "said"),
    [
        ((), {"PROT": "1"}, "prot"),
        ((), {"PORT": "x"}, "port"),
        (("--set", "adress.port=1"), {}, "adress"),
        (("--set", "address.prot=1"), {}, "prot"),
        (("--set", "session.polcy=wait-k:3"), {}, "polcy"),
        (("--set", "session.policy=wait"), {}, "wait"),
        (("--set", "models.x=5"), {}, "models.x"),
        (("--set", "models=5"), {}, "models"),
        (("--model", "a/x", "--model", "b/x"), {}, "'x'"),
        (("--model", "=a"), {}, "=a"),
        (("--host", "0.0.0.0"), {}, "--keys"),
        (("--port", "65536"), {}, "65536"),
        (("--id-prefix", "A_b"), {}, "A_b"),
        (("--resume-s", "0"), {}, "resume_s"),
        (("--max-waiting-audio-s", "0"), {}, "max_waiting_audio_s"),
    ],
)
def test_what_will_not_do_is_named(argv, environment, said):
    with pytest.raises(InvalidOptionError, match=said):
        options(*argv, **environment)


def test_a_recogniser_that_is_not_known_is_refused_before_a_model_is_loaded(monkeypatch):
    monkeypatch.setattr("mlx_simul.checkpoints.loading.load", None)  # calling it would fail
    monkeypatch.setattr("os.umask", lambda mask: None)  # of the process that runs the tests
    with pytest.raises(InvalidOptionError, match="no recogniser 'no-such'"):
        serve.run(parsed("--port", "0", "--recogniser", "no-such"))
    named = options("--set", "speech.recogniser=a:b")[0]
    assert named.speech.recogniser == "a:b" and options()[0].speech.recogniser is None


def test_models_have_the_names_of_their_folders():
    assert options()[2] == {"en-fr": ""}
    assert options("--model", "en-fr", "--model", "a/x")[2] == {"en-fr": "", "x": "a/x"}
    assert options("--model", "y=a/x", "--set", "models.z=b")[2] == {"y": "a/x", "z": "b"}


def test_check_shows_what_holds_and_reads_the_keys(tmp_path, capsys):
    keys = tmp_path / "keys"
    assert serve.run(parsed("--check", "--port", "99")) == 0
    assert json.loads(capsys.readouterr().out)["address"]["port"] == 99
    with pytest.raises(InvalidOptionError, match="cannot be read"):
        serve.run(parsed("--check", "--keys", str(keys)))
    keys.write_text("alice a-key-that-stays-secret\n", "utf-8")
    assert serve.run(parsed("--check", "--keys", str(keys))) == 0
    assert "stays-secret" not in capsys.readouterr().out
