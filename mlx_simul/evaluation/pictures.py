"""Pictures by matplotlib, in which user text is not markup; files are replaced whole."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.extras import require
from mlx_simul.machine.files import replacing_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def require_matplotlib(extra: str, otherwise: str) -> None:
    """Check that pictures can be drawn here; call it before the work that they are to show.

    Args:
        extra: the extra of this package that brings matplotlib.
        otherwise: how to do without it.

    Raises:
        InvalidOptionError: if matplotlib is not installed, or has nowhere to keep its fonts.
    """
    try:
        require("matplotlib", extra, otherwise)
        import matplotlib.backends.backend_agg  # noqa: F401
    except OSError as error:
        raise InvalidOptionError(
            f"matplotlib does not start: {error} Set MPLCONFIGDIR to a folder that can be written, "
            f"or {otherwise}."
        ) from error


@contextmanager
def picture(width: float, height: float) -> Iterator[Figure]:
    """A separate figure, so that the program's own pyplot state is not touched.

    Inside, ``$`` is a dollar: no text is read as mathematics or TeX.

    Args:
        width: inches.
        height: inches.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # With a salt of its own, the same figures make the same SVG file.
    settings: Any = {"text.parse_math": False, "text.usetex": False, "svg.hashsalt": "mlx_simul"}
    with rc_context(settings), warnings.catch_warnings():
        # A box stands for a character that the font lacks, and the reader of the picture sees it.
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def name_lines(axes: Axes, lines: Mapping[str, Any]) -> None:
    """Add a legend, in which a name may begin with an underscore, too.

    Args:
        axes: that hold the lines.
        lines: what matplotlib calls handles, by name.
    """
    # matplotlib leaves out a label that begins so.
    legend = axes.legend(list(lines.values()), ["name"] * len(lines))
    for text, name in zip(legend.get_texts(), lines, strict=True):
        text.set_text(name)


def save(figure: Figure, path: Path) -> None:
    """Write a figure, in a format that the ending names; an existing file is replaced."""
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with replacing_file(path) as partial:
        figure.savefig(partial, dpi=120, metadata=metadata)
