"""Pairs of texts as segments of token ids: what a session would read and write (SPEC 2, 3, 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date as Date
from functools import lru_cache, partial
from itertools import chain
from typing import Any

from mlx_simul.cache.masks import visible_source_tokens
from mlx_simul.evaluation.pairs import Pair
from mlx_simul.text.boundary import WordBoundaryStoppingCriteria
from mlx_simul.text.encoding import PieceEncoder
from mlx_simul.text.prompts import StreamingDataPreparator
from mlx_simul.training.options import LayoutOptions

_MAX_CACHED_WORDS = 1 << 17


@dataclass(frozen=True)
class Example:
    """One passage as segments of token ids.

    Attributes:
        source: prefix, words, suffix.
        target: header, words, closing end-of-turn.
    """

    source: tuple[tuple[int, ...], ...]
    target: tuple[tuple[int, ...], ...]

    @property
    def source_ids(self) -> list[int]:
        """All source tokens."""
        return list(chain.from_iterable(self.source))

    @property
    def target_ids(self) -> list[int]:
        """All target tokens, the closing end-of-turn included."""
        return list(chain.from_iterable(self.target))

    def visible(self, wait_k: int | None, gpe_compat: bool = False) -> list[int]:
        """Source tokens that each target row sees under wait-k.

        As a session writes: the rows of the header see k words, and the last token of a word what
        the word after it may see, since it is written again after the read (SPEC sections 1 and 3).

        Args:
            wait_k: words to stay behind; ``None`` for the whole source.
            gpe_compat: as in the reference, rows inside the header see one word less (SPEC 5).
        """
        n_segments = len(self.source)
        k = n_segments if wait_k is None else wait_k
        waits = [min(k + j, n_segments) for j in range(len(self.target))]
        if not gpe_compat:
            waits[0] = waits[1]
        return visible_source_tokens(
            [len(segment) for segment in self.source],
            [len(segment) for segment in self.target],
            waits,
        )


class StreamingLayout:
    """Turns pairs into examples with the code that a session runs on.

    Args:
        tokenizer: a Hugging Face tokenizer or mlx-lm's wrapper around one.
        options: prompt and word rule.

    Raises:
        PromptError: if the tokenizer's template cannot carry the source.
    """

    def __init__(self, tokenizer: Any, options: LayoutOptions) -> None:
        self._prompt = prompt = StreamingDataPreparator(
            tokenizer,
            instruction=options.instruction,
            source_language=options.source_language,
            target_language=options.target_language,
            frame=options.frame,
            date=None if options.date is None else Date.fromisoformat(options.date),
        )
        self._encode_word = lru_cache(_MAX_CACHED_WORDS)(
            partial(prompt.encode_word, is_first=False)
        )
        self._encoder = PieceEncoder(tokenizer)
        self._boundary = WordBoundaryStoppingCriteria(
            tokenizer, options.max_tokens_per_word, prompt.end_of_turn_ids
        )
        self._end_of_turn = prompt.closing_id
        # After "French:" a translation begins with a space.
        self._lead = " " if prompt.header_text.endswith(":") else ""

    def example(self, pairs: Sequence[Pair], history: Sequence[Pair] = ()) -> Example:
        """Lay out pairs, one after the other in one passage.

        Args:
            pairs: the passage.
            history: finished pairs, which stand in the prefix as earlier turns (SPEC section 8).
        """
        prompt = self._prompt.behind([(pair.source, pair.target) for pair in history])
        segmenter = prompt.segmenter()
        words = segmenter.feed(" ".join(pair.source for pair in pairs)) + segmenter.finish()
        # How the first word is encoded depends on what stands before it.
        first = [prompt.encode_word(word, is_first=True) for word in words[:1]]
        source = [*first, *map(self._encode_word, words[1:])]
        target = self._encoder.literal(
            self._lead + " ".join(pair.target for pair in pairs), prompt.header_text
        )
        return Example(
            tuple(map(tuple, (prompt.prefix_ids, *source, prompt.suffix_ids))),
            (prompt.header_ids, *self.target_words(target), (self._end_of_turn,)),
        )

    def target_words(self, token_ids: Sequence[int]) -> list[tuple[int, ...]]:
        """Cut a target into words where a session that wrote it would have (SPEC section 2)."""
        words: list[tuple[int, ...]] = []
        word: list[int] = []
        for token in token_ids:
            should_stop, remove_last = self._boundary((*word, token))
            if should_stop and remove_last and word:
                words.append(tuple(word))
                word.clear()
                # The session predicts the token again, as the first of its word.
                should_stop, _ = self._boundary((token,))
            word.append(token)
            if should_stop:
                words.append(tuple(word))
                word.clear()
        if word:
            words.append(tuple(word))
        return words
