"""Languages by name, as prompts say them, and by code, as clients of OpenAI's do."""

from __future__ import annotations

from functools import cache


def language_name(language: str) -> str:
    """The English name of a language; a name, or a code that is not known, stays as it is.

    Args:
        language: a name, or a code such as "fr" or "pt-BR".
    """
    name = _names().get(language.strip().partition("-")[0].lower())
    return language if name is None else name


def language_code(language: str | None) -> str | None:
    """The code of a language, if it is one of the hundred whose code is known.

    Args:
        language: its English name.
    """
    wanted = (language or "").strip().lower()
    return next((code for code, name in _names().items() if name.lower() == wanted), None)


@cache
def _names() -> dict[str, str]:
    # Whisper's, and transformers has them: the hundred languages that people speak to a recogniser.
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    return {code: name.title() for code, name in LANGUAGES.items()}
