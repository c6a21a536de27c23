"""The tokenizer of a checkpoint and its chat template, wherever its files hold them."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_tokenizer
from transformers import CONFIG_MAPPING, PretrainedConfig

from mlx_simul.errors import ModelLoadError
from mlx_simul.machine.files import read_object

_logger = logging.getLogger(__name__)

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json"),
)

MAX_TEMPLATE_BYTES = 16_777_216
"""The most bytes of a JSON file with a chat template; a tokenizer's has a tenth of that."""

_TEKKEN = "tekken.json"
_TURN = re.compile(r"im_start|INST|start_of_turn|start_header|user|assistant|turn\|>|<\|turn", re.I)


def read_tokenizer(
    folder: Path, config: Mapping[str, Any], extra: Mapping[str, Any] | None = None
) -> TokenizerWrapper:
    """The tokenizer of a folder, with its chat template.

    A chat template is looked for where transformers' tokenizers have theirs, then where its
    processors have it (multimodal families), then made from ``tekken.json`` by mistral-common.

    Args:
        folder: The checkpoint's.
        config: Its config.json.
        extra: More arguments for transformers' ``AutoTokenizer``.

    Raises:
        ModelLoadError: if its template cannot be read, or a package for it is missing.
        ValueError: if it knows no text; or whatever transformers raises over damaged files.
    """
    options = _options(config) | {"chat_template": _outside_template(folder)} | dict(extra or {})
    if options["chat_template"] is None:
        del options["chat_template"]
    ends = config.get("eos_token_id")
    if _has_tekken_alone(folder):
        tokenizer = _from_tekken(folder / _TEKKEN, ends)
    else:
        if (folder / _TEKKEN).is_file():
            # Else transformers gives mistral-common's own class, which lacks much of the others.
            options["mistral_format"] = False
        tokenizer = load_tokenizer(folder, options, eos_token_ids=ends)
    # Without its files transformers makes up a tokenizer that knows no text.
    if not tokenizer.encode("a", add_special_tokens=False):
        raise ValueError("its vocabulary is empty: tokenizer.json is missing")
    if not tokenizer.has_chat_template:
        _tell_of_no_template(folder, tokenizer)
    return tokenizer


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    # For a type that it does not know, transformers reads RoPE's settings, and fails on them.
    return {} if config.get("model_type") in CONFIG_MAPPING else {"config": PretrainedConfig()}


def _outside_template(folder: Path) -> str | dict[str, str] | None:
    """The template of a folder in which transformers' tokenizers find none themselves."""
    inside = _read(folder / "tokenizer_config.json").get("chat_template")
    own = (folder / "chat_template.jinja", folder / "additional_chat_templates")
    if inside is not None or any(path.exists() for path in own):
        return None
    for name in ("chat_template.json", "processor_config.json"):
        content = _read(folder / name)
        if "chat_template" in content:
            return _template(content["chat_template"], folder / name)
        if content and name == "chat_template.json":
            raise ModelLoadError(
                f"{folder / name} has no entry 'chat_template', so the model's turns cannot be "
                "written. Fetch it again, or put the template into chat_template.jinja."
            )
    return _tekken_template(folder / _TEKKEN)


def _template(value: Any, path: Path) -> str | dict[str, str] | None:
    """One template, or several by name; both forms are found."""
    if isinstance(value, list):
        entries = [entry for entry in value if isinstance(entry, dict)]
        named = {entry.get("name"): entry.get("template") for entry in entries}
        value = named if len(entries) == len(value) else None
    elif value is None or isinstance(value, str):
        return value
    if isinstance(value, dict) and all(
        isinstance(text, str) for entry in value.items() for text in entry
    ):
        return value
    raise ModelLoadError(
        f"the chat_template in {path} is neither a text nor texts by name. Fetch it again, or put "
        "the template into chat_template.jinja."
    )


def _read(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file."""
    if not path.is_file():
        return {}
    return read_object(path, ModelLoadError, "Fetch it again.", max_bytes=MAX_TEMPLATE_BYTES)


def _has_tekken_alone(folder: Path) -> bool:
    others = (folder / name for name in TOKENIZER_FILES if name != _TEKKEN)
    return (folder / _TEKKEN).is_file() and not any(path.is_file() for path in others)


def _from_tekken(path: Path, ends: Any) -> TokenizerWrapper:
    """Turn Mistral's own format into a tokenizer of the usual kind.

    Raises:
        ModelLoadError: if mistral-common is not installed.
    """
    if find_spec("mistral_common") is None:
        raise ModelLoadError(
            f"{path} is a tokenizer in Mistral's own format, which needs a package: pip install "
            "mistral-common. (`mlx-simul convert` then writes one that needs none.)"
        )
    from transformers.integrations.mistral.tokenizer import convert_tekken_tokenizer

    tokenizer = convert_tekken_tokenizer(str(path))
    # Said once it is saved, since transformers would warn of other files of Mistral's.
    tokenizer.init_kwargs["fix_mistral_regex"] = False
    return TokenizerWrapper(tokenizer, eos_token_ids=[ends] if isinstance(ends, int) else ends)


def _tekken_template(path: Path) -> str | None:
    if not path.is_file() or find_spec("mistral_common") is None:
        return None
    from mistral_common.integrations.chat_templates.chat_templates import (  # pyright: ignore
        convert_tokenizer_to_chat_template,
    )

    return convert_tokenizer_to_chat_template(str(path))


def _tell_of_no_template(folder: Path, tokenizer: TokenizerWrapper) -> None:
    """Warn where it is likely that a chat model lost its template."""
    added = tokenizer.added_tokens_decoder.values()
    turns = sorted(token.content for token in added if _TURN.search(token.content))
    if not turns and not (folder / _TEKKEN).is_file():
        return
    hint = "pip install mistral-common" if (folder / _TEKKEN).is_file() else "add its file"
    _logger.warning(
        "%s holds no chat template, so prompts are few-shot examples, for base models%s. If this "
        "is a chat model, %s (chat_template.jinja).",
        folder,
        f", though its tokenizer has {turns[0]}" if turns else "",
        hint,
    )
