"""One turn of a stream: the loop, the prompt and the policy that its options ask for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date as Date
from itertools import accumulate
from typing import Any

import mlx.nn as nn

from mlx_simul import archs
from mlx_simul.archs.base import vocab_size_of
from mlx_simul.archs.streaming_config import StreamingConfig
from mlx_simul.archs.trained import told
from mlx_simul.engine import Engine
from mlx_simul.engine.base import LogitsProcessor, Sampler
from mlx_simul.engine.dice import seed_of
from mlx_simul.engine.drafting import make_drafter
from mlx_simul.engine.needs import MetNeeds, meet_needs
from mlx_simul.errors import InvalidOptionError, SimulWarning
from mlx_simul.loop.beam_search import Beams
from mlx_simul.loop.drafters import Drafter
from mlx_simul.loop.limits import Limits
from mlx_simul.loop.loop import SimulLoop
from mlx_simul.loop.reference import ReferenceLoop
from mlx_simul.loop.target import Detokenizer
from mlx_simul.options import (
    DEFAULT_MAX_RATIO,
    SAMPLING,
    DecodingOptions,
    LimitOptions,
    Pairs,
    SessionOptions,
    TurnOptions,
)
from mlx_simul.policies import Policy, as_policy
from mlx_simul.stream.live_turn import Clock
from mlx_simul.text import frames
from mlx_simul.text.boundary import WordBoundaryStoppingCriteria
from mlx_simul.text.detokenizer import StableDetokenizer
from mlx_simul.text.prompts import StreamingDataPreparator, TokenizedSource
from mlx_simul.text.stops import StopWatch
from mlx_simul.text.tools import CallDetokenizer
from mlx_simul.text.vocabulary import end_of_turn_ids_of


@dataclass(frozen=True)
class Setting:
    """What the turns of a stream have in common until its options change.

    Attributes:
        options: all of the session's.
        policy: when to read and when to write.
        prompt: around each source; None where the tokens of the source are known.
        prefix_ids: what stands before each source, history aside.
        header: the start of each target.
        end_of_turn_ids: tokens that end a target.
        source_language: by name, if it is known.
        target_language: likewise; the task is translation if it is.
        most_pairs: how many finished pairs may stand before a source; None for any number.

    Raises:
        InvalidOptionError: for options that would be ignored in a stream without turns, or that a
            stream with turns cannot have.
    """

    options: SessionOptions
    policy: Policy
    prompt: StreamingDataPreparator | None
    prefix_ids: tuple[int, ...]
    header: tuple[int, ...]
    end_of_turn_ids: frozenset[int]
    source_language: str | None = None
    target_language: str | None = None
    most_pairs: int | None = None

    def __post_init__(self) -> None:
        turn, usual, draft = self.options.turn, TurnOptions(), self.options.decoding.draft
        if self.has_turns:
            if isinstance(draft, Drafter):
                raise InvalidOptionError(
                    f"draft={draft!r} would remember every turn of a stream; give draft='ngram' or "
                    "a draft model, which begin anew with each turn, or turns=None."
                )
            return
        names = ("history", "max_turn_words", "splitter")
        if given := [name for name in names if getattr(turn, name) != getattr(usual, name)]:
            raise InvalidOptionError(
                f"{' and '.join(given)}: only a stream with turns has that, and this one reads its "
                f'source as one turn; leave that out, or give turns="sentence".'
            )

    @property
    def has_turns(self) -> bool:
        """Whether each sentence of the source is a turn."""
        turns = self.options.turn.turns
        if turns == "auto":
            tools = self.options.prompt.tools
            may = self.prompt is not None and not self.options.decoding.gpe_compat and not tools
            return may and self.target_language is not None
        return turns is not None

    def prompt_behind(self, history: Pairs) -> StreamingDataPreparator:
        """The prompt with the pairs of the options and of the stream before its source.

        Raises:
            InvalidOptionError: if there is none, since the tokens of the source are known.
        """
        if self.prompt is None:
            raise InvalidOptionError("a source whose tokens are known has its own prompt.")
        n_kept, given = self.options.turn.history, tuple(self.options.prompt.pairs)
        # Without a history the pairs that were given stand before every turn.
        pairs = (*given, *history)[-n_kept:] if n_kept else given
        if self.most_pairs is not None:
            pairs = pairs[max(0, len(pairs) - self.most_pairs) :]
        return self.prompt.behind(_that_fit(pairs) if history else pairs)


def _that_fit(pairs: Pairs) -> Pairs:
    """The newest pairs, as many as a prompt may hold: a long history must not end a stream."""
    sizes = accumulate(len(source) + len(target) for source, target in reversed(pairs))
    n_fitting = sum(size <= frames.MAX_PROMPT_CHARS for size in sizes)
    if n_fitting < len(pairs):
        warnings.warn(
            f"{n_fitting} of {len(pairs)} pairs stand before this turn: a prompt holds at most "
            f"{frames.MAX_PROMPT_CHARS} characters of them. A smaller history= avoids this.",
            SimulWarning,
            stacklevel=2,
        )
    return pairs[len(pairs) - n_fitting :]


def make_setting(
    model: nn.Module,
    tokenizer: Any,
    options: SessionOptions,
    source: TokenizedSource | None = None,
    date: Date | None = None,
) -> Setting:
    """What some options ask for, of a model and its tokenizer.

    Args:
        model: that streams.
        tokenizer: of the model.
        options: of the session.
        source: one whose tokens are known; then there is no prompt.
        date: what a template takes for today, unless the options say.

    Raises:
        InvalidOptionError: for options that the checkpoint was not trained for.
        PromptError: if the tokenizer's template cannot carry the source.
    """
    policy = as_policy(options.policy)
    _require_plain_words(options, policy)
    if options.turn.turns == "sentence" and (source is not None or options.decoding.gpe_compat):
        what = "gpe_compat" if source is None else "a source whose tokens are known"
        raise InvalidOptionError(f'turns="sentence" does not go with {what}; leave turns out.')
    if source is not None:
        ends = end_of_turn_ids_of(tokenizer)
        return Setting(options, policy, None, source.segments[0], source.header, ends)
    trained = archs.streaming_config(model)
    asked = told(trained, options.prompt)
    most_pairs = _most_pairs(trained, options)
    prompt = StreamingDataPreparator(
        tokenizer,
        instruction=asked.instruction,
        source_language=asked.source_language,
        target_language=asked.target_language,
        context=asked.context,
        glossary=asked.glossary,
        frame=(trained.frame or "auto") if asked.frame == "auto" else asked.frame,
        examples=asked.examples,
        split=options.turn.split,
        date=asked.date if isinstance(asked.date, Date) else date,
        tools=asked.tools,
    )
    ends = prompt.end_of_turn_ids
    if not options.decoding.gpe_compat:
        ends |= prompt.control_ids
    source_language, target_language = trained.translates or (
        asked.source_language,
        asked.target_language,
    )
    return Setting(
        options,
        policy,
        prompt,
        prompt.prefix_ids,
        prompt.header_ids,
        ends,
        source_language,
        target_language,
        most_pairs,
    )


def _most_pairs(trained: StreamingConfig, options: SessionOptions) -> int | None:
    """How many pairs a model that only translates may be shown, with a warning if it matters.

    Such a model mistakes what it never saw before a source for a part of the source.
    """
    if trained.translates is None:
        return None
    n_pairs = max(options.turn.history, len(options.prompt.pairs))
    n_known = trained.history_pairs or 0
    if n_pairs > n_known:
        warnings.warn(
            f"this model may be shown {n_known or 'no'} finished pairs before a turn, and more "
            f"would make it translate worse: {n_pairs - n_known} of {n_pairs} are left out. Set "
            f"history to at most {n_known}, and give no more pairs.",
            SimulWarning,
            stacklevel=2,
        )
    return n_known


class TurnMaker:
    """Begins the turns of a stream, one after another, on one engine.

    Args:
        model: that streams.
        tokenizer: of the model.
        setting: what all turns have in common at first.
        make_engine: makes what runs the passes, of the options that concern it.
        clock: of the stream.

    Raises:
        InvalidOptionError: for an option that the model or its architecture does not take.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        setting: Setting,
        make_engine: Callable[..., Engine],
        clock: Clock,
    ) -> None:
        decoding, placement = setting.options.decoding, setting.options.placement
        self._tokenizer, self.clock = tokenizer, clock
        self._sampler = _sampler_of(decoding, model, tokenizer)
        self.engine = make_engine(
            model,
            mode=placement.mode,
            target_start=placement.target_start,
            kv_bits=placement.kv_bits,
            kv_group_size=placement.kv_group_size,
            gpe_compat=decoding.gpe_compat,
            sampler=self._sampler,
            logits_processors=_logits_processors_of(decoding),
        )
        self.adopt(setting)
        # What does not fit the model is refused now, and not with the first turn.
        self.begin()

    def adopt(self, setting: Setting) -> None:
        """Begin turns under another setting from now on.

        Raises:
            InvalidOptionError: if its policy needs what the model cannot show.
        """
        self._needs: MetNeeds = self.meet(setting)
        self.setting = setting

    def meet(self, setting: Setting) -> MetNeeds:
        """What the policy of a setting needs; the turn under way goes on as it is.

        Raises:
            InvalidOptionError: if the model cannot show it, or a beam search does not.
        """
        num_beams = setting.options.decoding.num_beams
        if num_beams > 1 and setting.policy.needs.attention:
            raise InvalidOptionError(
                f"{setting.policy!r} goes by attention, which num_beams={num_beams} does not show: "
                "leave num_beams out, or take a policy that goes by counts, probabilities or "
                "agreement."
            )
        return meet_needs(setting.policy, self.engine, self._tokenizer)

    def begin(self, max_words: int | None = None, turn: int = 0) -> SimulLoop:
        """The loop of a fresh turn.

        Args:
            max_words: what the stream's limit leaves for this turn.
            turn: its number, from 0.
        """
        setting = self.setting
        options, decoding = setting.options, setting.options.decoding
        ends = setting.end_of_turn_ids | {*self._needs.wait_ids}
        max_tokens_per_word = options.limits.max_tokens_per_word
        ratio = options.limits.max_target_source_ratio
        if ratio == "auto":
            ratio = None if decoding.gpe_compat else DEFAULT_MAX_RATIO
        limits = Limits(max_words, options.limits.max_tokens, ratio)
        parts = (
            setting.policy,
            setting.header,
            WordBoundaryStoppingCriteria(self._tokenizer, max_tokens_per_word, ends),
            ends,
            self._detokenizer(),
            limits,
        )
        settings: dict[str, Any] = {
            "clock_ms": self.clock,
            "read_ahead_tokens": self.engine.read_ahead_tokens,
            "num_draft_tokens": decoding.num_draft_tokens,
            "logprobs": decoding.logprobs,
            "seed": None if decoding.seed is None else seed_of(decoding.seed, turn),
            "watch": _watch_of(options.limits, setting.target_language),
            "drafter": make_drafter(
                self.engine, self._tokenizer, decoding.draft, sampler=self._sampler
            ),
        }
        if decoding.gpe_compat:
            return ReferenceLoop(*parts, tokenizer=self._tokenizer, **settings)
        return SimulLoop(
            *parts,
            stop_early=decoding.early_eos == "stop",
            heads=self._needs.heads,
            wait_ids=self._needs.wait_ids,
            forbidden_ids=() if setting.prompt is None else setting.prompt.forbidden_ids,
            beams=_beams_of(decoding),
            **settings,
        )

    def _detokenizer(self) -> Detokenizer:
        prompt = self.setting.prompt
        plain = StableDetokenizer(self._tokenizer)
        if prompt is None or prompt.tool_format is None:
            return plain
        return CallDetokenizer(plain, prompt.tool_format)


def _require_plain_words(options: SessionOptions, policy: Policy) -> None:
    """Check that a target that may hold tool calls can be written as the options say.

    Raises:
        InvalidOptionError: if it cannot.
    """
    if not options.prompt.tools:
        return
    refused = {
        'turns="sentence"': options.turn.turns == "sentence",
        "gpe_compat": options.decoding.gpe_compat,
        "stops of token ids": any(not isinstance(stop, str) for stop in options.limits.stop or ()),
        "beams": options.decoding.num_beams > 1,
        f"{policy!r}, which judges words": policy.needs.lookahead_words != 0,
    }
    if given := [name for name, is_given in refused.items() if is_given]:
        raise InvalidOptionError(
            f"tools do not go with {' or '.join(given)}: a call is written whole, in a stream of "
            'one turn. Leave that out, or tools; policies that count words, such as "wait-k:3", '
            "do not judge."
        )


def _watch_of(limits: LimitOptions, language: str | None) -> StopWatch | None:
    if limits.stop is None and limits.stop_after is None:
        return None
    stops: Any = limits.stop or ()  # the options have put them in this form
    return StopWatch(stops, limits.stop_after, language)


def _beams_of(decoding: DecodingOptions) -> Beams | None:
    if decoding.num_beams == 1:
        return None  # the likeliest token, without a search
    return Beams(decoding.num_beams, decoding.length_penalty)


def _sampler_of(decoding: DecodingOptions, model: nn.Module, tokenizer: Any) -> Sampler | None:
    """The sampler that the options name; mlx-lm's, with its defaults, if that is by numbers.

    Raises:
        InvalidOptionError: if it is to choose among more tokens than there are.
    """
    if decoding.sampler is not None or not decoding.temp:
        return decoding.sampler
    from mlx_lm.sample_utils import make_sampler

    n_tokens = vocab_size_of(model)
    if n_tokens is not None and (decoding.top_k or 0) >= n_tokens:
        raise InvalidOptionError(
            f"top_k must be less than the {n_tokens} tokens of the model, got {decoding.top_k}; "
            "None takes them all."
        )
    given = {name: getattr(decoding, name) for name in SAMPLING}
    if decoding.xtc_probability:
        # As in mlx-lm's commands: a line or a turn may always end.
        ends = {*tokenizer.encode("\n", add_special_tokens=False), *end_of_turn_ids_of(tokenizer)}
        given["xtc_special_tokens"] = sorted(ends)
    return make_sampler(
        decoding.temp, **{name: value for name, value in given.items() if value is not None}
    )


def _logits_processors_of(decoding: DecodingOptions) -> Iterable[LogitsProcessor]:
    given = tuple(decoding.logits_processors or ())
    if decoding.repetition_penalty is None:
        return given
    from mlx_lm.sample_utils import make_logits_processors

    penalty, context = decoding.repetition_penalty, decoding.repetition_context_size
    made = make_logits_processors(repetition_penalty=penalty, repetition_context_size=context)
    return (*made, *given)
