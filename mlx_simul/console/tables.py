"""Tables in which nothing is cut: half a number would be a wrong number."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from mlx_simul.machine.terminal import harmless

_BETWEEN = 3  # columns between the texts of two cells: a space, a line, a space
_EDGE = 1  # and the line that closes the table


def fitting_table(
    console: Console,
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    prose: Collection[str] = (),
) -> RenderableType:
    """A table that fits a terminal, or a line for each cell where the terminal is too narrow.

    Args:
        console: whose width to fit.
        title: user text, as all the others may be: none is read as markup.
        heads: of the columns; they may be wrapped between words.
        rows: a text for each column; a :class:`Text` brings its style.
        prose: heads of columns whose texts may be wrapped likewise.
    """
    texts = [[_text(cell) for cell in row] for row in rows]
    columns = [[row[i] for row in texts] for i in range(len(heads))]
    widths = _widths(heads, columns, prose, console.width)
    if widths is None:
        return _stacked(title, heads, texts, console.width)
    table = Table(title=_text(title) if title else None)
    for i, head in enumerate(heads):
        is_figure = i > 0 and head not in prose
        table.add_column(_text(head), width=widths[i], justify="right" if is_figure else "left")
    for row in texts:
        table.add_row(*row)
    return table


def _widths(
    heads: Sequence[str], columns: Sequence[Sequence[Text]], prose: Collection[str], available: int
) -> list[int] | None:
    """As wide a column as is left for each, the first ones first; None if one would be cut."""
    least, most = [], []
    for head, column in zip(heads, columns, strict=True):
        whole = [text.plain for text in column]
        words = [word for text in whole for word in text.split()] if head in prose else whole
        least.append(_longest((*head.split(), *words)))
        most.append(_longest((head, *whole)))
    room = available - _EDGE - sum(width + _BETWEEN for width in least)
    if room < 0:
        return None
    for i in range(len(heads)):
        grown = min(most[i] - least[i], room)
        least[i] += grown
        room -= grown
    return least


def _stacked(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[Text]], available: int
) -> Text:
    """A block for each row, headed by its first cell."""
    name_width = _longest(heads[1:])
    cell_width = _longest(cell.plain for row in rows for cell in row[1:])
    is_narrow = 4 + name_width + cell_width > available
    lines = [_text(title)] if title else []
    for first, *cells in rows:
        lines.append(first)
        for head, cell in zip(heads[1:], cells, strict=True):
            if cell.plain:
                name = f"  {head}\n    " if is_narrow else f"  {head:{name_width}}  "
                lines.append(Text.assemble(name, cell))
    return Text("\n").join(lines)


def _text(cell: str | Text) -> Text:
    return Text(harmless(cell)) if isinstance(cell, str) else cell


def _longest(texts: Iterable[str]) -> int:
    return max(map(cell_len, texts), default=0)
