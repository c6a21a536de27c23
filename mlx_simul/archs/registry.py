"""The registry: ``model_type`` -> how that family streams.

Nothing is imported before it is looked up. Other packages add their families through the entry
point group ``mlx_simul.archs``, whose names are model types and whose values are ``"module:name"``
of an :class:`~mlx_simul.archs.base.Architecture`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from mlx_simul.archs.streaming_config import StreamingConfig
from mlx_simul.errors import InvalidOptionError, UnknownArchitectureError
from mlx_simul.machine.plug_ins import imported, with_plug_ins

if TYPE_CHECKING:
    from mlx_simul.archs.base import Architecture

ENTRY_POINT_GROUP = "mlx_simul.archs"

_BUILT_IN = {
    "stock": """
        afmoe apertus bailing_moe bitnet cohere cohere2 dbrx deepseek dots1 ernie4_5 ernie4_5_moe
        exaone exaone4 exaone_moe gemma gemma2 gemma3 gemma3_text glm glm4 glm4_moe gpt_neox gpt_oss
        gptj granite granitemoe helium internlm2 internlm3 Klear laguna lille-130m llama llama4_text
        mellum mimo mimo_v2_flash minicpm minimax ministral3 mistral mixtral muse_glimmer muse_spark
        nemotron olmo2 olmo3 olmoe openelm phi phi3 phimoe phixtral pixtral plamo plamo3 qwen
        qwen2 qwen2_moe qwen2_vl qwen3 qwen3_moe qwen3_vl qwen3_vl_moe seed_oss smollm3 solar_open
        spark2_5 stablelm starcoder2 step3p5 telechat3
    """,
    "ropes": """
        deepseek_v2 deepseek_v3 glm4_moe_lite hunyuan hunyuan_v1_dense kimi_k25 kimi_vl
        longcat_flash minicpm3 mistral4 nanochat talkie youtu_llm
    """,
    "layers": "gemma3n gemma4 gemma4_text iquestloopcoder nanbeige nemotron-nas",
    "afm7": "afm7",
    "mistral3": "mistral3",
    "phi3small": "phi3small",
    "llama4": "llama4",
    "learned": "gpt2 gpt_bigcode",
    "reencoded": """
        baichuan_m1 bailing_hybrid bailing_moe_linear bailing_moe_v3 deepseek_v32 deepseek_v41
        falcon_h1 gear glm_moe_dsa granitemoehybrid jamba kimi_k3 kimi_linear lfm2 lfm2-vl lfm2_moe
        longcat_flash_ngram mamba mamba2 minimax_m3_vl nemotron_h olmo_hybrid plamo2
        prism_hadamard_qwen35 qwen3_5 qwen3_5_moe qwen3_next recurrent_gemma rwkv7
    """,
}
BUILT_IN = {module: tuple(model_types.split()) for module, model_types in _BUILT_IN.items()}
"""Model types by the module here whose ``ARCHITECTURES`` declares them."""

LEFT_OUT = {
    "olmo": "mlx-lm's module needs the package hf_olmo and cannot read more than one token at once"
}
"""Model types of mlx-lm that are not registered, and why."""

_ALIASES = {"lfm2_vl": "lfm2-vl", "youtu": "youtu_llm"}
"""What transformers calls a type that mlx-lm knows by another name."""

_added: dict[str, str] = {}


def register(model_type: str, target: str) -> None:
    """Add a family.

    Args:
        model_type: the config's ``model_type``.
        target: ``"module:name"`` of its :class:`~mlx_simul.archs.base.Architecture`.

    Raises:
        InvalidOptionError: if the type is registered already, or ``target`` has another form.
    """
    known = _known()
    if model_type in known:
        raise InvalidOptionError(
            f"model_type {model_type!r} is registered already, in {known[model_type]}; "
            "two declarations of one family cannot both be right."
        )
    if target.count(":") != 1:
        raise InvalidOptionError(f"an architecture is named 'module:name', got {target!r}.")
    _added[model_type] = target


def registered_types() -> list[str]:
    """All registered model types, plug-ins included, sorted."""
    return sorted(_known())


def remapped_types() -> dict[str, str]:
    """Types that run as a registered one: by mlx-lm's own table, or under transformers' name."""

    from mlx_lm.utils import MODEL_REMAPPING

    known = _known()
    return {
        alias: model_type
        for alias, model_type in sorted((_ALIASES | MODEL_REMAPPING).items())
        if model_type in known and alias not in known
    }


def find(model_type: str) -> Architecture:
    """The architecture of a ``model_type``, or of the type that mlx-lm maps it onto.

    Raises:
        UnknownArchitectureError: if it is not registered.
    """
    known = _known()
    model_type = model_type if model_type in known else remapped_types().get(model_type, model_type)
    if model_type not in known:
        because = f" ({LEFT_OUT[model_type]})" if model_type in LEFT_OUT else ""
        raise UnknownArchitectureError(
            f"model_type {model_type!r} has no streaming architecture{because}. Known: "
            f"{', '.join(sorted([*known, *remapped_types()]))}. load(..., allow_unverified=True) "
            "tries whether it streams all the same; to add it, declare an Architecture "
            "(CONTRIBUTING.md, 'Add an architecture') and register it with "
            f"mlx_simul.archs.register or the entry point group {ENTRY_POINT_GROUP!r}."
        )
    found = imported(known[model_type])
    return found[model_type] if isinstance(found, Mapping) else found


def is_registered(model_type: str) -> bool:
    """Whether :func:`find` would find it."""
    return model_type in _known() or model_type in remapped_types()


def verified() -> Mapping[str, Any]:
    """What a recorded run measured, by model type.

    Per mode the number of laws that held and the largest relative error among them, in float32; and
    under ``"transformers"`` the error against transformers' logits, if they were compared.
    """
    return _recorded()["model_types"]


def verified_with() -> Mapping[str, str]:
    """Versions of the packages that :func:`verified` was measured with."""
    return _recorded()["versions"]


def of(model: Any) -> Architecture:
    """The architecture of a model: the one it was loaded with, else its type's.

    Raises:
        UnknownArchitectureError: if its type is not registered.
    """
    return getattr(model, "streaming_architecture", None) or find(_type_of(model))


def _type_of(model: Any) -> str:
    """What config.json calls its type; some of mlx-lm's wrappers keep that of their text side."""
    said = str(getattr(model, "model_type", None))
    homes = (kind.__module__ for kind in type(model).__mro__)
    stems = [home.removeprefix("mlx_lm.models.") for home in homes]
    return next((name for name in (said, *stems) if is_registered(name)), said)


def streaming_config(model: Any) -> StreamingConfig:
    """What the checkpoint's config says about how it was trained to stream.

    Raises:
        InvalidOptionError: if somebody gave the model a mapping that is not valid.
    """
    found = getattr(model, "streaming_config", None)
    return found if isinstance(found, StreamingConfig) else StreamingConfig.from_json(found)


@cache
def _recorded() -> Mapping[str, Any]:
    return json.loads((files("mlx_simul.archs") / "verified.json").read_text("utf-8"))


def _known() -> dict[str, str]:
    built_in = {
        model_type: f"mlx_simul.archs.{module}:ARCHITECTURES"
        for module, model_types in BUILT_IN.items()
        for model_type in model_types
    }
    return with_plug_ins("model_type", built_in | _added, ENTRY_POINT_GROUP)
