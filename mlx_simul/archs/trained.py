"""What a checkpoint was trained for, as its config says, and what it may still be told."""

from __future__ import annotations

from dataclasses import replace

from mlx_simul.archs.streaming_config import StreamingConfig
from mlx_simul.errors import InvalidOptionError
from mlx_simul.options import PromptOptions


def told(trained: StreamingConfig, prompt: PromptOptions) -> PromptOptions:
    """What a session puts into its prompt: what is asked, else what the checkpoint was trained on.

    A model that only translates between two languages has no place for instructions in its prompt:
    languages are checked and left out, and anything else is refused.

    Args:
        trained: the checkpoint's streaming config.
        prompt: as asked.

    Raises:
        InvalidOptionError: if such a model is given other languages, or anything else.
    """
    if trained.translates is None:
        if prompt.instruction is prompt.source_language is prompt.target_language is None:
            return replace(
                prompt,
                instruction=trained.instruction,
                source_language=trained.source_language,
                target_language=trained.target_language,
            )
        return prompt
    source, target = trained.translates
    wanted = {"source_language": source, "target_language": target}
    refused = [
        f"{name}={given!r}"
        for name, known in wanted.items()
        if (given := getattr(prompt, name)) and given.casefold() != known.casefold()
    ]
    others = {
        "context": prompt.context,
        "glossary": prompt.glossary,
        "examples": prompt.examples,
        "frame": prompt.frame if prompt.frame == "few-shot" else None,
    }
    if prompt.tools:
        refused.append("tools")
    refused += [f"{name}={given!r}" for name, given in others.items() if given]
    if prompt.instruction is not None:
        refused.append(f"instruction={prompt.instruction!r}")
    if refused:
        raise InvalidOptionError(
            f"this model translates {source} to {target} and takes no other instructions, but was "
            f"given {', '.join(refused)}. Leave that out, or load a model that takes "
            "instructions."
        )
    return replace(prompt, source_language=None, target_language=None)
