"""Moving the target: rotations compose, whatever RoPE a model has."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.rope_utils import initialize_rope

from mlx_simul.cache import DualStreamingCache
from mlx_simul.cache.positions import (
    FixedStart,
    FollowStart,
    StayStart,
    make_target_start,
    rotate,
    rotates_exactly,
)
from mlx_simul.errors import InvalidOptionError

D, TRAINED = 16, 512

SCALINGS = {
    "plain": None,
    "linear": {"type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    },
    "yarn": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "longrope": {
        "type": "longrope",
        "original_max_position_embeddings": 128,
        "short_factor": [1.0] * (D // 2),
        "long_factor": [1.0 + i for i in range(D // 2)],
    },
}


def make_rope(scaling):
    return initialize_rope(D, 10_000.0, False, scaling, TRAINED)


def keys(n=7):
    return mx.random.normal((2, 3, n, D), key=mx.random.key(1))


def distance(a, b):
    a, b = (np.array(x.astype(mx.float32)) for x in (a, b))
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
def test_rotating_moves_keys_exactly(scaling):
    rope = make_rope(scaling)
    moved = rotate(rope, rope(keys(), offset=5), 9)
    assert distance(moved, rope(keys(), offset=14)) < 1e-5
    assert distance(rope(keys(), offset=13), rope(keys(), offset=14)) > 1e-2


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
def test_two_moves_are_one(scaling):
    rope = make_rope(scaling)
    start = rope(keys(), offset=3)
    assert distance(rotate(rope, rotate(rope, start, 4), 6), rotate(rope, start, 10)) < 1e-5


def test_rotating_through_the_module_itself_would_scale_yarn_twice():
    """Negative control: why rotate takes the module's scale out first."""
    rope = make_rope(SCALINGS["yarn"])
    start = rope(keys(1), offset=3)
    assert distance(rope(start, offset=9), rope(keys(1), offset=12)) > 0.05


ROUNDING = {mx.float32: 1e-3, mx.float16: 2e-3, mx.bfloat16: 8e-3}


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_rounding_of_many_moves_stays_that_of_one(dtype):
    """An hour of speech, some 10,000 source tokens, moves the target 1,250 times at margin 8."""
    rope, cache = make_rope(None), DualStreamingCache()
    early, late = keys(4), keys(3)
    cache.update_target(rope(early, offset=0).astype(dtype), early.astype(dtype))
    for move in range(1250):
        cache.rotate_target(rope, 8)
        mx.eval(cache.state[0])
        if move == 625:
            written = rope(late, offset=cache.target_start + 4).astype(dtype)
            cache.update_target(written, late.astype(dtype))
    assert cache.target_start == 10_000
    whole = rope(mx.concatenate([early, late], axis=2), offset=10_000)
    assert distance(cache.state[0], whole) < ROUNDING[dtype]


def test_without_keeping_what_rounding_takes_bfloat16_would_stand_still():
    """Negative control: why the cache keeps it."""
    rope = make_rope(None)
    moved = rope(keys(), offset=0).astype(mx.bfloat16)
    for _ in range(1250):
        moved = rotate(rope, moved.astype(mx.float32), 8).astype(mx.bfloat16)
        mx.eval(moved)
    assert distance(moved, rope(keys(), offset=10_000)) > 0.5


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
def test_ropes_that_compose_are_recognised(scaling):
    assert rotates_exactly(make_rope(scaling), D, TRAINED)


@pytest.mark.parametrize("trained", [512, 131_072])
def test_a_rope_that_depends_on_the_length_is_recognised(trained):
    dynamic = initialize_rope(D, 10_000.0, False, {"type": "dynamic", "factor": 2.0}, trained)
    assert not rotates_exactly(dynamic, D, trained)
    assert rotates_exactly(initialize_rope(D, 10_000.0, False, None, trained), D, trained)


def test_follow_moves_only_when_overtaken():
    follow = FollowStart(margin_tokens=8)
    assert follow.position(30, None) == 38
    assert follow.position(38, 38) == 38
    assert follow.position(39, 38) == 47


def test_stay_is_chosen_once_and_fixed_never_moves():
    assert StayStart(64).position(30, None) == 94
    assert StayStart(64).position(500, 94) == 94
    assert FixedStart(7).position(500, None) == 7


@pytest.mark.parametrize(
    ("value", "trained", "expected"),
    [
        ("auto", None, FollowStart()),
        ("auto", 64, FixedStart(64)),
        ("auto", "follow", FollowStart()),
        ("follow", 64, FollowStart()),
        (0, 64, FixedStart(0)),
        (FollowStart(3), None, FollowStart(3)),
    ],
)
def test_target_start_option(value, trained, expected):
    assert make_target_start(value, trained) == expected


def test_any_target_start_is_taken():
    class Mine:
        def position(self, n_source, current):
            return 7

    mine = Mine()
    assert make_target_start(mine, None) is mine


@pytest.mark.parametrize("value", ["behind", -1, 1.5, True, None])
def test_other_target_starts_are_refused(value):
    with pytest.raises(InvalidOptionError, match="target_start"):
        make_target_start(value, None)
