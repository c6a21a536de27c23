"""The words of a growing window: its latest hypothesis, and how many of it are stable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mlx_simul.speech.recogniser import Word
from mlx_simul.text.agreement import Agreement


class Transcript:
    """Takes the hypotheses of a window and gives each word once, when it is stable.

    Words that two successive hypotheses have in common are stable, however they are written:
    Whisper puts a comma in one and a full stop in the next. Times that are given never go back,
    though a model may move its words a little from one hypothesis to the next.
    """

    def __init__(self) -> None:
        self._agreement = Agreement(2, by_sound=True)
        self._words: list[Word] = []
        self._n_stable = 0
        self._given_until_s = 0.0

    @property
    def words(self) -> Sequence[Word]:
        """The latest hypothesis."""
        return self._words

    @property
    def n_stable(self) -> int:
        """How many of its first words have been given."""
        return self._n_stable

    @property
    def tail(self) -> str:
        """The text of the others."""
        return "".join(self._agreement.rest).strip()

    def revise(self, words: Sequence[Word], *, n_final: int = 0) -> list[Word]:
        """Take the next hypothesis.

        Args:
            words: of the whole window.
            n_final: how many of its first words are to become stable, whatever the last one was.

        Returns:
            The words that have become stable by it.
        """
        self._words = [*words]
        stable = self._agreement.hear([word.text for word in words], n_final=n_final)
        return self._give(stable)

    def finish(self) -> list[Word]:
        """Begin a new window; return the rest of the latest hypothesis, which is stable now."""
        rest = self._give(self._agreement.finish())
        self._agreement = Agreement(2, by_sound=True)
        self._words, self._n_stable = [], 0
        return rest

    def forget(self, n_words: int) -> None:
        """Let the window begin after some of its words.

        Args:
            n_words: how many of the latest hypothesis, all of them given.
        """
        self._agreement.forget(n_words)
        self._words = self._words[n_words:]
        self._n_stable = max(0, self._n_stable - n_words)

    def _give(self, places: range) -> list[Word]:
        self._n_stable = places.stop
        given = []
        for word in self._words[places.start : places.stop]:
            start_s = max(word.start_s, self._given_until_s)
            end_s = max(word.end_s, start_s)
            self._given_until_s = end_s
            given.append(replace(word, start_s=start_s, end_s=end_s))
        return given
