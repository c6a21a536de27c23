"""What every mode of streaming shares: which tokens may be fed, and how the next one is drawn.

Shape legend: L new tokens, V vocabulary. A session is one row (B = 1).
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, TypeAlias, TypeVar

import mlx.core as mx

from mlx_simul import archs
from mlx_simul.archs.base import max_positions_of, vocab_size_of
from mlx_simul.archs.prepare import prepared
from mlx_simul.engine.attention import View, recording, watched
from mlx_simul.engine.costs import MAX_SOURCE_TOKENS_PER_PASS
from mlx_simul.engine.dice import dice_of
from mlx_simul.engine.drawing import Drawing, draw_all, likeliest
from mlx_simul.errors import InvalidOptionError, SimulWarning, ValidationError
from mlx_simul.loop.requests import Candidate, Pass, Reply
from mlx_simul.policies.base import Head

Sampler: TypeAlias = Callable[[mx.array], mx.array]
LogitsProcessor: TypeAlias = Callable[[mx.array, mx.array], mx.array]

State = TypeVar("State")


class Engine(ABC):
    """One stream over one model, as tokens.

    Args:
        model: an mlx-lm model.
        sampler: (1, V) log-probabilities to (1,) token ids; greedy by default.
        logits_processors: mlx-lm's, called with the target ids written so far and (1, V) logits.
    """

    def __init__(
        self,
        model: Any,
        sampler: Sampler | None = None,
        logits_processors: Iterable[LogitsProcessor] | None = None,
    ) -> None:
        self.model = model = prepared(model)
        self._vocab_size = vocab_size_of(model)
        self._max_positions = max_positions_of(model)
        self._positions_end = archs.of(model).positions_end
        self._has_warned = False
        self._sampler = sampler
        self._logits_processors = tuple(logits_processors or ())

    @property
    @abstractmethod
    def n_passes(self) -> int:
        """How often the model has run."""

    @property
    @abstractmethod
    def source_tokens(self) -> int:
        """Source tokens read."""

    @property
    @abstractmethod
    def target_tokens(self) -> int:
        """Target tokens fed, the header included."""

    @abstractmethod
    def read(self, token_ids: Sequence[int]) -> None:
        """Feed source tokens, in bounded pieces."""

    @abstractmethod
    def write(self, token_ids: Sequence[int]) -> mx.array:
        """Feed target tokens.

        Returns:
            (1, L, V) logits, row l for the token after ``token_ids[l]``.
        """

    @abstractmethod
    def roll_back(self, n_tokens: int) -> None:
        """Forget the newest target tokens, as if they had never been fed."""

    @property
    @abstractmethod
    def state(self) -> Any:
        """All there is to save of this stream; assigning it restores it."""

    @state.setter
    @abstractmethod
    def state(self, value: Any) -> None: ...

    @property
    def exact_state(self) -> dict[str, Any]:
        """A state, and what it leaves out because other streams that begin with it must lack it.

        Assigning it restores this stream to the last bit.
        """
        return {"state": self.state}

    @exact_state.setter
    def exact_state(self, value: Mapping[str, Any]) -> None:
        self.state = value["state"]

    @property
    def state_kinds(self) -> tuple[type, ...]:
        """The classes of what a state holds, beside arrays and plain values."""
        return ()

    @property
    def read_ahead_tokens(self) -> int:
        """Source tokens that are worth a pass before the target may see them; 0 for none."""
        return 0

    @property
    def takes_drafts(self) -> bool:
        """Whether rolling back costs no pass, so that a draft is worth its row."""
        return True

    def read_and_write(
        self,
        source_ids: Sequence[int],
        target_ids: Sequence[int],
        n_rewind: int = 0,
        n_hidden: int = 0,
    ) -> mx.array:
        """Feed source tokens, and after them target tokens that see them.

        Args:
            source_ids: what to read; possibly nothing.
            target_ids: what to write.
            n_rewind: target tokens to forget before.
            n_hidden: source tokens, the newest, that the target must not see.

        Returns:
            (1, L, V) logits, row l for the token after ``target_ids[l]``.

        Raises:
            InvalidOptionError: if source is to be hidden by an engine that cannot.
        """
        if n_hidden:
            raise InvalidOptionError(
                f"{type(self).__name__} cannot hide {n_hidden} source tokens that are read; its "
                "read_ahead_tokens is 0."
            )
        self._rewind_and_read(n_rewind, source_ids)
        return self.write(target_ids)

    def _rewind_and_read(self, n_rewind: int, source_ids: Sequence[int]) -> None:
        self.roll_back(n_rewind)
        if source_ids:
            self.read(source_ids)

    def run(self, request: Pass) -> Reply:
        """Feed what a pass asks for, and draw what comes after.

        Raises:
            ValidationError: if the logits are not numbers.
        """
        n_before = self.n_passes - request.n_passes
        if not request.target_ids:
            self._rewind_and_read(request.n_rewind, request.source_ids)
            return Reply((), self.n_passes - n_before)
        if request.n_candidates:
            rows = self._search(request)
            n_passes = self.n_passes - n_before
            return Reply((), n_passes, candidates=self.candidates(rows, request))
        drafts = request.draft_ids if self.takes_drafts else ()
        target_ids = (*request.target_ids, *drafts)
        heads = request.wanted.heads if request.wanted else ()
        view = View.of_newest(heads, 1 + len(drafts)) if heads else None
        with recording([view] if view else []) as recorded:
            logits = self.read_and_write(
                request.source_ids, target_ids, request.n_rewind, request.n_hidden
            )
        columns = self.source_columns(request.n_hidden) if view else ()
        logits = logits[0, -1 - len(drafts) :]
        drawing = Drawing(self, request, logits, drafts, view, columns)
        (drawn,) = draw_all([drawing], recorded)
        if isinstance(drawn, Exception):
            raise drawn
        return Reply(drawn.token_ids, self.n_passes - n_before, drawn.evidence)

    def _search(self, request: Pass) -> mx.array:
        """Feed the branches of a tree, each in a pass and as if there were no other.

        Returns:
            (number of branches, V) logits, after each branch.
        """
        source_ids, target_ids, n_rewind = request.source_ids, request.target_ids, request.n_rewind
        rows: list[mx.array] = []
        for leaf in request.leaves:
            branch = request.path(leaf)
            logits = self.read_and_write(
                source_ids, (*target_ids, *branch), n_rewind, request.n_hidden
            )
            rows.append(logits[0, -1])
            self.roll_back(len(branch))
            source_ids, target_ids, n_rewind = (), (), 0
        return mx.stack(rows)

    def candidates(self, logits: mx.array, request: Pass) -> tuple[tuple[Candidate, ...], ...]:
        """The likeliest tokens after each branch, and how likely they are.

        Args:
            logits: (number of branches, V).
            request: what the stream asked for.

        Raises:
            ValidationError: if the logits are not numbers.
        """
        size = logits.shape[-1]
        if ids := [token for token in request.forbidden_ids if token < size]:
            logits[:, ids] = -math.inf
        if self._logits_processors:
            branches = [(*request.written, *request.path(leaf)) for leaf in request.leaves]
            rows = [logits[i : i + 1] for i in range(len(branches))]
            logits = mx.concatenate(
                [self._processed(row, branch) for row, branch in zip(rows, branches, strict=True)]
            )
        logits = logits.astype(mx.float32)
        odds = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        n = min(request.n_candidates, size)
        tokens = mx.argpartition(-odds, kth=n - 1, axis=-1)[:, :n]
        given: list[Any] = [tokens.tolist(), mx.take_along_axis(odds, tokens, axis=-1).tolist()]
        pairs = [list(zip(*each, strict=True)) for each in zip(*given, strict=True)]
        _refuse_unless_finite([max(odds for _, odds in row) for row in pairs])
        return tuple(
            tuple(sorted((pair for pair in row if pair[1] > -math.inf), key=lambda pair: -pair[1]))
            for row in pairs
        )

    def watch(self, heads: Iterable[Head]) -> None:
        """Let passes ask for the attention of these heads.

        Raises:
            InvalidOptionError: if it cannot be had, of this model or in this mode.
        """
        self.source_columns(0)
        self._watch(tuple(heads))

    def _watch(self, heads: tuple[Head, ...]) -> None:
        """Run the passes to come on a copy of the model that shows these heads."""
        self.model = watched(self.model, heads)

    def source_columns(self, n_hidden: int) -> Sequence[int]:
        """Where the source tokens lie in what the target attends to, in order of arrival.

        Args:
            n_hidden: source tokens, the newest, that the target does not see.

        Raises:
            InvalidOptionError: if this mode does not keep them apart.
        """
        raise InvalidOptionError(
            f"{type(self).__name__} cannot tell on which source token attention falls; take "
            "mode='group' or 'reencode', or a policy that needs no attention."
        )

    def predict(self, token_ids: Sequence[int], written: Sequence[int]) -> int:
        """Feed target tokens and draw the next.

        Args:
            token_ids: what to feed.
            written: the target ids so far, header excluded, for logits processors.

        Raises:
            ValidationError: if the logits are not numbers.
        """
        return self.run(Pass((), tuple(token_ids), written=written)).token_ids[0]

    @property
    def is_greedy(self) -> bool:
        """Whether the next token is simply the likeliest, without a sampler or processors."""
        return self._sampler is None and not self._logits_processors

    def draw(
        self,
        logits: mx.array,
        written: Sequence[int],
        drafts: Sequence[int],
        seed: int | None = None,
    ) -> list[int]:
        """What comes after the target, and as long as that is the draft, what comes after it.

        Drafts are rolled back but for those that agree.

        Args:
            logits: (1 + number of drafts, V).
            written: the target ids before the first row.
            drafts: what the rows but the first were fed.
            seed: of a sampler's random numbers; MLX's random state without one.

        Raises:
            ValidationError: if the logits are not numbers.
        """
        if self.is_greedy:
            return self.agree(likeliest(logits), drafts)
        drawn = self._draw(logits, written, drafts, seed)
        self.roll_back(len(drafts) - (len(drawn) - 1))
        return drawn

    def agree(self, found: Sequence[tuple[float, int]], drafts: Sequence[int]) -> list[int]:
        """As :meth:`draw`, from what :func:`likeliest` found in each row."""
        _refuse_unless_finite([peak for peak, _ in found])
        tokens = [token for _, token in found]
        agreed = takewhile(lambda pair: pair[0] == pair[1], zip(tokens, drafts, strict=False))
        n_agreed = len(list(agreed))
        self.roll_back(len(drafts) - n_agreed)
        return tokens[: n_agreed + 1]

    def _draw(
        self, logits: mx.array, written: Sequence[int], drafts: Sequence[int], seed: int | None
    ) -> list[int]:
        """Each is drawn from its own row whatever the draft was, so a sampler's distribution is
        that of a stream without drafts.
        """
        drawn: list[int] = []
        for i in range(1 + len(drafts)):
            with dice_of(seed, len(written) + i):
                drawn.append(self._draw_one(logits[i : i + 1], written, drawn))
            if drawn[-1:] != list(drafts[i : i + 1]):
                break
        return drawn

    def _draw_one(self, logits: mx.array, written: Sequence[int], drawn: Sequence[int]) -> int:
        logits = self._processed(logits, (*written, *drawn))
        if self._sampler is None:
            total, token = mx.max(logits, axis=-1), mx.argmax(logits, axis=-1)
        else:
            total = mx.logsumexp(logits, axis=-1, keepdims=True)
            token = self._sampler(logits - total)
        mx.eval(token, total)
        _refuse_unless_finite(total.flatten().tolist())  # pyright: ignore
        return int(token.item())  # pyright: ignore[reportArgumentType]

    def _processed(self, logits: mx.array, written: Sequence[int]) -> mx.array:
        """(1, V) logits as the processors leave them."""
        if self._logits_processors:
            tokens = mx.array(list(written), mx.int32)
            for process in self._logits_processors:
                logits = process(tokens, logits)
        return logits

    def _check(self, token_ids: Sequence[int], first_position: int) -> None:
        """Refuse what the model has no embedding for; warn beyond its trained length."""
        if self._vocab_size is not None and max(token_ids, default=0) >= self._vocab_size:
            # MLX would read whatever lies behind the embeddings.
            raise InvalidOptionError(
                f"token id {max(token_ids)} is beyond the model's {self._vocab_size} embeddings; "
                "the tokenizer, or the TokenizedSource, belongs to another model."
            )
        n_positions = first_position + len(token_ids)
        if self._has_warned or self._max_positions is None or n_positions <= self._max_positions:
            return
        if self._positions_end:
            raise InvalidOptionError(
                f"position {n_positions} is beyond the {self._max_positions} that this model has "
                "embeddings for; begin a new session, or let target_start be smaller."
            )
        self._has_warned = True
        warnings.warn(
            f"this session has reached position {n_positions}, beyond the "
            f"{self._max_positions} the model was trained on (max_position_embeddings); it "
            "goes on, but quality may fall.",
            SimulWarning,
            stacklevel=2,
        )


def state_of(value: Any, kind: type[State]) -> State:
    """A saved state, if it is of this kind.

    Raises:
        InvalidOptionError: if it is not.
    """
    if not isinstance(value, kind):
        raise InvalidOptionError(
            f"a {kind.__name__} is needed to restore this stream, got a {type(value).__name__}; it "
            "was saved in another mode."
        )
    return value


def _refuse_unless_finite(values: Iterable[float]) -> None:
    if not all(map(math.isfinite, values)):
        raise ValidationError(
            "no token can be drawn: the logits are not finite. The weights are damaged "
            "(mlx-simul validate names the tensor), or overflow in half precision (mlx-simul "
            "convert --dtype float32 rules that out), or a logits processor forbids all tokens."
        )


def pieces(token_ids: Sequence[int]) -> Iterable[Sequence[int]]:
    """Source tokens in pieces of bounded size."""
    size = MAX_SOURCE_TOKENS_PER_PASS
    return (token_ids[i : i + size] for i in range(0, len(token_ids), size))
