"""How a token is chosen, and in how many passes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.fields import require_count
from mlx_simul.options.base import option, python_only

if TYPE_CHECKING:
    from mlx_simul.engine.base import LogitsProcessor, Sampler
    from mlx_simul.loop.drafters import Drafter

MAX_BEAMS = 64
"""A pass names candidates after each, and each is fed again until it is decided."""

SAMPLING = (
    *("top_p", "min_p", "min_tokens_to_keep"),
    *("top_k", "xtc_probability", "xtc_threshold"),
)
"""Options that refine sampling, as parameters of mlx-lm's ``make_sampler``."""


@dataclass(frozen=True)
class DecodingOptions:
    """Decoding: how a token is chosen, and in how many passes.

    Attributes:
        temp: the temperature; 0 takes the likeliest token.
        top_p: sample only among the likeliest tokens whose probabilities add up to this.
        min_p: sample only among tokens at least this likely, relative to the likeliest one.
        min_tokens_to_keep: with min_p, sample among at least this many; by default 1.
        top_k: sample only among this many of the likeliest tokens.
        xtc_probability: how often to leave out all tokens above the threshold but the least likely
            of them.
        xtc_threshold: the probability from which xtc_probability counts a token; by default 0.1.
        seed: the seed of the random draws. Each draw depends only on the seed and its place in the
            stream, and MLX's random state stays as it is; by default, draws come from that state.
        repetition_penalty: divides the logits of tokens written recently.
        repetition_context_size: how many tokens back the repetition penalty looks.
        sampler: a sampler of mlx-lm's, as make_sampler makes it, instead of temp and its
            refinements.
        logits_processors: logits processors of mlx-lm's; they see target tokens only.
        early_eos: what to do when the model ends its turn before the source has ended.
        gpe_compat: write token for token what EIT-NLP/StreamingLLM writes (SPEC section 4). It has
            rules of its own for words and the end of a turn, and no ratio limit.
        draft: guess several tokens ahead, to be verified in one pass; the tokens stay the same.
            "ngram" looks them up in the text so far; a smaller model with the same tokenizer
            guesses better.
        num_draft_tokens: the most guesses in one pass.
        num_beams: how many continuations are compared; 1 takes the likeliest token. Between two
            reads the next word is searched for, and once the whole source is read, the rest of the
            target, as transformers' generate() does with early_stopping=False.
        length_penalty: with beams, the power of its length by which the log probability of a
            continuation is divided; above 0 favours long ones.
        logprobs: give each token's log probability in the model's own distribution.
    """

    temp: float = option(0.0, metavar="T")
    top_p: float | None = option(None, metavar="P")
    min_p: float | None = option(None, metavar="P")
    min_tokens_to_keep: int | None = option(None, metavar="N")
    top_k: int | None = option(None, metavar="K")
    xtc_probability: float | None = option(None, metavar="P")
    xtc_threshold: float | None = option(None, metavar="P")
    seed: int | None = option(None, metavar="N")
    repetition_penalty: float | None = option(None, metavar="R")
    repetition_context_size: int = option(20, metavar="N")
    sampler: Sampler | None = python_only()
    logits_processors: Iterable[LogitsProcessor] | None = python_only()
    early_eos: Literal["read", "stop"] = "read"
    gpe_compat: bool = False
    draft: Literal["ngram"] | Drafter | tuple[Any, Any] | None = option(
        None, metavar="ngram|FOLDER", plain=Literal["ngram"] | None
    )
    num_draft_tokens: int = option(4, metavar="N")
    num_beams: int = option(1, metavar="N")
    length_penalty: float = option(1.0, metavar="P")
    logprobs: bool = False

    def __post_init__(self) -> None:
        if self.early_eos not in ("read", "stop"):
            raise InvalidOptionError(f"early_eos must be 'read' or 'stop', got {self.early_eos!r}.")
        for name, low, high in (
            ("temp", 0, 100),
            ("top_p", 0, 1),
            ("min_p", 0, 1),
            ("xtc_probability", 0, 1),
            ("xtc_threshold", 0, 0.5),
            ("repetition_penalty", 0.01, 100),
        ):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and low <= value <= high):
                raise InvalidOptionError(
                    f"{name} must be a number from {low} to {high}, got {value!r}."
                )
        given = [name for name in SAMPLING if getattr(self, name) is not None]
        if given and self.temp == 0:
            raise InvalidOptionError(
                f"without sampling there is nothing that {' or '.join(given)} could change; set "
                "temp above 0 as well."
            )
        for name in ("min_tokens_to_keep", "top_k"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name))
        if self.seed is not None:
            require_count("seed", self.seed, least=0)
            if self.seed >= 2**64:
                raise InvalidOptionError(f"seed must be less than 2**64, got {self.seed}.")
        if self.sampler is not None and self.temp:
            raise InvalidOptionError(f"temp={self.temp} and a sampler: give one of them.")
        require_count("repetition_context_size", self.repetition_context_size)
        require_count("num_draft_tokens", self.num_draft_tokens)
        self._check_beams()
        if self.sampler is not None and not callable(self.sampler):
            raise InvalidOptionError(
                "sampler must be a function, as mlx_lm.sample_utils.make_sampler gives one, got "
                f"{self.sampler!r}."
            )
        if self.logits_processors is not None:
            # An iterator would be used up by the first stream.
            given: Any = self.logits_processors
            processors = tuple(given) if isinstance(given, Iterable) else (None,)
            if not all(map(callable, processors)):
                raise InvalidOptionError(
                    "logits_processors must be functions, as "
                    f"mlx_lm.sample_utils.make_logits_processors gives them, got {given!r}."
                )
            object.__setattr__(self, "logits_processors", processors)

    def _check_beams(self) -> None:
        require_count("num_beams", self.num_beams)
        if self.num_beams > MAX_BEAMS:
            raise InvalidOptionError(
                f"num_beams must be at most {MAX_BEAMS}, got {self.num_beams}."
            )
        penalty = self.length_penalty
        is_number = isinstance(penalty, int | float) and not isinstance(penalty, bool)
        if not is_number or not -10 <= penalty <= 10:
            raise InvalidOptionError(
                f"length_penalty must be a number from -10 to 10, got {penalty!r}."
            )
        if self.num_beams == 1:
            if penalty != 1:
                raise InvalidOptionError(
                    f"length_penalty={penalty} only affects a search; set num_beams above 1 as "
                    "well."
                )
            return
        given = {
            "temp": self.temp,
            "a sampler": self.sampler,
            "gpe_compat": self.gpe_compat,
            "draft": self.draft,
        }
        if refused := [name for name, value in given.items() if value]:
            raise InvalidOptionError(
                f"num_beams={self.num_beams} searches for the likeliest words and does not go with "
                f"{' or '.join(refused)}; leave one of them out."
            )
