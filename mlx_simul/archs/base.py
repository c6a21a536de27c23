"""What one model family declares so that it streams."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import version
from operator import attrgetter
from typing import Any, Literal, TypeAlias

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import (
    CacheList,
    ConcatenateKVCache,
    KVCache,
    RotatingKVCache,
    make_prompt_cache,
)
from mlx_lm.utils import MODEL_REMAPPING

from mlx_simul.archs import rewrites
from mlx_simul.archs.streaming_config import StreamingConfig
from mlx_simul.archs.surgery import Repair, Surgery
from mlx_simul.cache import (
    Lane,
    LayerCache,
    PassPlan,
    QuantizedLayerCache,
    SourceTargetCache,
    layout_of,
)
from mlx_simul.cache.positions import FusedRope, Rope
from mlx_simul.errors import InvalidOptionError, UnknownArchitectureError

ModelClasses: TypeAlias = tuple[type[nn.Module], type]
Mode: TypeAlias = Literal["group", "reencode", "interleaved"]

rope_of_self_attention: Callable[[Any], Rope] = attrgetter("self_attn.rope")
"""Where most of mlx-lm's families keep a layer's RoPE module."""

POSITION_NAMES = ("max_position_embeddings", "n_positions")
"""What configs call the number of positions that a model was trained on."""

TEMPERATURE = "attention is sharpened by the position of the query"


def layers_of(model: Any) -> Iterable[Any]:
    """The layers of a model, each with a cache of its own."""
    return model.layers


KV_GROUP_SIZES = (32, 64, 128)
"""Numbers that may share a scale."""


@dataclass(frozen=True)
class KVBits:
    """How keys and values are quantised (mlx-lm's ``kv_bits`` and ``kv_group_size``)."""

    bits: int
    group_size: int = 64

    def __post_init__(self) -> None:
        if self.bits not in (2, 3, 4, 5, 6, 8) or self.group_size not in KV_GROUP_SIZES:
            raise InvalidOptionError(
                f"keys and values can be stored in 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or "
                f"128, got kv_bits={self.bits!r} and kv_group_size={self.group_size!r}."
            )


@dataclass(frozen=True)
class Architecture:
    """How one ``model_type`` streams.

    mlx-lm's attention asks its cache for the position, the keys and the mask, so a family needs no
    code of its own unless mlx-lm's model leaves something out.

    Attributes:
        model_type: the config's ``model_type``.
        rewrite: ``(Model, ModelArgs)`` of a family whose classes are not mlx-lm's.
        repair: what its model needs before it streams, besides what
            :mod:`~mlx_simul.archs.rewrites` puts right in it.
        rope: the RoPE module of a layer; ``None`` for a layer without positions.
        rotates: what RoPE turns; latent attention caches the turned part of its keys as values.
        cached_layers: of a model, the layer that each cache belongs to, in their order.
        positions_fixed_because: why cached keys cannot be moved, if they cannot.
        positions_absolute_because: why a hidden state depends on its own position, and not only on
            distances, if it does; then moved keys stay what they were made of.
        positions_end: whether there are no positions beyond those it was trained on.
        not_in_groups_because: why source and target cannot be kept apart, if they cannot.
        quantizes_kv: whether its attention can read quantised keys and values.
        fuses: whether one pass can feed both groups, and those of several streams. Its RoPE must
            be a module, asked by the cache's ``offset``, and nothing else may ask where a token
            stands; a mask may be (B, 1, L, keys).
    """

    model_type: str
    rewrite: ModelClasses | None = None
    repair: Repair | None = None
    rope: Callable[[Any], Rope | None] = rope_of_self_attention
    rotates: Literal["keys", "values"] = "keys"
    cached_layers: Callable[[Any], Iterable[Any]] = layers_of
    positions_fixed_because: str | None = None
    positions_absolute_because: str | None = None
    positions_end: bool = False
    not_in_groups_because: str | None = None
    quantizes_kv: bool = True
    fuses: bool = False

    @property
    def repairs(self) -> tuple[Repair, ...]:
        """All that is put right in mlx-lm's model of this family."""
        found = (rewrites.find(self.model_type), self.repair)
        return tuple(repair for repair in found if repair is not None)

    @cached_property
    def stock_classes(self) -> ModelClasses:
        """``(Model, ModelArgs)`` as mlx-lm, or the family's own package, has them.

        Raises:
            UnknownArchitectureError: if the installed mlx-lm does not have the family.
        """
        if self.rewrite is not None:
            return self.rewrite
        name = MODEL_REMAPPING.get(self.model_type, self.model_type)
        try:
            module = import_module(f"mlx_lm.models.{name}")
        except ImportError as error:
            if not (error.name or "").startswith("mlx_lm.models"):
                raise
            raise UnknownArchitectureError(
                f"mlx-lm {version('mlx-lm')} does not have model_type {self.model_type!r}. A later "
                "release does: pip install --upgrade mlx-lm, with Python 3.11 or later."
            ) from error
        return module.Model, module.ModelArgs

    @cached_property
    def classes(self) -> ModelClasses:
        """``(Model, ModelArgs)`` whose instances are put right as soon as they are built."""
        model_class, args_class = self.stock_classes
        mixins = tuple(repair.weights for repair in self.repairs if repair.weights is not None)
        ignored = {name for repair in self.repairs for name in repair.ignores}
        architecture = self

        class ModelArgs(args_class):
            whole_config: Mapping[str, Any]

            @classmethod
            def from_dict(cls, params: Mapping[str, Any]) -> Any:
                args = super().from_dict({k: v for k, v in params.items() if k not in ignored})
                args.whole_config = params
                return args

        class Model(*mixins, model_class):
            def __init__(self, args: Any) -> None:
                super().__init__(args)
                surgery = Surgery(self)
                surgery.began_as(self, model_class)
                architecture.operate(surgery, self, args.whole_config)

        return Model, ModelArgs

    def operate(self, surgery: Surgery, model: Any, config: Mapping[str, Any]) -> None:
        """Put a model of this family right, and let it stream.

        Args:
            surgery: keeps what is changed.
            model: as mlx-lm builds it.
            config: of the model, in the words that mlx-lm reads.

        Raises:
            InvalidOptionError: if a module is not mlx-lm's, so that it cannot be put right.
        """
        for repair in self.repairs:
            if repair.operate is not None:
                repair.operate(surgery, model, config)
        surgery.put(model, "streaming_architecture", self)
        # Many of mlx-lm's families do not keep either. What a caller set stands.
        trained, is_set = positions_of(config), "trained_positions" in vars(model)
        if trained not in (None, max_positions_of(model)) and not is_set:
            surgery.put(model, "trained_positions", trained)
        if getattr(model, "streaming_config", None) is None:
            surgery.put(model, "streaming_config", StreamingConfig.of_checkpoint(config))
        if self.fuses_in(model):
            let_fuse(surgery, model, self.ropes(model))

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes it streams in, the best first."""
        if self.not_in_groups_because is None:
            return "group", "reencode", "interleaved"
        return "reencode", "interleaved"

    def require(self, mode: str) -> None:
        """Check that the family streams in this mode.

        Raises:
            InvalidOptionError: if not, or if there is no such mode.
        """
        if mode in self.modes:
            return
        because = f": {self.not_in_groups_because}" if mode == "group" else ""
        raise InvalidOptionError(
            f"mode={mode!r} is not available for model_type {self.model_type!r}{because}; it "
            f"streams in {', '.join(map(repr, self.modes))}, and 'auto' takes the first."
        )

    def make_cache(self, model: Any, kv: KVBits | None = None) -> list[Any]:
        """Empty caches, one for each of those that ``model`` would make itself.

        Args:
            model: of this family.
            kv: how to quantise; full precision by default.

        Raises:
            InvalidOptionError: if the family cannot keep two groups, or not quantised.
        """
        self.require("group")
        if kv is not None and not self.quantizes_kv:
            raise InvalidOptionError(
                f"kv_bits={kv.bits}: the attention of model_type {self.model_type!r} cannot read "
                "quantised keys and values; leave kv_bits out."
            )
        return [self.streaming_cache(stock, kv) for stock in make_prompt_cache(model)]

    def require_quantizable(self, model: Any, kv: KVBits) -> None:
        """Check that keys and values of ``model`` can be quantised in this way.

        Args:
            model: of this family.
            kv: how to quantise.

        Raises:
            InvalidOptionError: if its heads cannot be cut into such groups.
        """
        # The family alone knows its heads, so one token is sent through; nothing is computed.
        caches = self.make_cache(model)
        layout = layout_of(PassPlan((Lane(n_new_source=1),), 1))
        for cache in flat(caches):
            cache.begin(layout)
        model(mx.array([[0]]), cache=caches)
        sizes = {plane.shape[3] for cache in flat(caches) for plane in cache.storage.planes}
        if not any(size % kv.group_size for size in sizes):
            return
        fitting = [n for n in KV_GROUP_SIZES if not any(size % n for size in sizes)]
        advice = (
            f"choose kv_group_size={' or '.join(map(str, fitting))}"
            if fitting
            else f"none of {', '.join(map(str, KV_GROUP_SIZES))} divides them, so leave kv_bits out"
        )
        raise InvalidOptionError(
            f"kv_bits={kv.bits} in groups of {kv.group_size} does not fit the heads of this model, "
            f"of {' and '.join(map(str, sorted(sizes)))} numbers: {advice}."
        )

    def ropes(self, model: Any) -> list[Rope | None]:
        """The RoPE module that belongs to each cache of ``model``."""
        return [self.rope(layer) for layer in self.cached_layers(model)]

    def fuses_in(self, model: Any) -> bool:
        """Whether one pass can feed both groups of ``model``."""
        return self.fuses

    def streaming_cache(self, stock: Any, kv: KVBits | None) -> Any:
        """What stands for one of mlx-lm's caches.

        Raises:
            InvalidOptionError: if nothing can.
        """
        if isinstance(stock, CacheList):
            return CacheList(*(self.streaming_cache(part, kv) for part in stock.caches))
        if type(stock) not in (KVCache, ConcatenateKVCache, RotatingKVCache):
            raise InvalidOptionError(
                f"this {self.model_type!r} model has a {type(stock).__name__}, in which source and "
                "target cannot be kept apart; stream it with mode='reencode'."
            )
        if kv is None:
            return LayerCache(self.rotates)
        return QuantizedLayerCache(kv.bits, kv.group_size)


def let_fuse(surgery: Surgery, model: nn.Module, ropes: Collection[Rope | None]) -> None:
    """Let all RoPE modules of a model that are like these turn the rows of a fused pass.

    What they do with an ordinary offset stays as it is.

    Raises:
        InvalidOptionError: if one of them is a function, so that it cannot be taught.
    """
    for rope in ropes:
        if not isinstance(rope, nn.Module | None):
            raise InvalidOptionError(
                f"an architecture that fuses needs RoPE modules, got {rope!r}; leave fuses=True "
                "out of its declaration."
            )
    kinds = {type(rope) for rope in ropes if rope is not None}
    for module in model.modules():
        if type(module) in kinds:
            surgery.exchange(module, FusedRope)


def flat(caches: Iterable[Any]) -> Iterator[SourceTargetCache]:
    """The caches of a model one by one, those of mlx-lm's lists among them."""
    for cache in caches:
        if isinstance(cache, CacheList):
            yield from flat(cache.caches)
        else:
            yield cache


def vocab_size_of(model: Any) -> int | None:
    """How many tokens a model has embeddings for, if it says."""
    return _setting_of(model, "vocab_size", "num_vocab")


def positions_of(config: Mapping[str, Any]) -> int | None:
    """How many positions a config, or its text side, says that its model was trained on."""
    parts = (config.get("text_config"), config)
    found = (entry(part, name) for name in POSITION_NAMES for part in parts)
    return next((n_positions for n_positions in found if n_positions), None)


def max_positions_of(model: Any) -> int | None:
    """How many positions a model was trained on, if it, or the config it was loaded with, says."""
    return getattr(model, "trained_positions", None) or _setting_of(model, *POSITION_NAMES)


def _setting_of(model: Any, *names: str) -> Any:
    """A setting of a model, or of its text side, by the first of its names that is there."""
    args = getattr(model, "args", None) or getattr(model, "config", None)
    entries = (entry(part, name) for part in (args, entry(args, "text_config")) for name in names)
    return next((found for found in entries if found is not None), None)


def entry(settings: Any, name: str) -> Any:
    """An entry of a config, or of a model's arguments; None if it is not there."""
    if isinstance(settings, Mapping):
        return settings.get(name)
    return getattr(settings, name, None)
