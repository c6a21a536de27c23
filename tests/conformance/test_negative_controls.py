"""Each law rejects what it is there to reject: caches broken on purpose."""

from dataclasses import replace

import mlx.core as mx
import pytest
from tiny_models import VARIATIONS, tiny_model

from mlx_simul.cache import LayerCache, PassPlan, layout_of
from mlx_simul.cache.masks import who_sees_whom
from mlx_simul.cache.storage import ALL_ROWS
from mlx_simul.engine import InterleavedEngine, ReencodeEngine, StreamingEngine
from mlx_simul.engine.tape import Tape
from mlx_simul.errors import ValidationError
from mlx_simul.testing import ENGINE_OF_MODE, LAWS, LAWS_OF_MODE, engine_with

MODELS = {str(variation): variation for variation in VARIATIONS}


class Broken(LayerCache):
    """What the broken caches below ask about the pass under way."""

    @property
    def lane(self):
        return self.layout.plan.lanes[0]

    @property
    def only_reads(self):
        return not self.lane.n_new_target

    @property
    def is_fused(self):
        return self.lane.n_new_source > 0 and self.lane.n_new_target > 0


class ChunkTheWrongWayRound(Broken):
    """Stores the tokens of one source pass in order of arrival."""

    def update_and_fetch(self, keys, values):
        if self.only_reads:
            keys, values = keys[..., ::-1, :], values[..., ::-1, :]
        return super().update_and_fetch(keys, values)


class TargetSeesFutureTarget(Broken):
    def make_mask(self, n_new, return_array=False, window_size=None):
        return super().make_mask(n_new, return_array, window_size) if self.only_reads else None


class SourceSeesFutureSource(Broken):
    def make_mask(self, n_new, return_array=False, window_size=None):
        return None if self.only_reads else super().make_mask(n_new, return_array, window_size)


class SourceSeesTarget(Broken):
    def update_and_fetch(self, keys, values):
        fetched = super().update_and_fetch(keys, values)
        if not self.only_reads:
            return fetched
        return self.saved(None, self.lane.n_source_after, self.lane.n_target)

    def make_mask(self, n_new, return_array=False, window_size=None):
        mask = super().make_mask(n_new, return_array, window_size)
        if not self.only_reads or mask is None:
            return mask
        return mx.concatenate([mask, mx.ones((n_new, self.lane.n_target), mx.bool_)], axis=1)


class OnePositionCounter(Broken):
    """Counts both groups with one counter."""

    @property
    def offset(self):
        return self.lane.n_source + self.lane.n_target


class IgnoresWindow(Broken):
    def make_mask(self, n_new, return_array=False, window_size=None):
        return super().make_mask(n_new, return_array, None)


class WindowOverTargetOnly(Broken):
    """Measures a target row's window without the source before it."""

    def make_mask(self, n_new, return_array=False, window_size=None):
        if self.only_reads:
            return super().make_mask(n_new, return_array, window_size)
        n_target = self.lane.n_target_after
        order = mx.arange(n_target - n_new, n_target)
        mask = who_sees_whom(order, 0, mx.arange(0), mx.arange(n_target), window_size)
        return mx.concatenate([mx.ones((n_new, self.lane.n_visible), mx.bool_), mask], axis=1)


class NeverRollsBack(StreamingEngine):
    def roll_back(self, n_tokens):
        pass


class RollsBackOneLess(StreamingEngine):
    def roll_back(self, n_tokens):
        super().roll_back(max(n_tokens - 1, 0))


class RestoresWithoutTarget(StreamingEngine):
    def _restore(self, value):
        super()._restore(value)
        self._n_target = 0


class RestoresWithoutStart(StreamingEngine):
    def _restore(self, value):
        super()._restore(replace(value, start=0))


class WritesIntoWhatWasSaved(Broken):
    def restore(self, row, saved, n_source, n_target):
        super().restore(row, saved, n_source, n_target)
        self.storage.planes = tuple(saved)


class MovesNoKeys(Broken):
    def move_target(self, rope, delta, row, n_target, lost):
        return ()


class MovesBackwards(Broken):
    def move_target(self, rope, delta, row, n_target, lost):
        return super().move_target(rope, -delta, row, n_target, lost)


class ScalesAtEachMove(Broken):
    """Applies the RoPE module as it is, with the scale that is in the keys already."""

    def move_target(self, rope, delta, row, n_target, lost):
        keys, _ = self.storage.between(ALL_ROWS, 0, n_target)
        target = keys.swapaxes(1, 2)
        B, T, K, D = target.shape
        moved = rope(target.reshape(B * T, K, 1, D), offset=delta)
        self.storage.write(ALL_ROWS, 0, (moved.reshape(B, T, K, D).swapaxes(1, 2),))
        return ()


class MovesOneTooFar(Broken):
    def move_target(self, rope, delta, row, n_target, lost):
        return super().move_target(rope, delta + 1, row, n_target, lost)


class MixesRows(Broken):
    def update_and_fetch(self, keys, values):
        keys, values = super().update_and_fetch(keys, values)
        return keys, mx.broadcast_to(values[:1], values.shape)


class FusedRowsInOneLine(Broken):
    """Lets the target's rows of a fused pass go on where the source's stop."""

    @property
    def offset(self):
        return self.lane.n_source if self.is_fused else super().offset


class FusedSourceSeesTarget(Broken):
    def make_mask(self, n_new, return_array=False, window_size=None):
        mask = super().make_mask(n_new, return_array, window_size)
        if self.is_fused:
            first = self.lane.n_source_after
            mask[: self.lane.n_new_source, first : first + self.lane.n_target] = True
        return mask


class FusedSourceStaysUnseen(Broken):
    """Shows the target's rows of a fused pass the source of the passes before only."""

    def make_mask(self, n_new, return_array=False, window_size=None):
        mask = super().make_mask(n_new, return_array, window_size)
        if self.is_fused:
            n = self.lane.n_new_source
            mask[n:, :n] = False
        return mask


class HidesNothing(Broken):
    """Lets the target see what is encoded ahead."""

    def begin(self, layout):
        lanes = tuple(replace(lane, n_hidden=0) for lane in layout.plan.lanes)
        super().begin(layout_of(PassPlan(lanes, layout.plan.n_tokens)))


class TreeInOneLine(Broken):
    """Lets each token of a tree follow the one before it."""

    def begin(self, layout):
        lanes = tuple(replace(lane, parents=()) for lane in layout.plan.lanes)
        super().begin(layout_of(PassPlan(lanes, layout.plan.n_tokens)))


def made_of(broken):
    """Engines that are broken, or whose caches are."""
    return broken if issubclass(broken, StreamingEngine) else engine_with(broken)


CONTROLS = [
    (ChunkTheWrongWayRound, "any_chunking", "qwen2-tied"),
    (SourceSeesFutureSource, "any_chunking", "llama-tied"),
    (TargetSeesFutureTarget, "any_target_chunking", "qwen2-tied"),
    (SourceSeesFutureSource, "unread_source_changes_nothing", "llama-tied"),
    (SourceSeesTarget, "target_changes_no_source", "mistral-plain"),
    (OnePositionCounter, "target_changes_no_source", "qwen2-tied"),
    (IgnoresWindow, "whole_source_equals_stock", "mistral-windowed"),
    (IgnoresWindow, "whole_source_equals_stock", "qwen2-windowed"),
    (IgnoresWindow, "whole_source_equals_stock", "llama-windowed"),
    (WindowOverTargetOnly, "whole_source_equals_stock", "mistral-windowed"),
    (NeverRollsBack, "roll_back_equals_never_written", "llama-tied"),
    (RollsBackOneLess, "roll_back_equals_never_written", "mistral-windowed"),
    (RestoresWithoutTarget, "restored_state_gives_same_logits", "qwen2-tied"),
    (RestoresWithoutStart, "restored_state_gives_same_logits", "qwen2-tied"),
    (WritesIntoWhatWasSaved, "restored_state_gives_same_logits", "llama-tied"),
    (MovesNoKeys, "moved_target_equals_written_there", "llama-biased"),
    (MovesBackwards, "moved_target_equals_written_there", "llama-linear"),
    (ScalesAtEachMove, "moved_target_equals_written_there", "qwen2-yarn"),
    (ScalesAtEachMove, "moves_compose", "mistral-yarn"),
    (MovesOneTooFar, "moves_compose", "llama-tied"),
    (MixesRows, "rows_of_a_batch_are_independent", "qwen2-tied"),
    (FusedRowsInOneLine, "fused_equals_read_then_write", "qwen2-tied"),
    (FusedSourceSeesTarget, "fused_equals_read_then_write", "llama-tied"),
    (FusedSourceStaysUnseen, "fused_equals_read_then_write", "mistral-windowed"),
    (HidesNothing, "hidden_source_is_not_read_yet", "qwen2-tied"),
    (TreeInOneLine, "tree_equals_its_branches", "llama-tied"),
]


@pytest.mark.parametrize(("broken", "name", "model"), CONTROLS)
def test_broken_cache_is_rejected(broken, name, model):
    law = next(law for law in LAWS if law.name == name)
    result = law(tiny_model(MODELS[model]), make_engine=made_of(broken))
    assert not result.holds
    assert result.error > 100 * result.tolerance, "too close to call"
    with pytest.raises(ValidationError, match=name):
        result.require()


@pytest.mark.parametrize("law", LAWS)
def test_sound_cache_passes_by_the_same_road(law):
    law(tiny_model(MODELS["qwen2-yarn"]), make_engine=engine_with(LayerCache)).require()


def test_every_law_has_a_control():
    assert {name for _, name, _ in CONTROLS} == {law.name for law in LAWS}


@pytest.mark.parametrize("law", LAWS)
def test_nan_is_rejected(law):
    class GivesNaN(LayerCache):
        def update_and_fetch(self, keys, values):
            keys, values = super().update_and_fetch(keys, values)
            return keys, values * mx.nan

    result = law(tiny_model(MODELS["llama-tied"]), make_engine=engine_with(GivesNaN))
    assert not result.holds


class ReadsBehindTheTarget(ReencodeEngine):
    """Leaves the target where it is, so that it does not see what is read."""

    def read(self, token_ids):
        self._tape.feed(token_ids)
        self._n_source += len(token_ids)


class KeepsWhatWasRolledBack(ReencodeEngine):
    def roll_back(self, n_tokens):
        pass


class RestoresNoTarget(ReencodeEngine):
    @property
    def state(self):
        return super().state

    @state.setter
    def state(self, value):
        ReencodeEngine.state.fset(self, replace(value, target=()))


class ForgetsTheBeginning(ReencodeEngine):
    """Starts anew with every read."""

    def read(self, token_ids):
        self.__init__(self.model)
        super().read(token_ids)


class WritesBackwards(ReencodeEngine):
    def write(self, token_ids):
        return super().write(token_ids[::-1])


class PutsNothingBehind(InterleavedEngine):
    """Leaves the last target token before the source read after it."""

    def read(self, token_ids):
        self._n_trailing = 0
        super().read(token_ids)


class HoldsItTwice(InterleavedEngine):
    def read(self, token_ids):
        held = self._tape.tokens[-1:] if self._n_trailing else []
        super().read(token_ids)
        self._held = held * 2


class KeepsArrivals(InterleavedEngine):
    def roll_back(self, n_tokens):
        pass


class ForgetsArrivals(InterleavedEngine):
    def read(self, token_ids):
        self.__init__(self.model)
        super().read(token_ids)


class RestoresNoTape(InterleavedEngine):
    @property
    def state(self):
        return super().state

    @state.setter
    def state(self, value):
        InterleavedEngine.state.fset(self, value)
        self._tape = Tape(self.model)


class WritesArrivalsBackwards(InterleavedEngine):
    def write(self, token_ids):
        return super().write(token_ids[::-1])


CONTROLS_OF_MODE = {
    "reencode": {
        "any_chunking": ForgetsTheBeginning,
        "any_target_chunking": WritesBackwards,
        "target_changes_no_source": ReadsBehindTheTarget,
        "whole_source_equals_stock": ForgetsTheBeginning,
        "roll_back_equals_never_written": KeepsWhatWasRolledBack,
        "restored_state_gives_same_logits": RestoresNoTarget,
        "reencoded_equals_stock": ReadsBehindTheTarget,
    },
    "interleaved": {
        "any_chunking": ForgetsArrivals,
        "any_target_chunking": WritesArrivalsBackwards,
        "whole_source_equals_stock": ForgetsArrivals,
        "roll_back_equals_never_written": KeepsArrivals,
        "restored_state_gives_same_logits": RestoresNoTape,
        "interleaved_equals_stock": PutsNothingBehind,
    },
}
BROKEN_ENGINES = [
    pytest.param(mode, law, broken, id=f"{mode}-{law}")
    for mode, controls in CONTROLS_OF_MODE.items()
    for law, broken in controls.items()
] + [pytest.param("interleaved", "interleaved_equals_stock", HoldsItTwice)]


@pytest.mark.parametrize(("mode", "name", "broken"), BROKEN_ENGINES)
def test_broken_engine_is_rejected(mode, name, broken):
    law = next(law for law in LAWS_OF_MODE[mode] if law.name == name)
    model = tiny_model(MODELS["qwen2-tied"])
    assert law(model, make_engine=ENGINE_OF_MODE[mode]).holds
    result = law(model, make_engine=lambda model, start: broken(model))
    assert not result.holds
    assert result.error > 100 * result.tolerance, "too close to call"


def test_every_law_of_every_mode_has_a_control():
    for mode, controls in CONTROLS_OF_MODE.items():
        assert controls.keys() == {law.name for law in LAWS_OF_MODE[mode]}
