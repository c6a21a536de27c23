"""Recognisers by name: ``"faster-whisper:tiny.en"`` becomes one that is loaded.

Other packages add recognisers through the entry-point group ``mlx_simul.recognisers``: the name of
an entry point is the recogniser's name, its value the ``"module:function"`` that loads one, given
the text after the colon (None if there is none) and, if the caller has some, ``WindowOptions``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.plug_ins import imported, with_plug_ins
from mlx_simul.speech.recogniser import Recogniser

if TYPE_CHECKING:
    from mlx_simul.speech.window import WindowOptions

ENTRY_POINT_GROUP = "mlx_simul.recognisers"

_BUILT_IN = {
    "faster-whisper": "faster_whisper:load",
    "parakeet-mlx": "parakeet_mlx:load",
    "mlx-whisper": "mlx_whisper:load",
}


def recogniser_names() -> list[str]:
    """The names of all recognisers, those of other packages included."""
    return sorted(_known())


def load_recogniser(spec: str, options: WindowOptions | None = None) -> Recogniser:
    """Load the recogniser that a text names.

    Args:
        spec: ``NAME`` or ``NAME:MODEL``, where MODEL is a folder, or a name that the recogniser's
            own package knows.
        options: how much is heard at once and what a pause is; None for the recogniser's own.

    Raises:
        InvalidOptionError: if no recogniser has that name, or its package is not installed.
        ModelLoadError: if the model cannot be loaded.
    """
    name, _, model = spec.partition(":")
    load = _loader(name.strip())
    return load(model.strip() or None, *([] if options is None else [options]))


def _loader(name: str) -> Callable[..., Recogniser]:
    known = _known()
    if name not in known:
        raise InvalidOptionError(
            f"there is no recogniser {name!r}; known are {', '.join(sorted(known))}. A model may "
            "follow a colon, as in faster-whisper:tiny.en."
        )
    return imported(known[name])


def _known() -> dict[str, str]:
    own = {name: f"mlx_simul.speech.{place}" for name, place in _BUILT_IN.items()}
    return with_plug_ins("recogniser", own, ENTRY_POINT_GROUP)
