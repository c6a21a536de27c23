"""A model from anywhere streams as a loaded one, or is refused; and it stays as it is."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any
from weakref import ref

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import gemma, gemma2, llama, qwen2
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tuner.utils import linear_to_lora_layers
from streams import TEXT, run
from tiny_checkpoints import golden_folder
from tiny_configs import CONFIGS, full_config
from tiny_models import fresh_model
from transformers import AutoTokenizer
from without_metal import replace_kernels

import mlx_simul
from mlx_simul import Sessions, SimulSession, archs
from mlx_simul.archs.hf_config import overrides_for_mlx_lm
from mlx_simul.archs.prepare import prepared, prepared_copy
from mlx_simul.archs.surgery import Surgery, anatomy, copy_of, is_prepared, is_unchanged, undo
from mlx_simul.cache.positions import FixedStart
from mlx_simul.errors import InvalidOptionError
from mlx_simul.testing import ENGINE_OF_MODE
from mlx_simul.training.cache import make_training_caches

CASES = [
    pytest.param(model_type, name, id=f"{model_type}-{name}")
    for model_type in archs.registered_types()
    for name in CONFIGS[model_type]
]
REPAIRED = [t for t in archs.registered_types() if any(r.operate for r in archs.find(t).repairs)]
SOURCE, TARGET = (7, 3, 11, 2, 60, 41, 5, 23, 90), (1, 17, 8)
LOAD = r"mlx_simul\.load\("


WRITES_ASTRAY = {"phi3small"}
"""mlx-lm's own forbids ids of its full vocabulary, far beyond the logits of a tiny model: it writes
over whatever lies there in memory, so it must not be run."""


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_kernels(monkeypatch)


def translated(model_type: str, name: str) -> dict[str, Any]:
    config = full_config(model_type, name)
    return config | overrides_for_mlx_lm(config)


def ours(model_type: str, name: str) -> Any:
    mx.random.seed(0)
    return fresh_model(model_type, translated(model_type, name))


def stock(
    model_type: str, name: str, weights_of: nn.Module | None = None, drop: tuple[str, ...] = ()
) -> Any:
    """A model built straight from mlx-lm's classes; its weights are those of ``weights_of``."""
    model_class, args_class = archs.find(model_type).stock_classes
    config = {k: v for k, v in translated(model_type, name).items() if k not in drop}
    model = model_class(args_class.from_dict(config))
    if weights_of is not None:
        known = dict(tree_flatten(model.parameters()))
        given = dict(tree_flatten(weights_of.parameters()))
        model.load_weights([(n, w) for n, w in given.items() if n in known])
    model.eval()
    return model


def passes(model: Any, mode: str | None = None) -> mx.array:
    """Logits of a stream over the model: reads and writes in turn, and a read that moves φ."""
    engine = ENGINE_OF_MODE[mode or archs.of(model).modes[0]](model, FixedStart(40))
    engine.read(SOURCE[:4])
    rows = [engine.write(TARGET[:2])]
    engine.read(SOURCE[4:])
    rows += [engine.write([token]) for token in TARGET[2:]]
    return mx.concatenate(rows, axis=1)


def whole(model: Any) -> mx.array:
    """Logits of an ordinary pass over the model's own caches, in pieces."""
    caches = make_prompt_cache(model)
    pieces = [SOURCE, *([token] for token in TARGET), TARGET]
    return mx.concatenate([model(mx.array([list(p)]), cache=caches) for p in pieces], axis=1)


def kinds(model: nn.Module) -> list[type]:
    return [type(module) for _, module in sorted(model.named_modules(), key=lambda pair: pair[0])]


# For all families


@pytest.mark.parametrize(("model_type", "name"), CASES)
def test_a_stock_model_streams_as_the_one_that_is_loaded_or_is_refused(model_type: str, name: str):
    wanted = ours(model_type, name)
    given = stock(model_type, name, weights_of=wanted)
    before = anatomy(given)
    if any(repair.lost_because for repair in archs.find(model_type).repairs):
        with pytest.raises(InvalidOptionError, match=LOAD):
            prepared(given, full_config(model_type, name))
        return
    logits = passes(wanted)
    config = full_config(model_type, name)
    assert mx.array_equal(passes(prepared(given, config)), logits)
    assert is_unchanged(given, before)
    alone = stock(model_type, name, weights_of=wanted)
    try:
        found = passes(alone)
    except InvalidOptionError as refusal:
        assert any(repair.reads for repair in archs.find(model_type).repairs)
        assert "mlx_simul.load(" in str(refusal) and "mlx_simul.prepare(" in str(refusal)
    else:
        assert mx.array_equal(found, logits)


@pytest.mark.parametrize(("model_type", "name"), CASES)
def test_a_model_that_mlx_lm_built_from_a_misread_config_is_refused(model_type: str, name: str):
    config = full_config(model_type, name)
    model_class, args_class = archs.find(model_type).stock_classes
    try:
        given = model_class(args_class.from_dict(deepcopy(config)))
        right = args_class.from_dict(translated(model_type, name))
    except Exception:
        pytest.skip("mlx-lm's classes refuse this config")
    if any(repair.lost_because for repair in archs.find(model_type).repairs):
        return
    is_misread = any(
        getattr(right, n) != getattr(args_class.from_dict(deepcopy(config)), n) for n in vars(right)
    )
    if is_misread:
        with pytest.raises(InvalidOptionError, match=f"misread.*{LOAD}"):
            prepared(given, config)
    else:
        prepared(given, config)


@pytest.mark.parametrize(("model_type", "name"), CASES)
def test_what_was_changed_is_changed_back(model_type: str, name: str):
    model = ours(model_type, name)
    drop = tuple(n for repair in archs.find(model_type).repairs for n in repair.ignores)
    untouched = stock(model_type, name, weights_of=model, drop=drop)
    assert is_prepared(model)
    undo(model)
    assert not is_prepared(model)
    if "ernie" in model_type:  # it has weights that mlx-lm's has a place for nowhere
        return
    assert kinds(model) == kinds(untouched)
    if model_type not in WRITES_ASTRAY:
        assert mx.array_equal(whole(model), whole(untouched))
    # A model of mlx-lm's own, in place and back.
    untouched = stock(model_type, name)
    before = anatomy(untouched)
    mlx_simul.prepare(untouched, full_config(model_type, name))
    assert is_prepared(untouched) and not is_unchanged(untouched, before)
    undo(untouched)
    assert is_unchanged(untouched, before)


@pytest.mark.parametrize("model_type", REPAIRED)
def test_a_repair_is_needed_in_the_release_that_it_names(model_type: str):
    """In another release it only informs that the repair may go."""
    if model_type in WRITES_ASTRAY:
        return
    architecture = archs.find(model_type)
    (repair, *_) = architecture.repairs
    if is_shown_to_be_needed(model_type, architecture):
        return
    told = (
        f"mlx-lm {version('mlx-lm')} computes every tiny config of {model_type} right without the "
        f"repair, which was needed in {repair.needed_in}: {repair.because} {repair.reported or ''}"
    )
    if version("mlx-lm") == repair.needed_in:
        pytest.fail(told)
    pytest.skip(told)


def is_shown_to_be_needed(model_type: str, architecture: Any) -> bool:
    """Whether some tiny config computes otherwise without the repairs."""
    for name in CONFIGS[model_type]:
        model = ours(model_type, name)
        try:
            bare = prepared_copy(stock(model_type, name, weights_of=model), without(architecture))
            # In each way in which a stream or mlx-lm runs it.
            agree = mx.array_equal(passes(bare), passes(model)) and mx.array_equal(
                whole(bare), whole(model)
            )
        except Exception:
            agree = False
        if not agree:
            return True
    return False


def test_a_repair_that_changes_nothing_is_not_shown_to_be_needed():
    assert not is_shown_to_be_needed("llama", archs.find("llama"))


def without(architecture: Any) -> Any:
    class Bare(type(architecture)):
        repairs = ()

    bare = object.__new__(Bare)
    vars(bare).update(vars(architecture))
    return bare


def test_a_repair_says_what_for():
    for model_type in archs.registered_types():
        for repair in archs.find(model_type).repairs:
            assert repair.because.endswith(".") and repair.needed_in
            assert repair.operate or repair.weights


# As people do it


WINDOWED = {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 4}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Qwen 2 with windows, which mlx-lm leaves out."""
    folder = golden_folder(tmp_path / "qwen2", "qwen2")
    edit(folder, **WINDOWED)
    return folder


def edit(folder: Path, **entries: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_a_model_from_mlx_lm_is_put_right_by_the_config_beside_its_tokenizer(folder: Path):
    edit(folder, mlx_simul={"target_start": 64})
    wanted = run(*mlx_simul.load(folder), TEXT, max_tokens=12)
    given, tokenizer = mlx_lm.load(str(folder))
    before, kinds_before = anatomy(given), kinds(given)
    assert run(given, tokenizer, TEXT, max_tokens=12) == wanted
    plain = AutoTokenizer.from_pretrained(str(folder))
    assert run(given, plain, TEXT, max_tokens=12) == wanted
    session = SimulSession(given, tokenizer)
    assert session._engine._target_start == FixedStart(64)
    assert is_unchanged(given, before) and kinds(given) == kinds_before
    # The windows make a difference here.
    edit(folder, use_sliding_window=False)
    assert run(*mlx_simul.load(folder), TEXT, max_tokens=12) != wanted


def test_a_model_whose_config_is_not_known_is_refused_with_the_line_to_write(folder, tokenizer):
    given, _ = mlx_lm.utils.load_model(folder)
    for use in (
        lambda: SimulSession(given, tokenizer),
        lambda: Sessions(given, tokenizer),
        lambda: next(iter(mlx_simul.stream_generate(given, tokenizer, TEXT))),
        lambda: SimulSession(mlx_simul.load(folder)[0], tokenizer, draft=(given, tokenizer)),
        lambda: mlx_simul.prepare(given),
        lambda: make_training_caches(given),
    ):
        with pytest.raises(InvalidOptionError, match=LOAD):
            use()
    mlx_simul.prepare(given, json.loads((folder / "config.json").read_text()))
    loaded, _ = mlx_simul.load(folder)
    assert run(given, tokenizer, TEXT) == run(loaded, tokenizer, TEXT)
    assert len(make_training_caches(given)) == len(given.layers)


def test_a_config_of_another_model_is_not_taken(folder: Path, tmp_path: Path):
    other = golden_folder(tmp_path / "llama", "llama")
    given, _ = mlx_lm.utils.load_model(folder)
    with pytest.raises(InvalidOptionError, match="use_sliding_window"):
        SimulSession(given, AutoTokenizer.from_pretrained(str(other)))
    with pytest.raises(InvalidOptionError, match="belongs to another model"):
        mlx_simul.prepare(given, json.loads((other / "config.json").read_text()))
    # It would not matter to a family that keeps all that counts.
    given, _ = mlx_lm.utils.load_model(other)
    SimulSession(given, AutoTokenizer.from_pretrained(str(folder)))


def test_the_config_is_found_in_the_local_cache_of_a_repository(folder, tokenizer, monkeypatch):
    from mlx_simul.archs import prepare

    given, _ = mlx_lm.utils.load_model(folder)
    asked = []

    def cached(name: str, file: str) -> str:
        asked.append((name, file))
        return str(folder / file)

    monkeypatch.setattr(prepare, "try_to_load_from_cache", cached)
    named = AutoTokenizer.from_pretrained(str(folder))
    named.name_or_path = "someone/qwen2"
    assert run(given, named, TEXT) == run(*mlx_simul.load(folder), TEXT)
    assert asked == [("someone/qwen2", "config.json")] * len(asked) and asked


def test_a_misread_config_is_refused_by_name(tmp_path: Path):
    folder = golden_folder(tmp_path / "llama", "llama")
    config = json.loads((folder / "config.json").read_text())
    rope = {"rope_type": "default", "rope_theta": 2 * config.pop("rope_theta")}
    (folder / "config.json").write_text(json.dumps(config | {"rope_parameters": rope}))
    with pytest.raises(InvalidOptionError, match=f"misread.*rope_theta.*{LOAD}"):
        SimulSession(*mlx_lm.load(str(folder)))


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("bits", [None, 4])
def test_quantised_models_and_adapters_keep_what_they_are(bits, dora, caplog):
    wanted = ours("qwen2", "windowed")
    given = stock("qwen2", "windowed", weights_of=wanted)
    for model in (wanted, given):
        if bits is not None:
            nn.quantize(model, group_size=32, bits=bits)
        mx.random.seed(3)
        model.freeze()
        linear_to_lora_layers(model, 2, {"rank": 2, "scale": 9.0, "dropout": 0.0}, use_dora=dora)
        model.eval()
        for name, weight in tree_flatten(model.parameters()):
            if "lora_b" in name:
                mx.random.seed(len(name))
                model.load_weights([(name, mx.random.normal(weight.shape))], strict=False)
    before = anatomy(given)
    with caplog.at_level(logging.WARNING):
        found = passes(prepared(given, full_config("qwen2", "windowed")))
    assert "adapter_config.json" in caplog.text
    assert mx.array_equal(found, passes(wanted))
    assert is_unchanged(given, before)
    assert not mx.array_equal(found, passes(ours("qwen2", "windowed")))


class Doubled(gemma2.Model):
    """A user's subclass of a model that is put right below it."""

    def __call__(self, *args: Any, **kwargs: Any) -> mx.array:
        return 2 * super().__call__(*args, **kwargs)


class Halved(gemma2.Attention):
    def __call__(self, *args: Any, **kwargs: Any) -> mx.array:
        return super().__call__(*args, **kwargs) / 2


def test_subclasses_of_mlx_lm_s_classes_stay_on_top():
    wanted = ours("gemma2", "capped")
    given = stock("gemma2", "capped", weights_of=wanted)
    given.__class__ = Doubled
    config = full_config("gemma2", "capped")
    assert mx.array_equal(passes(prepared(given, config)), 2 * passes(wanted))
    assert type(given) is Doubled
    for model in (wanted, given):
        attention = model.layers[1].self_attn
        attention.o_proj.weight = attention.o_proj.weight / (2 if model is wanted else 1)
    given.layers[1].self_attn.__class__ = Halved
    found = passes(prepared(given, config))
    assert mx.allclose(found, 2 * passes(wanted), atol=1e-5)


def test_a_module_that_is_not_mlx_lm_s_is_refused_and_nothing_is_changed():
    class Own(nn.Module):
        def __call__(self, x: mx.array) -> mx.array:
            return x

    given = stock("gemma", next(iter(CONFIGS["gemma"])))
    given.layers[1].mlp = Own()
    before = anatomy(given)
    with pytest.raises(InvalidOptionError, match=rf"Own in place of mlx-lm's .*MLP.*{LOAD}"):
        mlx_simul.prepare(given)
    assert is_unchanged(given, before) and type(given.layers[0].mlp) is gemma.MLP


@pytest.mark.parametrize("model", [None, "org/model", object()])
def test_what_is_not_a_model_is_refused(model: Any, tokenizer: Any):
    with pytest.raises(InvalidOptionError, match=f"expected an mlx-lm model.*{LOAD}"):
        SimulSession(model, tokenizer)


# A copy


def test_a_copy_shares_arrays_and_no_modules():
    given = stock("llama", "tied")
    copy = copy_of(given)
    own = {id(module) for module in given.modules()}
    assert kinds(copy) == kinds(given)
    assert not own & {id(module) for module in copy.modules()}
    pairs = zip(tree_flatten(copy.parameters()), tree_flatten(given.parameters()), strict=True)
    assert all(a[0] == b[0] and a[1] is b[1] for a, b in pairs)


@pytest.mark.parametrize(("model_type", "name"), CASES)
def test_a_copy_runs_without_the_modules_that_it_was_made_of(model_type: str, name: str):
    # Some of mlx-lm's modules are defaults of a signature, which all models of a process share.
    model = deepcopy(ours(model_type, name))
    copy, wanted = copy_of(model), whole(model)

    class Gone(nn.Module):
        def __getattr__(self, name: str) -> Any:
            raise AssertionError("the copy reaches into the model")

    for module in list(model.modules()):
        module.clear()
        module.__class__ = Gone
    assert mx.array_equal(whole(copy), wanted)


def test_modules_that_occur_twice_do_so_in_a_copy():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(2, 2)
            self.parts = [self.one, (self.one, {"again": self.one})]
            self.method = self.one.__call__

    copy = copy_of(Twice())
    assert copy.parts[0] is copy.one is copy.parts[1][0] is copy.parts[1][1]["again"]
    assert copy.method.__self__ is copy.one


def test_streams_share_a_copy_as_long_as_one_runs():
    given = stock("llama", "tied")
    first = prepared(given)
    assert prepared(given) is first is not given
    assert prepared(first) is first
    gone = ref(first)
    with no_collector():
        del first
        assert gone() is None


@pytest.mark.parametrize(("model_type", "name"), [("minicpm", "tied"), ("gemma2", "capped")])
def test_a_model_frees_its_weights_as_soon_as_nobody_holds_it(model_type: str, name: str):
    with no_collector():
        model = ours(model_type, name)
        gone = ref(model)
        del model
        assert gone() is None


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_a_copy_does_not_keep_the_model_alive():
    given = stock("llama", "tied")
    copy, gone = prepared(given), ref(given)
    del given
    gc.collect()
    assert gone() is None
    assert passes(copy).shape[0] == 1


@pytest.mark.parametrize("change", ["update", "setattr", "add adapters", "class", "setting"])
def test_a_stream_that_begins_after_a_change_sees_it(change: str):
    wanted = ours("llama", "tied")
    given = stock("llama", "tied", weights_of=wanted)
    live = prepared(given)
    old = passes(live)
    if change == "update":
        given.update({"model": {"norm": {"weight": 2 * given.model.norm.weight}}})
    elif change == "setattr":
        given.model.norm.weight = 2 * given.model.norm.weight
    elif change == "add adapters":
        linear_to_lora_layers(given, 1, {"rank": 2, "scale": 9.0, "dropout": 0.0})
        lora = given.layers[-1].self_attn.q_proj
        lora.lora_b = mx.ones_like(lora.lora_b)
    elif change == "class":
        given.__class__ = type("Mine", (llama.Model,), {"__call__": _negative})
    else:
        given.layers[0].self_attn.scale *= 2
    assert prepared(given) is not live
    assert not mx.allclose(passes(given), old)
    # One that runs already goes on as it began.
    assert mx.array_equal(passes(live), old)


def _negative(self: Any, *args: Any, **kwargs: Any) -> mx.array:
    return -llama.Model.__call__(self, *args, **kwargs)


def test_sessions_of_one_model_share_a_prefix_until_its_weights_change(folder: Path):
    given, tokenizer = mlx_lm.load(str(folder))
    prefix = SimulSession(given, tokenizer).encode_prefix()
    assert run(given, tokenizer, TEXT, prefix=prefix) == run(given, tokenizer, TEXT)
    given.model.norm.weight = 2 * given.model.norm.weight
    with pytest.raises(InvalidOptionError, match="another model"):
        SimulSession(given, tokenizer, prefix=prefix)


def test_sessions_of_a_batch_run_one_model(folder: Path):
    given, tokenizer = mlx_lm.load(str(folder))
    batch = Sessions(given, tokenizer, max_tokens=8)
    sessions = [batch.add(), batch.add()]
    for session in sessions:
        session.push(TEXT)
        session.close()
    finished = [event for _, event in batch.events() if isinstance(event, mlx_simul.Finished)]
    (*_, alone) = run(given, tokenizer, TEXT, max_tokens=8)
    assert [event.token_ids for event in finished] == [alone.token_ids] * 2
    assert len({id(session._engine.model) for session in sessions}) == 1


def test_watching_attention_leaves_a_loaded_model_as_it_is(folder: Path):
    loaded, tokenizer = mlx_simul.load(folder)
    before = anatomy(loaded)
    policy = mlx_simul.policies.AlignAtt(1, heads=((0, 0),))
    run(loaded, tokenizer, TEXT, policy=policy, max_tokens=4)
    assert is_unchanged(loaded, before)


# Undoing


def test_what_somebody_else_changed_meanwhile_is_not_undone():
    model = ours("gemma", next(iter(CONFIGS["gemma"])))
    mlp = model.layers[1].mlp
    mine = type("Mine", (type(mlp),), {})
    own, mlp.__class__ = type(mlp), mine
    before = anatomy(model)
    with pytest.raises(InvalidOptionError, match="changed again"):
        undo(model)
    assert is_unchanged(model, before)
    mlp.__class__ = own
    undo(model)
    assert type(mlp) is gemma.MLP
    undo(model)


def test_a_deep_copy_is_undone_by_itself():
    model = ours("gemma2", "capped")
    twin = deepcopy(model)
    undo(twin)
    assert is_prepared(model) and not is_prepared(twin)
    assert type(twin) is gemma2.Model and not set(kinds(twin)) & {type(model), *kinds(model)[:1]}
    assert mx.array_equal(passes(model), passes(ours("gemma2", "capped")))


def test_weights_that_were_trained_meanwhile_stay():
    model = ours("qwen2", "windowed")
    trained = 3 * model.model.norm.weight
    model.model.norm.weight = trained
    undo(model)
    assert model.model.norm.weight is trained
    assert {type(block) for block in model.layers} == {qwen2.TransformerBlock}


def test_an_exchange_that_is_not_recorded_shows():
    """Negative control: what goes past the surgery is not undone."""
    model = stock("gemma", next(iter(CONFIGS["gemma"])))
    before = anatomy(model)
    surgery = Surgery(model)
    surgery.put(model.layers[0], "mine", 1)
    surgery.put(model.layers[0].mlp, "mine", mx.array(1))
    undo(model)
    assert is_unchanged(model, before)
    Surgery(model)
    model.layers[0].mine = 1
    undo(model)
    assert not is_unchanged(model, before)


ROOT = Path(mlx_simul.__file__).parent


def test_classes_are_exchanged_in_one_file():
    """And attributes of a model's modules are not set from elsewhere either, but for ``load``."""
    exchanging = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if "__class__ =" in path.read_text("utf-8")
    }
    assert exchanging == {"archs/surgery.py"}
