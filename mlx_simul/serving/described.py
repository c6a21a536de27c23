"""How clients see the options of a session."""

from __future__ import annotations

from typing import Any

from mlx_simul.archs.streaming_config import StreamingConfig
from mlx_simul.errors import InvalidOptionError
from mlx_simul.policies import as_policy, spec_of
from mlx_simul.serving.languages import language_code
from mlx_simul.session import SimulSession

_FIXED = ("source_language", "target_language", "instruction", "context", "glossary")


def described(session: SimulSession, trained: StreamingConfig) -> dict[str, Any]:
    """The options of a session that clients may see, and may change but for ``fixed``.

    Args:
        session: that is live.
        trained: what its checkpoint was trained for.
    """
    options, prompt = session.options, session.options.prompt
    languages = dict(zip(("source", "target"), session.languages, strict=True))
    names = {side: None if name == side.title() else name for side, name in languages.items()}
    try:
        policy = spec_of(as_policy(options.policy))
    except InvalidOptionError:  # made by a program, and without a name
        policy = repr(options.policy)
    return {
        "type": "translation",
        "audio": {
            "input": {"language": language_code(names["source"])},
            "output": {"language": language_code(names["target"])},
        },
        "source_language": names["source"],
        "target_language": names["target"],
        "policy": policy,
        "history": options.turn.history,
        "instruction": prompt.instruction,
        "context": prompt.context,
        "glossary": dict(prompt.glossary or {}),
        "fixed": [] if trained.translates is None else list(_FIXED),
    }
