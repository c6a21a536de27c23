"""Sessions in every mode: the same events and policies, whatever the model carries."""

from itertools import combinations, pairwise, permutations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.generate import generate_step
from streams import TEXT, reads, run, writes
from tiny_models import first_of, tiny_model

import mlx_simul
from mlx_simul import WaitK, archs
from mlx_simul.archs.streaming_config import StreamingConfig
from mlx_simul.engine import make_engine
from mlx_simul.engine.tape import Tape
from mlx_simul.errors import InvalidOptionError
from mlx_simul.text.prompts import StreamingDataPreparator

HYBRID = first_of("lfm2", vocab_size=1024)
WIDE = first_of("qwen2", head_dim=32, hidden_size=128)
NESTED = first_of("falcon_h1")
GROUPS = first_of("qwen2", vocab_size=1024)
WINDOWED = first_of("gemma3_text")
WHOLE = WaitK(1000)

MODES = [
    pytest.param(variation, mode, id=f"{variation}-{mode}")
    for variation in (GROUPS, HYBRID)
    for mode in archs.find(variation.model_type).modes
]


def tokens_of(events):
    return [event.token for event in writes(events)]


@pytest.mark.parametrize(("variation", "mode"), MODES)
def test_with_the_whole_source_a_session_writes_what_mlx_lm_writes_offline(
    variation, mode, tokenizer
):
    model = tiny_model(variation)
    source = StreamingDataPreparator(tokenizer, instruction="x").tokenize(TEXT)
    prompt = [token for segment in source.segments for token in segment] + list(source.header)
    start = {"target_start": len(prompt) - len(source.header)} if mode == "group" else {}
    streamed = tokens_of(
        run(model, tokenizer, source, policy=WHOLE, mode=mode, max_tokens=12, **start)
    )
    offline = [
        int(token) for token, _ in generate_step(mx.array(prompt), model, max_tokens=len(streamed))
    ]
    assert streamed == offline
    assert streamed


@pytest.mark.parametrize(("variation", "mode"), MODES)
@settings(max_examples=5)
@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=6))
def test_any_chunking_gives_the_same_events(variation, mode, tokenizer, cuts):
    model = tiny_model(variation)
    edges = [0, *sorted(cuts), len(TEXT)]
    chunks = [TEXT[a:b] for a, b in pairwise(edges)]

    def told(source):
        events = run(model, tokenizer, source, mode=mode, max_tokens=8)
        return [(type(e).__name__, e.text) for e in [*reads(events), *writes(events)]]

    assert told(chunks) == told(TEXT)


@pytest.mark.parametrize(("variation", "mode"), MODES)
def test_delays_are_those_of_the_policy(variation, mode, tokenizer):
    events = run(tiny_model(variation), tokenizer, TEXT, policy=WaitK(3), mode=mode)
    for event in writes(events):
        if event.word_complete:
            assert event.source_words_read >= min(2 + event.target_words_generated, 16)


def test_modes_differ_where_they_should():
    """Negative control: once source is read behind target, each mode computes something else."""
    logits = []
    for mode in ("group", "reencode", "interleaved"):
        engine = make_engine(tiny_model(GROUPS), mode=mode)
        for token in range(5):
            engine.read([10 + token, 20 + token])
            last = engine.write([30 + token])[0, -1]
        logits.append(np.array(last))
    assert not any(np.allclose(a, b, atol=1e-3) for a, b in combinations(logits, 2))


def test_auto_is_what_the_architecture_can_or_the_checkpoint_was_trained_for():
    model = tiny_model(GROUPS)
    assert type(make_engine(model)).__name__ == "StreamingEngine"
    assert type(make_engine(tiny_model(HYBRID))).__name__ == "ReencodeEngine"
    model.streaming_config = StreamingConfig(mode="interleaved")
    try:
        assert type(make_engine(model)).__name__ == "InterleavedEngine"
        assert type(make_engine(model, mode="group")).__name__ == "StreamingEngine"
    finally:
        del model.streaming_config


@pytest.mark.parametrize(
    ("variation", "options", "said"),
    [
        (HYBRID, {"mode": "group"}, "recurrent state"),
        (GROUPS, {"mode": "sideways"}, "'group', 'reencode', 'interleaved'"),
        (GROUPS, {"mode": "reencode", "target_start": 64}, "mode='group'"),
        (HYBRID, {"kv_bits": 8}, "mode='group'"),
        (HYBRID, {"gpe_compat": True}, "gpe_compat=True"),
        (GROUPS, {"gpe_compat": True, "mode": "interleaved"}, "gpe_compat=True"),
        (GROUPS, {"kv_bits": 7}, "kv_bits=7"),
        (GROUPS, {"kv_bits": 8, "kv_group_size": 10}, "kv_group_size=10"),
    ],
)
def test_what_cannot_be_is_refused(variation, options, said, tokenizer):
    with pytest.raises(InvalidOptionError, match=said):
        run(tiny_model(variation), tokenizer, TEXT, **options)


moves = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), st.integers(1, 4)),
        st.tuples(st.just("drop"), st.integers(0, 9)),
        st.just(("anchor", 0)),
        st.just(("save and restore", 0)),
    ),
    min_size=1,
    max_size=10,
)


@pytest.mark.parametrize("variation", [GROUPS, HYBRID, NESTED, WINDOWED], ids=str)
@settings(max_examples=12)
@given(moves)
def test_a_tape_is_the_tokens_that_are_left_on_it(variation, history):
    model = tiny_model(variation)
    tape, row, count = Tape(model), [], 0
    for action, n in history:
        if action == "feed":
            new = [(7 * (count + i) + 3) % 90 for i in range(n)]
            count += n
            row += new
            tape.feed(new)
        elif action == "drop":
            n = min(n, len(row))
            tape.drop(n)
            del row[len(row) - n :]
        elif action == "anchor":
            tape.anchor()
        else:
            saved, tape = tape.state, Tape(model)
            tape.state = saved
    assert tape.tokens == row
    got, wanted = tape.feed([5])[:, -1], model(mx.array([[*row, 5]]))[:, -1]
    assert mx.abs(got - wanted).max().item() < 1e-4 * mx.abs(wanted).max().item()


def test_reference_mode_puts_windows_on_the_source_only():
    """Gemma 2 in EIT-NLP/StreamingLLM: source rows are windowed, target rows see everything."""
    model = tiny_model(first_of("gemma2"))
    source, target, window = list(range(3, 23)), [40, 41, 42, 43], 5
    n_source, total = len(source), len(source) + len(target)
    rows, columns = mx.arange(total)[:, None], mx.arange(total)[None]
    in_window = (rows - columns < window) | (rows >= n_source)

    class OneMask:
        """The whole mask at once, in order of arrival."""

        offset = 0

        def update_and_fetch(self, keys, values):
            return keys, values

        def make_mask(self, n_new, return_array=False, window_size=None):
            causal = columns <= rows
            return causal if window_size is None else causal & in_window

    wanted = model(mx.array([source + target]), cache=[OneMask() for _ in model.layers])

    def streamed(gpe_compat):
        engine = make_engine(model, target_start=n_source, gpe_compat=gpe_compat)
        engine.read(source)
        return mx.concatenate([engine.write([token]) for token in target], axis=1)

    def error(got):
        return (mx.abs(got - wanted[:, n_source:]).max() / mx.abs(wanted).max()).item()

    assert error(streamed(gpe_compat=True)) < 2e-5
    assert error(streamed(gpe_compat=False)) > 1e-3


def test_a_windowed_tape_is_trimmed_not_fed_again(monkeypatch):
    """Nothing is copied or computed anew where a length says all."""
    tape = Tape(tiny_model(WINDOWED))
    tape.feed(list(range(30)))
    monkeypatch.setattr(tape, "feed", lambda ids: pytest.fail(f"fed {ids} again"))
    tape.drop(20)
    assert tape.tokens == list(range(10))


ENGINES = {
    "group": lambda: make_engine(tiny_model(GROUPS)),
    "8 bits": lambda: make_engine(tiny_model(WIDE), kv_bits=8, kv_group_size=32),
    "4 bits": lambda: make_engine(tiny_model(WIDE), kv_bits=4, kv_group_size=32),
    "reencode": lambda: make_engine(tiny_model(GROUPS), mode="reencode"),
    "interleaved": lambda: make_engine(tiny_model(GROUPS), mode="interleaved"),
    "hybrid": lambda: make_engine(tiny_model(HYBRID), mode="reencode"),
}


@pytest.mark.parametrize(("saved", "restored"), list(permutations(ENGINES, 2)))
def test_a_state_of_another_kind_is_refused_and_changes_nothing(saved, restored):
    first, second = ENGINES[saved](), ENGINES[restored]()
    for engine in (first, second):
        engine.read([3, 4, 5])
        engine.write([6, 7])
    with pytest.raises(InvalidOptionError):
        second.state = first.state
    assert (second.source_tokens, second.target_tokens) == (3, 2)
    control = ENGINES[restored]()
    control.read([3, 4, 5])
    control.write([6, 7])
    assert np.array_equal(second.write([8]), control.write([8]))


def test_positions_that_do_not_exist_are_refused():
    """MLX would read whatever lies behind the embeddings of positions."""
    model = tiny_model(first_of("gpt2"))
    for mode in ("group", "reencode"):
        engine = make_engine(model, mode=mode)
        engine.read([1] * 200)
        with pytest.raises(InvalidOptionError, match=r"beyond the \d+ that this model has"):
            engine.read([1] * 200)
    with pytest.raises(InvalidOptionError, match="let target_start be smaller"):
        make_engine(model, target_start=100_000).write([1])


def test_the_trained_length_is_known_though_the_model_does_not_keep_it(tokenizer):
    model = tiny_model(first_of("gemma", vocab_size=1024))
    model.trained_positions = 30
    try:
        with pytest.warns(mlx_simul.SimulWarning, match="30 the model was trained on"):
            run(model, tokenizer, TEXT, target_start=64)
    finally:
        del model.trained_positions
