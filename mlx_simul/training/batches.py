"""Examples as padded batches, in an order that a seed decides and a position resumes.

Shape legend: B batch, S source tokens, T target rows, padding included. A target row is an input
token; its label is the token after it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_simul.errors import DataError
from mlx_simul.evaluation.pairs import Pair
from mlx_simul.training.augment import Augmenter
from mlx_simul.training.layout import Example, StreamingLayout
from mlx_simul.training.options import AugmentOptions, BatchOptions, LayoutOptions, WaitChoice


@dataclass(frozen=True)
class Sample:
    """An example with what it drew.

    Attributes:
        example: source and target.
        wait_k: words to stay behind; ``None`` for the whole source.
        target_start: φ.
        gpe_compat: mask the header's rows as the reference does.
    """

    example: Example
    wait_k: WaitChoice
    target_start: int
    gpe_compat: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Source tokens and target rows."""
        n_target = sum(map(len, self.example.target))
        return sum(map(len, self.example.source)), n_target - 1

    @property
    def n_scored(self) -> int:
        """Target rows whose label counts: words and the end-of-turn (SPEC section 5)."""
        return self.shape[1] - (len(self.example.target[0]) - 1)


@dataclass(frozen=True)
class Batch:
    """Samples side by side, padded on the right.

    Attributes:
        source: (B, S) token ids.
        target: (B, T) token ids, header first.
        labels: (B, T), the token after each row.
        visible: (B, T), source tokens that a row sees.
        weights: (B, T), 1.0 where the label counts, else 0.0.
        target_start: φ; (B,) where it is not the same for all rows.
    """

    source: mx.array
    target: mx.array
    labels: mx.array
    visible: mx.array
    weights: mx.array
    target_start: int | mx.array


@dataclass(frozen=True)
class Position:
    """How far a run has got through its data.

    Attributes:
        epoch: passes over the data completed.
        batch: batches of the current epoch that are done.
    """

    epoch: int = 0
    batch: int = 0


def collate(samples: Sequence[Sample]) -> Batch:
    """Make one batch."""
    rows = []
    for sample in samples:
        example = sample.example
        target = example.target_ids
        visible = example.visible(sample.wait_k, sample.gpe_compat)
        n_scored = sample.n_scored
        weights = [0.0] * (len(target) - 1 - n_scored) + [1.0] * n_scored
        rows.append((example.source_ids, target[:-1], target[1:], visible[:-1], weights))
    starts = [sample.target_start for sample in samples]
    source, target, labels, visible, weights = zip(*rows, strict=True)
    return Batch(
        source=_padded(source, mx.int32),
        target=_padded(target, mx.int32),
        labels=_padded(labels, mx.int32),
        visible=_padded(visible, mx.int32),
        weights=_padded(weights, mx.float32),
        # Not every family's RoPE takes an array.
        target_start=starts[0] if len(set(starts)) == 1 else mx.array(starts, mx.int32),
    )


def n_tokens(samples: Sequence[Sample]) -> int:
    """Tokens of a batch of these, padding included."""
    n_source, n_target = (max(sizes) for sizes in zip(*(s.shape for s in samples), strict=True))
    return len(samples) * (n_source + n_target)


def _padded(rows: Sequence[Sequence[float]], dtype: mx.Dtype) -> mx.array:
    width = max(map(len, rows))
    return mx.array([[*row, *[0] * (width - len(row))] for row in rows], dtype)


class Batches:
    """All batches of a corpus, epoch after epoch; the same seed gives the same ones.

    Args:
        pairs: the corpus.
        layout: turns pairs into examples.
        layout_options: the latencies and starts to draw from.
        options: sizes and seed.
        augment: what happens to samples before they are laid out; nothing by default.

    Raises:
        DataError: if there are no pairs.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        layout: StreamingLayout,
        layout_options: LayoutOptions,
        options: BatchOptions,
        augment: AugmentOptions | None = None,
    ) -> None:
        if not pairs:
            raise DataError("there is nothing to train on: the data holds no pairs.")
        self._pairs = pairs
        self._layout = layout
        self._layout_options = layout_options
        self._options = options
        self._augment = Augmenter(augment or AugmentOptions(), pairs, options.seed)

    def resume(self, position: Position) -> Iterator[tuple[Position, list[Sample]]]:
        """Go on from a position, without end.

        Yields:
            The samples of a batch, and the position after it.
        """
        epoch, n_done = position.epoch, position.batch
        while True:
            n_batches = 0
            for pool in self._pools(epoch):
                for group in pool:
                    n_batches += 1
                    if n_batches > n_done:
                        yield Position(epoch, n_batches), group
            epoch, n_done = epoch + 1, 0

    def epoch(self, number: int) -> Iterator[list[Sample]]:
        """The samples of one epoch, batch by batch."""
        for pool in self._pools(number):
            yield from pool

    def _pools(self, epoch: int) -> Iterator[list[list[Sample]]]:
        # A text seeds the same generator on every platform and in every process.
        draw = random.Random(f"{self._options.seed}/{epoch}")
        # A generator of its own: what happens to samples moves neither their order nor their waits.
        augment_draw = random.Random(f"{self._options.seed}/{epoch}/augment")
        order = draw.sample(self._pairs, len(self._pairs))
        size = self._options.pool_pairs
        for start in range(0, len(order), size):
            passages = self._passages(order[start : start + size], draw)
            samples = [self._sample(pairs, draw, augment_draw) for pairs in passages]
            groups = list(group_by_length(samples, self._options.max_tokens))
            draw.shuffle(groups)
            yield groups

    def _passages(self, pairs: Sequence[Pair], draw: random.Random) -> Iterator[Sequence[Pair]]:
        start = 0
        while start < len(pairs):
            size = 1
            if draw.random() < self._options.passage_rate:
                size = draw.randint(2, self._options.passage_pairs)
            yield pairs[start : start + size]
            start += size

    def _sample(
        self, pairs: Sequence[Pair], draw: random.Random, augment_draw: random.Random
    ) -> Sample:
        options = self._layout_options
        history, pairs = self._augment(pairs, augment_draw)
        example = self._layout.example(pairs, history)
        wait_k = draw.choice(options.wait_k)
        target_start = draw.randint(*options.target_starts)
        if options.mode == "batch":
            wait_k, target_start = None, len(example.source_ids)
        return Sample(example, wait_k, target_start, options.gpe_compat)


def group_by_length(samples: Sequence[Sample], max_tokens: int) -> Iterator[list[Sample]]:
    """Put samples of like length together.

    Args:
        samples: in any order.
        max_tokens: of a group, padding included; a sample that has more is a group of its own.
    """
    group: list[Sample] = []
    n_source = n_target = 0
    for sample in sorted(samples, key=lambda s: s.shape):
        source, target = sample.shape
        wider = max(n_source, source), max(n_target, target)
        if group and (len(group) + 1) * sum(wider) > max_tokens:
            yield group
            group, wider = [], (source, target)
        group.append(sample)
        n_source, n_target = wider
    if group:
        yield group
