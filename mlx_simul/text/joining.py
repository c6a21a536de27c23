"""What stands between the target texts of successive turns."""

from __future__ import annotations

from mlx_simul.text.characters import is_spaceless


class Joiner:
    """Puts a space, a blank line or nothing between the texts of turns, which come in pieces.

    Text in a script written without spaces gets no space on either side. White space at the start
    and at the end of a turn's text gives way to what stands there.
    """

    def __init__(self) -> None:
        self._last = ""  # character of the stream
        self._space = ""  # behind it, held back until the turn goes on
        self._between: str | None = ""
        self._is_paragraph = False

    def add(self, piece: str) -> str:
        """What a piece of a turn's text adds to the stream's."""
        if self._between is None:
            piece = self._space + piece
        elif piece := piece.lstrip():
            if self._last and not self._is_paragraph:
                is_tight = is_spaceless(self._last) or is_spaceless(piece[0])
                self._between = "" if is_tight else " "
            piece, self._between = self._between + piece, None
            self._is_paragraph = False
        text = piece.rstrip()
        self._space = piece[len(text) :]
        self._last = text[-1:] or self._last
        return text

    def end_turn(self, *, paragraph: bool) -> None:
        """Say that a turn has ended.

        Args:
            paragraph: so has a paragraph of the source.
        """
        self._space = ""
        self._is_paragraph = self._is_paragraph or (paragraph and bool(self._last))
        self._between = "\n\n" if self._is_paragraph else ""
