"""A run ends with the same weights however often it was interrupted, and with a checkpoint."""

import datetime
import json
import os
import signal
import sys

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.utils import quantize_model, save
from tiny_run import MODEL, PAIRS, options, tables

import mlx_simul
from mlx_simul.errors import InvalidOptionError, ModelLoadError
from mlx_simul.evaluation.pairs import Pair
from mlx_simul.training.log import read_log
from mlx_simul.training.quality import translation_quality
from mlx_simul.training.run import Run
from mlx_simul.training.snapshot import read_state


def arrays_of(folder):
    return {name: np.array(a) for name, a in mx.load(str(folder / "training.safetensors")).items()}


def same_arrays(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)


class Stop(Exception):
    pass


def run_to(step, run_options, *, how="raise"):
    """Run a leg that is interrupted after a step: politely, or as a crash is, with no last word."""

    def report(done):
        if done.step == step and how == "raise":
            raise Stop
        if done.step == step:
            os.kill(os.getpid(), how)

    run = Run(run_options, report)
    try:
        return run, run.go()
    except Stop:
        return run, False


HARD = {"dropout": 0.2, "average": 0.9, "accumulate": 2}
NOISY = {"caption_rate": 0.5, "disfluent_rate": 0.5, "history_rate": 0.5, "cut_rate": 0.5}


@pytest.mark.parametrize(
    ("optimiser", "augment"), [({}, {}), (HARD, NOISY)], ids=["plain", "all that is random"]
)
def test_an_interrupted_run_ends_with_the_same_weights(tmp_path, optimiser, augment):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole = options(tmp_path / "a", optimiser=optimiser, augment=augment)
    assert Run(whole).go()

    # A snapshot after every step, a crash after step 2, a signal after step 4.
    run_options = {"snapshot_minutes": 0.0}
    parts = options(tmp_path / "b", optimiser=optimiser, augment=augment, run=run_options)
    run_to(3, parts)
    assert read_state(tmp_path / "b/run/latest").progress.step == 2
    _, ended = run_to(4, parts, how=signal.SIGTERM)
    assert not ended
    assert read_state(tmp_path / "b/run/latest").progress.step == 4
    assert Run(parts).go()

    expected, got = arrays_of(tmp_path / "a/run/latest"), arrays_of(tmp_path / "b/run/latest")
    assert same_arrays(got, expected)
    steps = [r["step"] for r in read_log(tmp_path / "b/run/log.jsonl") if "loss" in r]
    assert steps == [2, 4, 6]


@pytest.mark.parametrize("part", ["optimiser", "position", "step"])
def test_each_part_of_the_state_matters(tmp_path, part):
    """The negative control: a run that forgets a part of its state ends elsewhere."""
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    Run(options(tmp_path / "a", optimiser=HARD)).go()
    parts = options(tmp_path / "b", optimiser=HARD, run={"snapshot_minutes": 0.0})
    run_to(3, parts)
    counts_path = tmp_path / "b/run/latest/training.json"
    counts = json.loads(counts_path.read_text())
    if part == "optimiser":
        path = str(tmp_path / "b/run/latest/training.safetensors")
        arrays = {n: mx.zeros_like(a) if n.endswith(".m") else a for n, a in mx.load(path).items()}
        mx.eval(arrays)
        mx.save_safetensors(path, arrays)
    elif part == "position":
        counts["position"]["batch"] += 1
    else:
        counts["step"] += 1
    counts_path.write_text(json.dumps(counts))
    Run(parts).go()
    assert not same_arrays(
        arrays_of(tmp_path / "a/run/latest"), arrays_of(tmp_path / "b/run/latest")
    )


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A run that has learnt its corpus by heart."""
    folder = tmp_path_factory.mktemp("learned")
    run = Run(
        options(
            folder,
            batches={"max_tokens": 400, "passage_rate": 0.1},
            optimiser={"steps": 150, "warmup_steps": 10, "average": 0.9, "label_smoothing": 0.0},
            run={"validate_steps": 75, "bleu_sources": 8, "bleu_wait_k": ["whole"], "plot": True},
        )
    )
    assert run.go()
    return run


def test_what_was_learnt_is_translated(learned):
    model, tokenizer = mlx_simul.load(learned.latest)
    right = 0
    for pair in PAIRS:
        *_, last = mlx_simul.stream_generate(
            model, tokenizer, pair.source, policy=mlx_simul.WaitK(9)
        )
        right += last.target_text == pair.target
    assert right >= len(PAIRS) - 1
    quality = translation_quality(model, tokenizer, PAIRS, learned.options.layout, None)
    assert quality.chrf > 95
    assert quality.ended == 1.0
    assert quality.lag_words == 2.0


def test_the_first_word_cannot_be_known_from_the_first_alone(learned):
    """Targets are in reverse order, so wait-1 has to guess where waiting does not."""
    model, tokenizer = mlx_simul.load(learned.latest)
    early = translation_quality(model, tokenizer, PAIRS, learned.options.layout, 1)
    assert early.chrf < 80
    assert early.lag_words < 2.0


def test_any_reference_of_a_source_will_do(learned):
    model, tokenizer = mlx_simul.load(learned.latest)
    layout = learned.options.layout
    others = [Pair(pair.source, "quelque chose") for pair in PAIRS[:7]]
    both = translation_quality(model, tokenizer, [*others, *PAIRS], layout, None)
    assert both.chrf > 95
    wrong = translation_quality(model, tokenizer, others, layout, None)
    assert wrong.chrf < 50
    assert translation_quality(model, tokenizer, [*PAIRS, *others], layout, None, 2).ended == 1.0


def test_bleu_needs_pairs_and_sacrebleu(learned, monkeypatch):
    model, tokenizer = mlx_simul.load(learned.latest)
    with pytest.raises(InvalidOptionError, match="no pairs to measure BLEU on"):
        translation_quality(model, tokenizer, [], learned.options.layout, None)
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(InvalidOptionError, match="pip install"):
        translation_quality(model, tokenizer, PAIRS[:1], learned.options.layout, None)


def test_a_plot_without_matplotlib_is_refused_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InvalidOptionError, match="matplotlib"):
        Run(options(tmp_path, run={"plot": True}))
    assert not (tmp_path / "run").exists()


def test_the_log_tells_losses_that_fall(learned):
    records = read_log(learned.folder / "log.jsonl")
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < losses[0] / 3
    validations = [record for record in records if "valid_loss" in record]
    assert [record["step"] for record in validations] == [0, 75, 150]
    by_step = [record["valid_loss"]["whole"] for record in validations]
    assert by_step == sorted(by_step, reverse=True)
    assert "quality" not in validations[0]
    assert validations[-1]["quality"]["whole"]["ended"] == 1.0


def test_the_checkpoint_remembers_its_layout(learned):
    model, _ = mlx_simul.load(learned.latest)
    assert model.streaming_config.to_json() == {
        "mode": "group",
        "target_start": 16,
        "wait_k": [1, 2, "whole"],
        "frame": "auto",
        "max_tokens_per_word": 50,
        "gpe_compat": False,
    }


def test_the_best_checkpoint_is_kept_and_the_losses_drawn(learned):
    mlx_simul.load(learned.best)
    assert (learned.folder / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_average_is_what_is_used_and_the_weights_what_is_trained(learned):
    state = read_state(learned.latest)
    saved = mx.load(str(learned.latest / "model.safetensors"))
    for name, average in tree_flatten(state.average):
        assert mx.array_equal(saved[name], average)
    apart = [
        not mx.array_equal(saved[name], weight) for name, weight in tree_flatten(state.weights)
    ]
    assert all(apart)


@pytest.mark.parametrize("name", ["layout", "batches", "augment", "data"])
def test_a_folder_with_another_run_is_left_alone(tmp_path, name):
    Run(options(tmp_path, optimiser={"steps": 1})).go()
    before = arrays_of(tmp_path / "run/latest")
    (tmp_path / "other.tsv").write_text("a\tb\n")
    change = {
        "layout": {"target_start": 3},
        "batches": {"seed": 1},
        "augment": {"caption_rate": 0.1},
        "data": {"train": str(tmp_path / "other.tsv")},
    }[name]
    with pytest.raises(InvalidOptionError, match=f"another {name}"):
        Run(options(tmp_path, **{name: change}))
    assert same_arrays(arrays_of(tmp_path / "run/latest"), before)


def test_a_file_with_other_content_is_another_corpus(tmp_path):
    Run(options(tmp_path, optimiser={"steps": 1})).go()
    (tmp_path / "pairs.tsv").write_text("a\tb\n")
    with pytest.raises(InvalidOptionError, match="another corpus"):
        Run(options(tmp_path))


def test_a_run_goes_on_under_options_that_are_younger_than_it(tmp_path):
    Run(options(tmp_path, optimiser={"steps": 1})).go()
    path = tmp_path / "run/options.json"
    begun = json.loads(path.read_text())
    del begun["layout"]["gpe_compat"], begun["corpus"], begun["augment"]
    path.write_text(json.dumps(begun))
    assert Run(options(tmp_path, optimiser={"steps": 2})).go()


@pytest.mark.parametrize("text", ["", "[]", '{"layout": 3}'])
def test_damaged_options_are_told(tmp_path, text):
    Run(options(tmp_path, optimiser={"steps": 1})).go()
    (tmp_path / "run/options.json").write_text(text)
    with pytest.raises(InvalidOptionError, match=r"options\.json is damaged"):
        Run(options(tmp_path))


def test_more_steps_may_be_asked_of_a_run(tmp_path):
    assert Run(options(tmp_path, optimiser={"steps": 1})).go()
    before = mlx_simul.load(tmp_path / "run/latest")[1]
    longer = Run(options(tmp_path, optimiser={"steps": 2}))
    assert longer.trainer.progress.step == 1
    assert longer.go()
    after = mlx_simul.load(tmp_path / "run/latest")[1]
    assert after.get_vocab() == before.get_vocab()
    assert after.encode("red, 10 houses") == before.encode("red, 10 houses")


def test_a_damaged_snapshot_is_told(tmp_path):
    Run(options(tmp_path, optimiser={"steps": 1})).go()
    (tmp_path / "run/latest/training.safetensors").write_bytes(b"no")
    with pytest.raises(ModelLoadError, match="cannot be read"):
        Run(options(tmp_path))


def test_patience_ends_a_run_that_gets_no_better(tmp_path):
    impatient = options(
        tmp_path,
        optimiser={"steps": 50, "learning_rate": 1e-30},
        run={"validate_steps": 1, "patience": 3},
    )
    run = Run(impatient)
    assert run.go()
    assert run.trainer.progress.step == 3


def test_a_leg_ends_when_its_minutes_are_over(tmp_path):
    leg = options(tmp_path, optimiser={"steps": 1000}, run={"minutes": 1e-9})
    assert not Run(leg).go()
    assert read_state(tmp_path / "run/latest").progress.step == 1


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_learn_load_and_fuse(tmp_path, learned, kind):
    reversed_pairs = tmp_path / "pairs.tsv"
    # To be learnt now: targets in the order of their sources.
    reversed_pairs.write_text(
        "".join(f"{p.source}\t{' '.join(p.target.split()[1::-1])} .\n" for p in PAIRS)
    )
    run = Run(
        options(
            tmp_path,
            model={"path": str(learned.latest), "fine_tune": kind, "rank": 4},
            batches={"max_tokens": 400, "passage_rate": 0.0},
            optimiser={"steps": 40, "learning_rate": 1e-2, "label_smoothing": 0.0},
            run={"validate_steps": 20},
        )
    )
    assert run.go()
    losses = [
        r["valid_loss"]["whole"] for r in read_log(tmp_path / "run/log.jsonl") if "valid_loss" in r
    ]
    assert losses[-1] < losses[0]

    adapted, tokenizer = mlx_simul.load(learned.latest, adapter_path=run.latest)
    quality = translation_quality(adapted, tokenizer, PAIRS, run.options.layout, None)
    assert quality.chrf < 80

    names = {name.rpartition(".")[2] for name in mx.load(str(run.latest / "adapters.safetensors"))}
    assert names == {"lora_a", "lora_b"} | ({"m"} if kind == "dora" else set())
    ids = mx.array([[1, 5, 9, 7]])
    logits = adapted(ids)
    fused = [(n, m.fuse()) for n, m in adapted.named_modules() if hasattr(m, "fuse")]
    assert fused
    adapted.update_modules(tree_unflatten(fused))
    assert mx.allclose(adapted(ids), logits, atol=1e-3)


def test_full_fine_tuning_goes_on_from_the_checkpoint(tmp_path, learned):
    run = Run(
        options(
            tmp_path,
            model={"path": str(learned.latest)},
            optimiser={"steps": 3, "learning_rate": 1e-6},
        )
    )
    run.go()
    model, tokenizer = mlx_simul.load(run.latest)
    quality = translation_quality(model, tokenizer, PAIRS, learned.options.layout, None)
    assert quality.chrf > 95
    assert not same_arrays(
        *(
            {n: np.array(a) for n, a in mx.load(str(f / "model.safetensors")).items()}
            for f in (run.latest, learned.latest)
        )
    )


def test_quantised_weights_take_adapters_only(tmp_path, learned):
    model, tokenizer = mlx_simul.load(learned.latest)
    quantised, config = quantize_model(
        model, json.loads((learned.latest / "config.json").read_text()), 32, 8
    )
    save(tmp_path / "quantised", learned.latest, quantised, tokenizer, config)
    base = {"path": str(tmp_path / "quantised")}
    with pytest.raises(InvalidOptionError, match="quantised weights cannot be trained"):
        Run(options(tmp_path, model=base))
    adapted = options(tmp_path, model={**base, "fine_tune": "lora"}, optimiser={"steps": 1})
    assert Run(adapted).go()


def test_batch_mode_is_remembered_as_no_streaming_layout(tmp_path):
    run = Run(options(tmp_path, layout={"mode": "batch"}, optimiser={"steps": 1}))
    run.go()
    config = json.loads((run.latest / "config.json").read_text())
    assert not {"mode", "target_start", "wait_k"} & config["mlx_simul"].keys()


def test_starts_drawn_from_a_range_are_remembered(tmp_path):
    run = Run(options(tmp_path, layout={"target_start": [8, 20]}, optimiser={"steps": 1}))
    run.go()
    config = json.loads((run.latest / "config.json").read_text())["mlx_simul"]
    assert (config["target_start"], config["target_starts"]) == ("follow", [8, 20])


def test_earlier_turns_in_training_are_remembered(tmp_path):
    run = Run(options(tmp_path, augment={"history_rate": 0.5}, optimiser={"steps": 1}))
    run.go()
    config = json.loads((run.latest / "config.json").read_text())["mlx_simul"]
    assert config["history_pairs"] == 3


def test_a_new_model_needs_a_vocabulary(tmp_path):
    config = {key: value for key, value in MODEL.items() if key != "vocab_size"}
    with pytest.raises(InvalidOptionError, match="vocab_size"):
        Run(options(tmp_path, model={"config": config}))


def test_the_public_name_trains(tmp_path):
    folder = mlx_simul.train(tables(tmp_path, optimiser={"steps": 1}))
    assert folder == tmp_path / "run/latest"
    mlx_simul.load(folder)


def test_a_run_has_the_date_of_its_first_leg(tmp_path, monkeypatch):
    class Clock(datetime.date):
        shows = datetime.date(2026, 7, 30)

        @classmethod
        def today(cls):
            return cls.shows

    monkeypatch.setattr("mlx_simul.training.run.Date", Clock)
    begun = options(tmp_path, run={"snapshot_minutes": 0.0})
    first, _ = run_to(3, begun)
    assert first.options.layout.date == "2026-07-30"
    Clock.shows += datetime.timedelta(days=1)
    assert Run(begun).options.layout.date == "2026-07-30"
    with pytest.raises(InvalidOptionError, match="another layout"):
        Run(options(tmp_path, layout={"date": "2026-07-31"}))
    # A run that is older than this option goes on without one.
    path = tmp_path / "run" / "options.json"
    tables = json.loads(path.read_text("utf-8"))
    del tables["layout"]["date"]
    path.write_text(json.dumps(tables), "utf-8")
    assert Run(begun).options.layout.date is None


def test_a_date_that_is_not_one_is_refused(tmp_path):
    with pytest.raises(InvalidOptionError, match=r"date must be a day.*got '30\.7\.'"):
        options(tmp_path, layout={"date": "30.7."})
