"""The same cache in fewer bits, stored as mlx-lm's own quantised cache stores them."""

from __future__ import annotations

import mlx.core as mx

from mlx_simul.cache.base import KeysValues
from mlx_simul.cache.layer import LayerCache, halves_of
from mlx_simul.cache.storage import Planes
from mlx_simul.errors import InvalidOptionError

LOST_BITS = 8
"""The bits for what quantising took from a moved key; in 4 bits the loss would add up again."""


class QuantizedLayerCache(LayerCache):
    """A :class:`SourceTargetCache` whose keys and values are quantised, as mlx-lm quantises them.

    Only attention that goes through mlx-lm's ``scaled_dot_product_attention``, and has no sinks,
    can read it.

    Args:
        bits: 2, 3, 4, 5, 6 or 8 per number.
        group_size: numbers along a head that share scale and bias; it must divide the head size.
    """

    def __init__(self, bits: int = 8, group_size: int = 64) -> None:
        super().__init__()
        # By these names mlx-lm's attention knows that the cache is quantised.
        self.bits = bits
        self.group_size = group_size

    def _encode(self, x: mx.array) -> Planes:
        if x.shape[3] % self.group_size:
            raise InvalidOptionError(
                f"a quantised cache in groups of {self.group_size} does not fit heads of "
                f"{x.shape[3]} numbers; the size of the groups must divide it."
            )
        return tuple(mx.quantize(x, group_size=self.group_size, bits=self.bits))

    def _decode(self, planes: Planes) -> mx.array:
        return self._unpacked(planes, self.bits)

    def _encode_lost(self, x: mx.array) -> Planes:
        return tuple(mx.quantize(x, group_size=self.group_size, bits=LOST_BITS))

    def _decode_lost(self, planes: Planes) -> mx.array:
        return self._unpacked(planes, LOST_BITS)

    def _unpacked(self, planes: Planes, bits: int) -> mx.array:
        return mx.dequantize(*planes, group_size=self.group_size, bits=bits).astype(mx.float32)

    def _is_own(self, planes: Planes) -> bool:
        return len(planes) == 3 and 32 * planes[0].shape[3] == self.bits * self._width(planes)

    def _width(self, planes: Planes) -> int:
        return planes[1].shape[3] * self.group_size

    def present(self, planes: Planes) -> KeysValues:
        halves = halves_of(planes)
        return halves["keys"], halves["values"]
