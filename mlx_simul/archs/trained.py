"""What a checkpoint was trained for, as its config says, and what it may still be told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_simul.errors import InvalidOptionError

if TYPE_CHECKING:
    from mlx_simul.archs.streaming_config import StreamingConfig


def told(
    trained: StreamingConfig,
    instruction: str | None,
    source_language: str | None,
    target_language: str | None,
    **others: object,
) -> tuple[str | None, str | None, str | None]:
    """Instruction, source language and target language that a session puts into its prompt.

    What was trained is taken where nothing else is given. A model that only translates between two
    languages has no place for either in its prompt: they are checked, and left out.

    Args:
        trained: the checkpoint's streaming config.
        instruction: as given, or None.
        source_language: likewise.
        target_language: likewise.
        others: what else would go into the prompt, by the name of its option.

    Raises:
        InvalidOptionError: if such a model is given other languages, or anything else.
    """
    if trained.translates is None:
        if (instruction, source_language, target_language) == (None, None, None):
            return trained.instruction, trained.source_language, trained.target_language
        return instruction, source_language, target_language
    source, target = trained.translates
    wanted = {"source_language": (source_language, source)}
    wanted["target_language"] = (target_language, target)
    refused = [
        f"{name}={given!r}"
        for name, (given, known) in wanted.items()
        if given is not None and given.casefold() != known.casefold()
    ]
    refused += [f"{name}={given!r}" for name, given in others.items() if given]
    if instruction is not None:
        refused.append(f"instruction={instruction!r}")
    if refused:
        raise InvalidOptionError(
            f"this model translates {source} to {target} and takes no other orders, but was given "
            f"{', '.join(refused)}. Leave that out, or load a model that can be told what to do."
        )
    return None, None, None
