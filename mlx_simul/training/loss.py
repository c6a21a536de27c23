"""The forward pass of a training step and its loss (SPEC section 5).

Shape legend: B batch, T target rows, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlx_simul.archs.base import flat
from mlx_simul.training.batches import Batch
from mlx_simul.training.cache import make_training_caches
from mlx_simul.training.layout import Example


def streaming_passes(
    model: Any, source: mx.array, target: mx.array, target_start: int | mx.array, visible: mx.array
) -> tuple[mx.array, mx.array]:
    """Two passes of an unmodified mlx-lm model: the source at 0, the target at φ.

    Args:
        model: one that streams in group mode.
        source: (B, S) token ids.
        target: (B, T) token ids.
        target_start: φ, or (B,) one for each row.
        visible: (B, T) source tokens that each target row sees.

    Returns:
        Logits of the source (B, S, V), which cost nothing unless they are used, and of the target
        (B, T, V), each row's for the token after it.

    Raises:
        InvalidOptionError: if the model cannot be trained in two groups.
    """
    caches = make_training_caches(model)
    source_logits = model(source, cache=caches)
    layers: list[Any] = list(flat(caches))
    for cache in layers:
        cache.begin_target(target_start, visible)
    return source_logits, model(target, cache=caches)


def streaming_logits(model: Any, batch: Batch) -> mx.array:
    """(B, T, V) logits of a batch's target rows; see :func:`streaming_passes`."""
    return streaming_passes(model, batch.source, batch.target, batch.target_start, batch.visible)[1]


def reference_loss(model: Any, example: Example, wait_k: int, target_start: int) -> mx.array:
    """The loss of the public reference, for one example (SPEC section 5).

    It scores all target tokens, the header's included, each at the row before it; the first at the
    first row after the prefix, which is a row of the source.

    Args:
        model: one that streams in group mode.
        example: its last target segment may have more than one token.
        wait_k: words to stay behind.
        target_start: φ.

    Returns:
        A scalar, in nats.
    """
    source_logits, target_logits = streaming_passes(
        model,
        mx.array([example.source_ids]),
        mx.array([example.target_ids]),
        target_start,
        mx.array([example.visible(wait_k, gpe_compat=True)]),
    )
    first = source_logits[:, len(example.source[0]), None]
    logits = mx.concatenate([first, target_logits[:, :-1]], axis=1).astype(mx.float32)
    labels = mx.array([example.target_ids])
    return summed_cross_entropy(logits, labels, mx.ones(labels.shape)) / labels.size


def streaming_loss(model: Any, batch: Batch, label_smoothing: float = 0.0) -> mx.array:
    """Mean nats per scored token: words and end-of-turn, the first at the header's last row.

    Args:
        model: one that streams in group mode.
        batch: what to feed.
        label_smoothing: share of the target probability that is spread over the vocabulary.

    Returns:
        A scalar.
    """
    logits = streaming_logits(model, batch).astype(mx.float32)
    return summed_cross_entropy(logits, batch.labels, batch.weights, label_smoothing) / (
        batch.weights.sum()
    )


def summed_cross_entropy(
    logits: mx.array, labels: mx.array, weights: mx.array, label_smoothing: float = 0.0
) -> mx.array:
    """Weighted sum of cross-entropies, with a gradient that keeps the softmax.

    The same as ``mlx.nn.losses.cross_entropy`` summed. Exponentials are what a large vocabulary
    costs on the CPU; this takes them once for value and gradient together.

    Args:
        logits: (B, T, V) in float32.
        labels: (B, T) token ids.
        weights: (B, T).
        label_smoothing: share of the target probability that is spread over the vocabulary.

    Returns:
        A scalar.
    """
    total: Any = _cross_entropy(logits, labels, weights, mx.array(label_smoothing))
    return total[0]


@mx.custom_function
def _cross_entropy(
    logits: mx.array, labels: mx.array, weights: mx.array, smoothing: mx.array
) -> tuple[mx.array, mx.array]:
    probabilities = mx.softmax(logits, axis=-1)
    # The largest probability is at least 1/V, so its logarithm is exact where a rare one's is not.
    total = logits.max(axis=-1) - mx.log(probabilities.max(axis=-1))
    picked = mx.take_along_axis(logits, labels[..., None], axis=-1).squeeze(-1)
    wanted = (1 - smoothing) * picked + smoothing * logits.mean(axis=-1)
    return ((total - wanted) * weights).sum(), probabilities


@_cross_entropy.vjp
def _cross_entropy_gradient(
    primals: tuple[mx.array, ...], cotangents: tuple[mx.array, ...], outputs: tuple[mx.array, ...]
) -> tuple[mx.array, ...]:
    logits, labels, weights, smoothing = primals
    scale = (weights * cotangents[0])[..., None]
    spread = scale * outputs[1] - scale * (smoothing / logits.shape[-1])
    index = labels[..., None]
    picked = mx.take_along_axis(spread, index, axis=-1) - scale * (1 - smoothing)
    gradient = mx.put_along_axis(spread, index, picked, axis=-1)
    return gradient, mx.zeros_like(labels), mx.zeros_like(weights), mx.zeros_like(smoothing)
