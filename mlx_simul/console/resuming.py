"""The source after a journal: what the journal holds is compared and skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_simul.console.live import TextSource
from mlx_simul.errors import InvalidOptionError

if TYPE_CHECKING:
    from mlx_simul.session import Resumed

_SHOWN_CHARS = 30


class Continued:
    """A source of which some text was read ahead.

    Args:
        text: that text.
        source: where the rest comes from.
    """

    def __init__(self, text: str, source: TextSource) -> None:
        self._text = text
        self._source = source

    def read(self, *, wait: bool = True) -> str | None:
        """The next piece, as any source gives it."""
        if self._text:
            text, self._text = self._text, ""
            return text
        return self._source.read(wait=wait)


def behind_journal(source: TextSource, journal: Path, resumed: Resumed) -> TextSource:
    """The part of a source that a journal does not hold.

    Args:
        source: from its beginning.
        journal: its file.
        resumed: what the session found in it.

    Raises:
        InvalidOptionError: if the journal holds another text.
    """
    n_same, text = 0, ""
    for held in _texts(journal, resumed.source_chars):
        while held:
            text = text or source.read()
            if text is None:
                raise _another(journal, n_same, held, "it ends")
            n = _n_alike(held, text)
            held, text, n_same = held[n:], text[n:], n_same + n
            if held and text:
                raise _another(journal, n_same, held, f"it has {text[:_SHOWN_CHARS]!r}")
    if resumed.source_closed:
        text = text or source.read()
        if text is not None:
            raise _another(journal, n_same, "", f"it goes on with {text[:_SHOWN_CHARS]!r}")
    return Continued(text or "", source)


def _texts(journal: Path, n_chars: int) -> Iterator[str]:
    """The source text in a journal, up to where the session found its end."""
    from mlx_simul.stream.journal import read_entries

    for entry in read_entries(journal):
        if not n_chars:
            return
        n_chars -= len(entry.text)
        yield entry.text


def _n_alike(one: str, other: str) -> int:
    """Characters before the first that differs, in the shorter of them."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _another(journal: Path, n_same: int, held: str, found: str) -> InvalidOptionError:
    where = f"holds {held[:_SHOWN_CHARS]!r}" if held else "ends"
    return InvalidOptionError(
        f"the source is not that of the journal {journal}: after character {n_same} the journal "
        f"{where}, but {found}. Give the same source, or name another journal."
    )
