"""What the law of a batch is there to reject: passes that mix streams up, on purpose."""

from dataclasses import replace

import mlx.core as mx
import pytest
from tiny_models import VARIATIONS, first_of, tiny_model

from mlx_simul.cache.layout import Layout
from mlx_simul.cache.positions import TokenPositions
from mlx_simul.engine.batch import SharedRunner
from mlx_simul.engine.runner import Part
from mlx_simul.testing import shared_passes_equal_ones_alone

FULL = first_of("qwen2")
WINDOWED = next(v for v in VARIATIONS if str(v) == "llama-windowed")


class FillingIsSeen(Layout):
    """Who has less than others sees what lies beside it."""

    def mask(self, window=None, chunk=None, as_array=True):
        n_source = mx.array([lane.n_source_after for lane in self.plan.lanes])
        beside = mx.arange(-self.left, self.right) < -n_source[:, None, None, None]
        return super().mask(window, chunk) | beside


class PositionsAreShared(Layout):
    @property
    def offset(self):
        positions = super().offset.positions
        return TokenPositions(mx.broadcast_to(positions[:1], positions.shape))


class LengthsAreShared(Layout):
    @property
    def _places(self):
        places = super()._places
        return mx.broadcast_to(places[:1], places.shape)


class SourceSeesTarget(Layout):
    def mask(self, window=None, chunk=None, as_array=True):
        on_target = mx.arange(-self.left, self.right) >= 0
        return super().mask(window, chunk) | on_target


class WindowsAreForgotten(Layout):
    def mask(self, window=None, chunk=None, as_array=True):
        return super().mask(None)


PASSES = (FillingIsSeen, PositionsAreShared, LengthsAreShared, SourceSeesTarget)


def broken(model=FULL):
    return not shared_passes_equal_ones_alone(tiny_model(model)).holds


@pytest.mark.parametrize(
    ("kind", "model"),
    [*((kind, FULL) for kind in PASSES), (WindowsAreForgotten, WINDOWED)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_passes_that_mix_streams_up_are_rejected(monkeypatch, kind, model):
    assert not broken(model)
    monkeypatch.setattr("mlx_simul.cache.layout.Layout", kind)
    assert broken(model)


def test_a_stream_that_takes_a_row_without_its_tokens_is_rejected(monkeypatch):
    def take(self, engine, row):
        self.streams[row] = engine
        engine.row = row

    monkeypatch.setattr(SharedRunner, "_move", take)
    assert broken()


def test_rows_that_are_not_fetched_in_order_are_rejected(monkeypatch):
    fetch = Layout.fetch
    monkeypatch.setattr(
        Layout, "fetch", lambda self, storage: tuple(plane[::-1] for plane in fetch(self, storage))
    )
    assert broken()


def test_what_a_read_does_not_roll_back_is_rejected(monkeypatch):
    take = Part.take

    def keep(self, n_tokens, is_reading):
        if not self.request.target_ids:
            self.request = replace(self.request, n_rewind=0)
        return take(self, n_tokens, is_reading)

    monkeypatch.setattr(Part, "take", keep)
    assert broken()
