"""What a training step computes is what a session over the same pair computes."""

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from tiny_models import VARIATIONS, tiny_model
from tiny_run import LONG, SHORT

from mlx_simul import WaitK
from mlx_simul.cache.positions import FixedStart
from mlx_simul.engine import StreamingEngine
from mlx_simul.errors import CacheStateError, InvalidOptionError
from mlx_simul.evaluation.pairs import Pair
from mlx_simul.session import SimulSession
from mlx_simul.testing import relative_error, tolerance_of
from mlx_simul.training.batches import Sample, collate
from mlx_simul.training.cache import TrainingCache, make_training_caches
from mlx_simul.training.layout import Example, StreamingLayout
from mlx_simul.training.loss import streaming_logits, streaming_loss
from mlx_simul.training.options import LayoutOptions

START = 7
LATENCIES = [1, 2, None]
FAMILIES = ("qwen2", "llama", "mistral", "gemma3_text", "gemma3n", "deepseek_v3")
GROUPED = [variation for variation in VARIATIONS if variation.model_type in FAMILIES]


def streamed_logits(model, example: Example, wait_k: int | None) -> mx.array:
    """Each target row's logits, from the engine, read and rewritten as wait-k says."""
    engine = StreamingEngine(model, FixedStart(START))
    n_segments, n_read = len(example.source), 0
    rows, last = [], None
    for j, segment in enumerate(example.target[1:]):
        k = n_segments if wait_k is None else wait_k
        while n_read < min(1 + k + j, n_segments):
            engine.read(example.source[n_read])
            n_read += 1
        if last is None:
            rows.append(engine.write(example.target[0]))
        else:
            engine.roll_back(1)
            rows.append(engine.write([last]))
        if len(segment) > 1:
            rows.append(engine.write(segment[:-1]))
        last = segment[-1]
        if j < len(example.target) - 2:
            engine.write([last])
    return mx.concatenate(rows, axis=1)


def trained_logits(model, example: Example, wait_k: int | None) -> mx.array:
    return streaming_logits(model, collate([Sample(example, wait_k, START)]))


@pytest.mark.parametrize("wait_k", LATENCIES)
@pytest.mark.parametrize("variation", GROUPED, ids=str)
def test_each_row_is_what_the_engine_streams(variation, wait_k):
    model = tiny_model(variation)
    error = relative_error(
        trained_logits(model, LONG, wait_k), streamed_logits(model, LONG, wait_k)
    )
    assert error <= tolerance_of(model)


@pytest.mark.parametrize("wait_k", [2, 3])
def test_one_word_more_is_told_apart(model, wait_k):
    error = relative_error(
        trained_logits(model, LONG, wait_k), streamed_logits(model, LONG, wait_k - 1)
    )
    assert error > 100 * tolerance_of(model)


@pytest.mark.parametrize("wait_k", [1, 3, 9])
def test_a_session_made_to_write_a_target_predicts_from_the_same_logits(model, tokenizer, wait_k):
    layout = StreamingLayout(
        tokenizer, LayoutOptions(source_language="English", target_language="French")
    )
    pair = Pair("The train leaves at nine o'clock.", "Le train part à neuf heures, je crois.")
    example = layout.example([pair])
    words = example.target_ids[len(example.target[0]) :]
    seen = {}

    def force(written, logits):
        seen[len(written)] = logits
        return mx.where(mx.arange(logits.shape[-1]) == words[len(written)], 0.0, -1e9)[None]

    session = SimulSession(
        model,
        tokenizer,
        policy=WaitK(wait_k),
        source_language="English",
        target_language="French",
        target_start=START,
        logits_processors=[force],
        early_eos="stop",
        turns=None,
    )
    session.feed(pair.source)
    finished = session.finish()[-1]
    assert list(finished.token_ids) == words[:-1]
    streamed = mx.stack([seen[i] for i in range(len(words))], axis=1)
    taught = trained_logits(model, example, wait_k)[:, len(example.target[0]) - 1 :]
    assert relative_error(taught, streamed) <= tolerance_of(model)


def test_batch_mode_is_an_ordinary_forward_pass(model):
    sample = Sample(LONG, None, len(LONG.source_ids))
    logits = streaming_logits(model, collate([sample, Sample(SHORT, None, len(SHORT.source_ids))]))
    stock = model(mx.array([LONG.source_ids + LONG.target_ids[:-1]]))
    n_rows = len(LONG.target_ids) - 1
    assert relative_error(logits[:1], stock[:, -n_rows:]) <= tolerance_of(model)


@pytest.mark.parametrize("wait_k", LATENCIES)
def test_padding_and_company_change_nothing(model, wait_k):
    samples = [Sample(SHORT, wait_k, START), Sample(LONG, 3, 30), Sample(SHORT, None, 2)]
    together = streaming_logits(model, collate(samples))
    for i, sample in enumerate(samples):
        alone = streaming_logits(model, collate([sample]))
        n_rows = alone.shape[1]
        assert relative_error(together[i : i + 1, :n_rows], alone) <= tolerance_of(model)


def test_the_loss_of_a_batch_is_the_mean_over_its_scored_tokens(model):
    samples = [Sample(SHORT, 1, START), Sample(LONG, 3, START)]
    n_scored = [len(s.example.target_ids) - len(s.example.target[0]) for s in samples]
    alone = [streaming_loss(model, collate([s])).item() for s in samples]
    mean = sum(n * loss for n, loss in zip(n_scored, alone, strict=True)) / sum(n_scored)
    assert streaming_loss(model, collate(samples)).item() == pytest.approx(mean, rel=1e-5)
    assert mean != pytest.approx(sum(alone) / 2, rel=1e-3)


def test_gradients_reach_every_weight_but_nothing_of_the_padding(model):
    import mlx.nn as nn

    def gradients(samples):
        step = nn.value_and_grad(model, streaming_loss)
        return dict(tree_flatten(step(model, collate(samples))[1]))

    alone = gradients([Sample(SHORT, 1, START)])
    # Scored rows of the long one are none of this loss, so its weights are taken out.
    batch = collate([Sample(SHORT, 1, START), Sample(LONG, 1, START)])
    batch.weights[1] = 0
    both = dict(tree_flatten(nn.value_and_grad(model, streaming_loss)(model, batch)[1]))
    assert all(mx.abs(gradient).max().item() > 0 for gradient in alone.values())
    for name, gradient in alone.items():
        assert relative_error(both[name], gradient) < 1e-4, name


def test_a_target_before_its_source_is_refused():
    cache = TrainingCache()
    cache.begin_target(0, mx.zeros((1, 1)))
    with pytest.raises(CacheStateError, match="source pass first"):
        cache.update_and_fetch(mx.zeros((1, 1, 1, 2)), mx.zeros((1, 1, 1, 2)))


def test_a_family_that_keeps_no_groups_is_refused():
    recurrent = next(v for v in VARIATIONS if v.model_type == "mamba2")
    with pytest.raises(InvalidOptionError, match="group"):
        make_training_caches(tiny_model(recurrent))
