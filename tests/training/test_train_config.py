"""Options come from a file and from flags, and what does not fit is named."""

import argparse
import io

import pytest
from repository import ROOT
from rich.console import Console
from tiny_run import options, tables

from mlx_simul.console import cli
from mlx_simul.console import train as console
from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.fields import read_toml as read_config
from mlx_simul.machine.fields import set_option
from mlx_simul.training.config import as_tables, make_options
from mlx_simul.training.trainer import StepReport

TOML = """
[data]
train = "pairs.tsv"
[model]
path = "checkpoint"
[layout]
wait_k = [1, "whole"]
target_start = [8, 16]
[run]
folder = "out"
minutes = 3
"""


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    console.add_arguments(parser)
    return console.options_from(parser.parse_args(arguments))


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(TOML)
    return path


def test_a_file_makes_options(config):
    made = make_options(read_config(config))
    assert made.layout.wait_k == (1, None)
    assert made.layout.target_starts == (8, 16)
    assert made.run.minutes == 3.0
    assert made.optimiser.steps == 10_000


@pytest.mark.parametrize("name", ["fine_tune", "from_scratch", "noisy_sources"])
def test_the_examples_need_no_more_than_model_and_data(name):
    path = ROOT / "examples" / f"{name}.toml"
    model = [] if name == "from_scratch" else ["--model", "some-model"]
    made = parsed(str(path), "--data", "pairs.tsv", "--valid", "valid.tsv", *model)
    assert None in made.layout.wait_k
    assert made.optimiser.warmup_steps < made.optimiser.steps


def test_options_are_tables_again(tmp_path):
    made = options(tmp_path)
    assert make_options(as_tables(made)) == made


def test_augmentation_fits_together(config):
    made = read_config(config)
    set_option(made, "augment.caption_rate=0.7")
    set_option(made, "augment.names=[['Tom', 'Bob'], ['Mary', 'Ann']]")
    set_option(made, "augment.names_rate=1")
    assert make_options(made).augment.names == (("Tom", "Bob"), ("Mary", "Ann"))
    assert make_options(as_tables(make_options(made))) == make_options(made)
    set_option(made, "augment.lower_case_rate=0.4")
    with pytest.raises(InvalidOptionError, match="at most 1, since a source has one spelling"):
        make_options(made)


def test_flags_win_over_the_file(config):
    made = parsed(
        str(config), "--folder", "elsewhere", "--steps", "7", "--set", "layout.wait_k=[5]",
        "--set", "layout.instruction=Translate.", "--set", "batches.passage_rate=0",
    )  # fmt: skip
    assert (made.run.folder, made.optimiser.steps, made.layout.wait_k) == ("elsewhere", 7, (5,))
    assert made.layout.instruction == "Translate."
    assert made.batches.passage_rate == 0.0


def test_a_flag_with_a_text_stays_a_text():
    made = parsed("--data", "7.tsv", "--model", "true", "--folder", "2024")
    assert (made.model.path, made.run.folder) == ("true", "2024")


def test_flags_alone_are_enough():
    made = parsed("--data", "a.tsv", "--model", "m", "--folder", "f", "--fine-tune", "lora")
    assert (made.data.train, made.model.fine_tune) == ("a.tsv", "lora")


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("layout.nothing=1", "unknown option layout.nothing; known here are mode"),
        ("nothing.at_all=1", "unknown option nothing"),
        ("layout.wait_k=3", 'layout.wait_k must be a list of .a whole number or "whole"., got 3'),
        ("layout.wait_k=[0]", "wait_k must be"),
        ("layout.mode=both", "layout.mode must be 'group' or 'batch', got 'both'"),
        ("optimiser.steps=1.5", "optimiser.steps must be a whole number, got 1.5"),
        ("optimiser.steps=true", "optimiser.steps must be a whole number, got True"),
        ("batches.seed=-1", r"batches.seed must be from 0"),
        ("run.plot=1", "run.plot must be true or false, got 1"),
        ("layout.target_start=[1,2,3]", "layout.target_start must be"),
        ("augment.cut_rate=1.5", r"augment.cut_rate must be from 0 to 1, got 1.5"),
        ("augment.names_rate=0.5", "augment.names must be groups of names"),
        ("augment.names=[['Tom', 'Tom']]", r"one group each, once, got \['Tom'\]"),
        ("augment.names=[['Tom Sawyer']]", "must be one word, got 'Tom Sawyer'"),
        ("augment.names='Tom'", "augment.names must be a list of .a list of .a text"),
        ("augment.fillers=['']", "must be one word, got ''"),
        ("augment.history_pairs=0", "augment.history_pairs must be at least 1, got 0"),
        ("layout=1", "layout must be a table of options, got 1"),
        ("data.train.more=1", "train in data.train.more is not a table"),
        ("model.config={model_type='x'}", "either model.path"),
        ("model.fine_tune=lora", None),
    ],
)
def test_what_does_not_fit_is_named(config, assignment, says):
    made = read_config(config)

    def make():
        set_option(made, assignment)
        return make_options(made)

    if says is None:
        make()
        return
    with pytest.raises(InvalidOptionError, match=says):
        make()


def test_what_is_missing_is_named():
    with pytest.raises(InvalidOptionError, match=r"data\.train is missing"):
        make_options({"model": {"path": "m"}, "run": {"folder": "f"}})


@pytest.mark.parametrize("text", ["[data", "\udcff"], ids=["no TOML", "no text"])
def test_a_file_that_cannot_be_read_is_told(tmp_path, text):
    path = tmp_path / "bad.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidOptionError, match=r"bad\.toml"):
        read_config(path)


def test_the_command_trains_and_goes_on(tmp_path, capsys):
    made = tables(tmp_path, optimiser={"steps": 2})
    arguments = ["train", "--data", made["data"]["train"], "--folder", made["run"]["folder"]]
    for key, value in made["model"]["config"].items():
        text = str(value).lower() if isinstance(value, bool) else value
        arguments += ["--set", f"model.config.{key}={text}"]
    assert cli.main([*arguments, "--steps", "2", "--minutes", "1e-9"]) == 0
    assert "step 1 of 2\nThe same command goes on from there." in capsys.readouterr().out
    assert cli.main([*arguments, "--steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "step 2 of 2" in out
    assert "goes on" not in out


def test_wrong_options_are_wrong_usage(tmp_path, capsys):
    assert cli.main(["train", "--folder", str(tmp_path)]) == cli.EXIT_USAGE
    assert "data.train is missing" in capsys.readouterr().err


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_bar_tells_step_loss_and_speed_on_a_terminal_only(is_terminal):
    out = io.StringIO()
    console_ = Console(file=out, force_terminal=is_terminal, width=120)
    with console.StepBar(8, console_) as report:
        report(StepReport(3, 2.5, 1.0, 1e-3, 2200, 2.0))
    shown = out.getvalue()
    assert ("step 3/8" in shown) == is_terminal
    assert ("loss 2.500, 1100 tokens/s" in shown) == is_terminal
