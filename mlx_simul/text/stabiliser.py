"""A recogniser's hypotheses in; words that are final out, as text to feed to a session (SPEC 9).

:mod:`~mlx_simul.text.agreement` says which words are stable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, TypeAlias

from mlx_simul.errors import InvalidOptionError, SessionClosedError
from mlx_simul.events import Tail
from mlx_simul.text.agreement import Agreement
from mlx_simul.text.characters import is_spaceless
from mlx_simul.text.segmenter import SourceSegmenter

Hypothesis: TypeAlias = str | tuple[str, bool | int]
"""A recogniser's text, alone or with how much of it is final: all (True), or a number of words."""


class Stabiliser:
    """Takes hypotheses as a recogniser revises them and gives each word once, when it is stable.

    Words are those of :class:`~mlx_simul.text.segmenter.SourceSegmenter`. They agree if they are
    the same letter by letter; case and punctuation alone do not contradict a word that was given.
    A hypothesis is the whole text since the last final words, or since the beginning. With
    ``since="final"`` memory is bounded by the longest hypothesis.

    Args:
        agree: how many successive hypotheses must have a word in common, at least 1.
        since: where each hypothesis begins: "final", after what the recogniser has called final,
            or "beginning", always at the beginning of the stream.

    Raises:
        InvalidOptionError: an option is outside its range.
    """

    def __init__(self, agree: int = 2, *, since: Literal["final", "beginning"] = "final") -> None:
        if since not in ("final", "beginning"):
            raise InvalidOptionError(f'since must be "final" or "beginning", got {since!r}.')
        self._agreement = Agreement(agree)
        self._since = since
        self._closed = False
        self._last_char = " "  # of the text given

    @property
    def tail(self) -> Tail:
        """The part of the latest hypothesis that may still change."""
        return Tail("".join(self._agreement.rest).strip())

    @property
    def contradictions(self) -> int:
        """How many hypotheses contradicted a word that had been given."""
        return self._agreement.contradictions

    def hear(self, hypothesis: str, *, final: bool | int = False) -> str:
        """Takes the recogniser's next hypothesis.

        Args:
            hypothesis: its text, revised as a whole.
            final: how much of it will not be revised: all of it (True), or a number of words.

        Returns:
            Text to feed to a session: the words that have become stable, each whole (white space
            follows unless the script has none); empty if there are none.

        Raises:
            SessionClosedError: After ``finish``.
            InvalidOptionError: ``hypothesis`` is not a ``str``, or ``final`` is negative.
        """
        self._refuse_if_closed("hear")
        if not isinstance(final, int) or final < 0:
            raise InvalidOptionError(f"final must be True, False or a count, got {final!r}.")
        words = _words(hypothesis)
        n_final = len(words) if final is True else min(final, len(words))
        stable = self._agreement.hear(words, n_final=n_final)
        if (final is True or n_final > 0) and self._since == "final":
            self._agreement.forget(n_final)
        return self._spaced(words[stable.start : stable.stop])

    def finish(self) -> str:
        """Ends the source.

        Returns:
            The rest of the latest hypothesis, as text to feed; empty if there is none.

        Raises:
            SessionClosedError: The second time.
        """
        self._refuse_if_closed("finish")
        self._closed = True
        rest = self._agreement.rest
        self._agreement.finish()
        return self._spaced(rest)

    def _refuse_if_closed(self, what: str) -> None:
        if self._closed:
            raise SessionClosedError(
                f"{what}() after finish(): this source has ended; start a new Stabiliser."
            )

    def _spaced(self, words: Sequence[str]) -> str:
        """The text of words, with the space before and after it that makes them whole."""
        if not words:
            return ""
        text, rest = "".join(words), self._agreement.rest
        if self._last_char.isspace():
            text = text.lstrip()
        if not is_spaceless(text[-1]) and (not rest or rest[0][0].isspace()):
            text += " "
        self._last_char = text[-1]
        return text


def stabilise(
    hypotheses: Iterable[Hypothesis],
    agree: int = 2,
    *,
    since: Literal["final", "beginning"] = "final",
    show: Callable[[Tail], None] | None = None,
) -> Iterator[str]:
    """Make a source out of a recogniser's hypotheses.

    Args:
        hypotheses: as they come: texts, or pairs of a text and what of it is final.
        agree: how many successive ones must have a word in common.
        since: where each begins; see :class:`Stabiliser`.
        show: called with the part that may still change, after each hypothesis.

    Yields:
        Text that will not change, to feed to a session or to pass on as its source.

    Raises:
        InvalidOptionError: an option, or a hypothesis, is outside its range.
    """
    stabiliser = Stabiliser(agree, since=since)
    for hypothesis in hypotheses:
        text, final = _with_final(hypothesis)
        if stable := stabiliser.hear(text, final=final):
            yield stable
        if show is not None:
            show(stabiliser.tail)
    if stable := stabiliser.finish():
        yield stable


def _with_final(hypothesis: Hypothesis) -> tuple[str, bool | int]:
    if isinstance(hypothesis, str):
        return hypothesis, False
    if isinstance(hypothesis, tuple) and len(hypothesis) == 2:
        return hypothesis
    raise InvalidOptionError(
        f"a hypothesis must be a text, or a text and what of it is final, got {hypothesis!r}."
    )


def _words(text: str) -> list[str]:
    segmenter = SourceSegmenter()
    return segmenter.feed(text) + segmenter.finish()
