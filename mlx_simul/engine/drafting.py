"""Drafts by a smaller model, which streams beside the one that has to agree.

Shape legend: V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import mlx.core as mx

from mlx_simul import archs
from mlx_simul.archs.base import vocab_size_of
from mlx_simul.archs.prepare import adopt
from mlx_simul.engine import make_engine
from mlx_simul.engine.base import Engine, Sampler
from mlx_simul.engine.dice import dice_of, random_state
from mlx_simul.errors import InvalidOptionError, SimulWarning
from mlx_simul.loop.drafters import Drafter, NGramDrafter
from mlx_simul.loop.requests import Pass


class ModelDrafter:
    """Guesses what a smaller model would write at this place of this stream.

    It reads the same source in the same passes, so it sees what the verifying model sees.
    Under a sampler it throws the same dice: each guess is drawn with the random numbers of the draw
    that will verify it. That draw stays what it is, so its distribution is the sampler's, whatever
    that does; but like distributions draw like tokens from like dice, at least (1 - d) / (1 + d) of
    the time for a total variation d (Daliri et al. 2024, "Coupling without Communication").

    Where it cannot follow any further, as beyond its last learned position, it warns and guesses no
    more; the stream goes on.

    Args:
        engine: of the smaller model, fresh; it does not draw.
        sampler: the stream's; greedy by default.
        vocab_size: embeddings of the model that verifies, if that is known.
    """

    def __init__(
        self, engine: Engine, sampler: Sampler | None = None, vocab_size: int | None = None
    ) -> None:
        self._engine = engine
        self._sampler = sampler
        self._vocab_size = vocab_size
        self._header: tuple[int, ...] = ()
        # Target tokens fed, and how many of them are known to stay.
        self._fed: list[int] = []
        self._n_sure = 0
        self._row: mx.array | None = None
        self._unfed: int | None = None
        # For the next guess: the seed and place where there is a seed, else MLX's random state.
        self._seed: int | None = None
        self._place = 0
        self._dice = 0
        self._is_over = False

    def follow(self, request: Pass) -> None:
        """Feed what the pass is about to feed, but for what is fed already."""
        self._row = self._unfed = None
        if not self._is_over:
            with self._as_far_as_it_goes():
                self._follow(request)

    def _follow(self, request: Pass) -> None:
        self._header = self._header or request.target_ids
        # Without target tokens the newest written is still to come, behind what is read.
        n_before = len(self._header) + len(request.written) - max(len(request.target_ids), 1)
        # What was sure while it was proposed may be taken back.
        self._n_sure = max(0, min(self._n_sure, n_before))
        while self._n_sure < min(n_before, len(self._fed)):
            if self._fed[self._n_sure] != self._id(self._n_sure, request):
                break
            self._n_sure += 1
        n_rewind = len(self._fed) - self._n_sure
        del self._fed[self._n_sure :]
        if not request.target_ids:
            self._engine.run(Pass(request.source_ids, n_rewind=n_rewind))
            return
        missing = [self._id(i, request) for i in range(self._n_sure, n_before)]
        feed = (*missing, *request.target_ids, *request.draft_ids)
        logits = self._engine.read_and_write(request.source_ids, feed, n_rewind, request.n_hidden)
        self._fed += feed
        rows = logits[0, -1 - len(request.draft_ids) :]
        self._seed, self._place = request.seed, len(request.written) + len(request.draft_ids)
        if self._sampler is not None and self._seed is None:
            self._dice = random_state()
            for i in range(len(request.draft_ids)):
                # This token is guessed already, but its draw still uses up random numbers.
                self._draw(rows[i : i + 1])
        self._row = rows[-1:]

    def guess(self) -> int | None:
        """What the smaller model writes next."""
        if self._unfed is not None:
            with self._as_far_as_it_goes():
                self._row = self._engine.write([self._unfed])[0, -1:]
                self._fed.append(self._unfed)
        if self._row is None:
            return None
        self._unfed = self._draw(self._row)
        return self._unfed

    @contextmanager
    def _as_far_as_it_goes(self) -> Iterator[None]:
        try:
            yield
        except InvalidOptionError as error:
            self._row, self._is_over = None, True
            warnings.warn(
                f"the draft model has stopped guessing: {error}", SimulWarning, stacklevel=2
            )

    def _id(self, i: int, request: Pass) -> int:
        """Token i of the target, header included."""
        n_header = len(self._header)
        return self._header[i] if i < n_header else request.written[i - n_header]

    def _draw(self, row: mx.array) -> int:
        """Draw from (1, V) logits, and leave MLX's random state as it was."""
        row = _fitted(row, self._vocab_size)
        if self._sampler is None:
            return int(mx.argmax(row, axis=-1).item())  # pyright: ignore[reportArgumentType]
        logprobs = row - mx.logsumexp(row, axis=-1, keepdims=True)
        if self._seed is not None:
            with dice_of(self._seed, self._place):
                token = self._sampler(logprobs)
            self._place += 1
            return int(token.item())  # pyright: ignore[reportArgumentType]
        before = random_state()
        mx.random.seed(self._dice)
        try:
            token = self._sampler(logprobs)
            self._dice = random_state()
            return int(token.item())  # pyright: ignore[reportArgumentType]
        finally:
            mx.random.seed(before)


def make_drafter(
    engine: Engine,
    tokenizer: Any,
    draft: Drafter | Literal["ngram"] | tuple[Any, Any] | None,
    *,
    sampler: Sampler | None = None,
) -> Drafter | None:
    """The drafter of one turn, as the options say.

    Args:
        engine: of the stream, which verifies.
        tokenizer: of its model.
        draft: ``"ngram"``, a smaller model and its tokenizer, a drafter, or None.
        sampler: the stream's.

    Raises:
        InvalidOptionError: if it is none of these, or the tokenizers differ, or rolling the model
            back would cost a pass, or the smaller one has no mode ``"group"``.
        UnknownArchitectureError: if the smaller model's type is not registered.
    """
    if draft is None:
        return None
    if not engine.takes_drafts:
        raise InvalidOptionError(
            f"the model is a {archs.of(engine.model).model_type!r}, whose state cannot be rolled "
            "back without a pass: drafts would cost more than they save. Leave draft out, or take "
            "a model with plain attention."
        )
    if draft == "ngram":
        return NGramDrafter()
    if isinstance(draft, Drafter) and not isinstance(draft, type):
        return draft
    if not isinstance(draft, tuple) or len(draft) != 2:
        raise InvalidOptionError(
            "draft must be 'ngram', a smaller model and its tokenizer as mlx_simul.load gives "
            f"them, or an object with follow and guess, got {draft!r}."
        )
    smaller, its_tokenizer = draft
    _require_same(its_tokenizer, tokenizer)
    smaller = adopt(smaller, its_tokenizer)
    architecture = archs.of(smaller)
    if "group" not in architecture.modes:
        raise InvalidOptionError(
            f"the draft model is a {architecture.model_type!r}, which cannot keep source and "
            "target apart (mode 'group'), as a model that guesses must. Take one with plain "
            "attention, or draft='ngram'."
        )
    return ModelDrafter(make_engine(smaller, mode="group"), sampler, vocab_size_of(engine.model))


def _require_same(given: Any, wanted: Any) -> None:
    """Refuse a tokenizer to which ids mean something else."""
    if given is wanted:
        return
    given, wanted = given.get_vocab(), wanted.get_vocab()
    if given == wanted:
        return
    differing = [piece for piece, token in wanted.items() if given.get(piece) != token]
    example = differing[0] if differing else next(piece for piece in given if piece not in wanted)
    raise InvalidOptionError(
        f"the draft model's tokenizer differs from the model's: of {len(given)} and {len(wanted)} "
        f"pieces, {example!r} is token {given.get(example)} there and {wanted.get(example)} here. "
        "Take a smaller model of the same family."
    )


def _fitted(row: mx.array, vocab_size: int | None) -> mx.array:
    """A row cut or padded to the other model's vocabulary: both may be padded differently."""
    if vocab_size is None or row.shape[-1] == vocab_size:
        return row
    missing = vocab_size - row.shape[-1]
    if missing < 0:
        return row[:, :vocab_size]
    return mx.pad(row, [(0, 0), (0, missing)], constant_values=-float("inf"))
