"""The names of all options, for type checkers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date as Date
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from mlx_simul.options.limits import Stops, StopUnit
from mlx_simul.options.placement import Mode
from mlx_simul.options.prompt import Frame, Pairs, Tools
from mlx_simul.options.turn import Turns

if TYPE_CHECKING:
    from mlx_simul.cache.positions import TargetStart
    from mlx_simul.engine.base import LogitsProcessor, Sampler
    from mlx_simul.loop.drafters import Drafter
    from mlx_simul.policies import Policy


class OptionKeywords(TypedDict, total=False):
    """The flat names of all options, for type checkers; a test holds them to the fields."""

    policy: Policy | str
    source_language: str | None
    target_language: str | None
    instruction: str | None
    context: str | None
    glossary: Mapping[str, str] | None
    frame: Frame
    examples: Pairs | None
    pairs: Pairs
    messages: Sequence[Mapping[str, str]] | None
    date: Date | str | None
    tools: Tools
    turns: Turns | None
    history: int
    max_turn_words: int
    splitter: Callable[[str], Sequence[str]] | None
    split: Callable[[str], Sequence[str]] | None
    max_words: int | None
    max_tokens: int
    max_tokens_per_word: int
    max_target_source_ratio: float | Literal["auto"] | None
    stop: Stops | None
    stop_after: StopUnit | None
    temp: float
    top_p: float | None
    min_p: float | None
    min_tokens_to_keep: int | None
    top_k: int | None
    xtc_probability: float | None
    xtc_threshold: float | None
    seed: int | None
    repetition_penalty: float | None
    repetition_context_size: int
    sampler: Sampler | None
    logits_processors: Iterable[LogitsProcessor] | None
    early_eos: Literal["read", "stop"]
    gpe_compat: bool
    draft: Literal["ngram"] | Drafter | tuple[Any, Any] | None
    num_draft_tokens: int
    num_beams: int
    length_penalty: float
    logprobs: bool
    mode: Mode
    target_start: int | str | TargetStart
    kv_bits: int | None
    kv_group_size: int
