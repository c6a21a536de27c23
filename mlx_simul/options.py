"""The options of a session, each defined once, here; ``OptionKeywords`` repeats their names.

The library takes them whole (:class:`SessionOptions`) or flat, as keywords. The command line, TOML
and JSON derive from the fields, and help from the docstrings (:mod:`mlx_simul.machine.fields`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date as Date
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, get_args

from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine.fields import plain_fields, require_count, value_of

if TYPE_CHECKING:
    from mlx_simul.cache.positions import TargetStart
    from mlx_simul.engine.base import LogitsProcessor, Sampler
    from mlx_simul.loop.drafters import Drafter
    from mlx_simul.policies import Policy

Frame: TypeAlias = Literal["auto", "chat", "few-shot"]
Turns: TypeAlias = Literal["auto", "sentence"]
Mode: TypeAlias = Literal["auto", "group", "reencode", "interleaved"]
Pairs: TypeAlias = Sequence[tuple[str, str]]
Tools: TypeAlias = Sequence[Mapping[str, Any]]
Stop: TypeAlias = str | tuple[int, ...]
Stops: TypeAlias = str | Sequence[str | int | Sequence[int]]
StopUnit: TypeAlias = Literal["sentence", "code_block", "json"]

DEFAULT_MAX_RATIO = 3.0
"""Small models ramble, and no pair of languages needs three words for one in more than a phrase."""

DEFAULT_MAX_TURN_WORDS = 40
"""Everyday sentences are shorter, and the packaged model was trained on sources of 64 tokens."""

MAX_BEAMS = 64
"""A pass names candidates behind each, and each is fed again until it is decided."""

NOT_OPTIONS = {
    "max_kv_size": "a cache of fixed size would forget source that is still to be translated; "
    "a stream with turns (turns='sentence') holds one sentence at a time, and kv_bits stores each "
    "token in less memory",
    "prefill_step_size": "a source is encoded while it arrives, in pieces of fixed size; leave it "
    "out",
    "quantized_kv_start": "with kv_bits all keys and values are quantised from the first token "
    "on; leave it out",
    "prompt_cache": "give prefix=, from SimulSession.encode_prefix()",
    "draft_model": "give draft=(model, tokenizer), as load gives them",
}
"""Arguments of mlx-lm's generate that are not options of a session: why, or what to give."""

SAMPLING = (
    *("top_p", "min_p", "min_tokens_to_keep"),
    *("top_k", "xtc_probability", "xtc_threshold"),
)
"""Options that refine sampling, as parameters of mlx-lm's ``make_sampler``."""

MAX_STOPS = 64
"""Each takes a look at every character."""


def _option(default: Any, flag: str = "", metavar: str = "", plain: Any = None) -> Any:
    """A field, and how it looks outside Python.

    Args:
        default: its only default, in the library as on the command line.
        flag: on the command line, where its name would not do.
        metavar: what stands for its value there.
        plain: the type of what files and the command line can say of it, where Python takes more.
    """
    return field(default=default, metadata={"flag": flag, "metavar": metavar, "plain": plain})


def _python_only(default: Any = None) -> Any:
    """A field that only a Python program can fill."""
    return field(default=default, metadata={"python_only": True})


@dataclass(frozen=True)
class PromptOptions:
    """Task: what to do, and what the model should know.

    Attributes:
        source_language: the language of the source, as in English.
        target_language: the language to translate to, as in French.
        instruction: what to do with the source, instead of "Translate the following … paragraph
            to …". It is the system message where the chat template has one. By default it is what
            the checkpoint was trained on.
        context: text that the model should know.
        glossary: source terms and their translations.
        frame: the chat template, or example translations (for base models); by default the
            template if the tokenizer has one.
        examples: pairs of a source and its translation, for the few-shot frame.
        pairs: finished pairs of a source and its translation, as earlier turns of the chat.
        messages: a chat history instead of an instruction and pairs: at most one system message,
            and then user and assistant in turns.
        date: the day that a chat template prints, as in 2026-07-30; today by default.
        tools: JSON schemas of functions that the model may call, as chat templates take them.
    """

    source_language: str | None = _option(None, "--from", "LANGUAGE")
    target_language: str | None = _option(None, "--to", "LANGUAGE")
    instruction: str | None = None
    context: str | None = _option(None, metavar="TEXT|@FILE")
    glossary: Mapping[str, str] | None = _option(None, metavar="FILE")
    frame: Frame = "auto"
    examples: Pairs | None = _python_only()
    pairs: Pairs = _python_only(())
    messages: Sequence[Mapping[str, str]] | None = _python_only()
    date: Date | str | None = _option(None, metavar="YYYY-MM-DD", plain=str | None)
    tools: Tools = _python_only(())

    def __post_init__(self) -> None:
        if isinstance(self.date, str):
            try:
                object.__setattr__(self, "date", Date.fromisoformat(self.date))
            except ValueError as error:
                raise InvalidOptionError(
                    f"date must be a day as in '2026-07-30', got {self.date!r}: {error}."
                ) from error
        elif self.date is not None and not isinstance(self.date, Date):
            raise InvalidOptionError(
                f"date must be a datetime.date or a text as in '2026-07-30', got {self.date!r}."
            )
        if self.messages is not None:
            self._take_messages(self.messages)
        object.__setattr__(self, "tools", _checked_tools(self.tools))

    def _take_messages(self, messages: Sequence[Mapping[str, str]]) -> None:
        """Say a chat history as an instruction and pairs."""
        given = {"instruction": self.instruction, "pairs": self.pairs}
        if twice := [name for name, value in given.items() if value]:
            raise InvalidOptionError(
                f"messages hold instruction and pairs; leave {' and '.join(twice)} out."
            )
        if any(not {"role", "content"} <= set(message) for message in messages):
            raise InvalidOptionError(
                f"each of messages must have a role and a content, got {list(messages)!r}."
            )
        said = [(message["role"], message["content"]) for message in messages]
        system = [content for role, content in said[:1] if role == "system"]
        turns = said[len(system) :]
        roles = [role for role, _ in turns]
        if roles != ["user", "assistant"] * (len(turns) // 2):
            raise InvalidOptionError(
                "messages must be at most one system message and then user and assistant in turns, "
                f"ending with the assistant, got the roles {[role for role, _ in said]}. The next "
                "user message is the source: feed it instead."
            )
        texts = [content for _, content in turns]
        object.__setattr__(self, "pairs", tuple(zip(texts[::2], texts[1::2], strict=True)))
        object.__setattr__(self, "instruction", system[0] if system else None)
        object.__setattr__(self, "messages", None)


def _checked_tools(given: Any) -> tuple[Mapping[str, Any], ...]:
    """Tools, which are JSON schemas of functions.

    Raises:
        InvalidOptionError: if one is not, or has no name, or cannot be said in JSON.
    """
    # An iterator would be used up by the first look.
    tools = tuple(given) if isinstance(given, Iterable) else (given,)
    try:
        json.dumps(tools)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidOptionError(
            f"tools must be schemas that JSON can say, got {tools!r}: {error}."
        ) from error
    for tool in tools:
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InvalidOptionError(
                'each of tools must be a schema as in {"type": "function", "function": {"name": '
                f'"file_item", "parameters": {{...}}}}}}, got {tool!r}.'
            )
    return tools


@dataclass(frozen=True)
class TurnOptions:
    """Turns: a source sentence and its translation each.

    SPEC section 8.

    Attributes:
        turns: "sentence" makes each source sentence a turn, so a stream may last for hours;
            "none" reads the whole source as one turn (for a summary, say); "auto" is "sentence"
            where the task is translation.
        history: how many finished pairs the model sees before each turn, given pairs among them.
        max_turn_words: source words after which a turn is cut, even within a sentence.
        splitter: cuts a text into its sentences, instead of the rules of the source language.
        split: cuts text in a script without spaces into words; by default each grapheme cluster is
            one.
    """

    turns: Turns | None = "auto"
    history: int = _option(0, metavar="PAIRS")
    max_turn_words: int = _option(DEFAULT_MAX_TURN_WORDS, metavar="N")
    splitter: Callable[[str], Sequence[str]] | None = _python_only()
    split: Callable[[str], Sequence[str]] | None = _python_only()

    def __post_init__(self) -> None:
        if self.turns not in ("auto", "sentence", None):
            raise InvalidOptionError(
                f'turns must be "auto", "sentence" or None, got {self.turns!r}.'
            )
        require_count("history", self.history, least=0)
        require_count("max_turn_words", self.max_turn_words)


@dataclass(frozen=True)
class LimitOptions:
    """Limits: where the target is cut off.

    Attributes:
        max_words: target words after which the stream ends. This and the ratio count words of
            speech, which are about equally long in any script.
        max_tokens: target tokens after which a turn ends.
        max_tokens_per_word: target tokens after which a word is cut.
        max_target_source_ratio: target words per source word read, at most; a source of one or two
            words counts as three. "none" sets no limit; "auto" is 3, or no limit with gpe_compat.
        stop: texts at which the target ends, before them; in Python also token ids, one or several
            in a row.
        stop_after: what the target ends behind: a sentence of the target language, a fenced code
            block, or a JSON object or array.
    """

    max_words: int | None = _option(None, metavar="N")
    max_tokens: int = _option(1024, metavar="N")
    max_tokens_per_word: int = _option(50, metavar="N")
    max_target_source_ratio: float | Literal["auto"] | None = _option("auto", "--max-ratio", "R")
    stop: Stops | None = _option(
        None, metavar="TEXT", plain=tuple[str | tuple[int, ...], ...] | str
    )
    stop_after: StopUnit | None = None

    def __post_init__(self) -> None:
        for name in ("max_words", "max_tokens", "max_tokens_per_word"):
            if (value := getattr(self, name)) is not None or name != "max_words":
                require_count(name, value)
        ratio = self.max_target_source_ratio
        if ratio not in ("auto", None):
            is_number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
            if not is_number or not 0 < ratio < math.inf:
                raise InvalidOptionError(
                    f"max_target_source_ratio must be a positive number, got {ratio!r}; None is no "
                    "limit."
                )
        if self.stop is not None:
            object.__setattr__(self, "stop", _checked_stops(self.stop))
        if self.stop_after not in (None, *get_args(StopUnit)):
            raise InvalidOptionError(
                f"stop_after must be one of {', '.join(get_args(StopUnit))} or None, got "
                f"{self.stop_after!r}."
            )


def _checked_stops(given: Any) -> tuple[Stop, ...] | None:
    """Stops as texts and as token ids in a row; None if there are none.

    Raises:
        InvalidOptionError: for one that is empty or something else, or for too many.
    """
    stops = [given] if isinstance(given, str) or not isinstance(given, Iterable) else [*given]
    made: list[Stop] = []
    for stop in stops:
        row = (stop,) if type(stop) is int else stop
        is_row = isinstance(row, Sequence) and all(type(token) is int for token in row)
        if not row or not (isinstance(row, str) or is_row):
            raise InvalidOptionError(
                f"stop must be texts, token ids or rows of token ids, none of them empty; got "
                f"{stop!r}."
            )
        made.append(row if isinstance(row, str) else tuple(row))
    if len(made) > MAX_STOPS:
        raise InvalidOptionError(f"stop holds {len(made)} stops; at most {MAX_STOPS} may be given.")
    return tuple(made) or None


@dataclass(frozen=True)
class DecodingOptions:
    """Decoding: how a token is chosen, and in how many passes.

    Attributes:
        temp: the temperature; 0 takes the likeliest token.
        top_p: sample only among the likeliest tokens whose probabilities add up to this.
        min_p: sample only among tokens at least this likely, relative to the likeliest one.
        min_tokens_to_keep: with min_p, sample among at least so many; by default 1.
        top_k: sample only among so many of the likeliest tokens.
        xtc_probability: how often to leave out all tokens of the threshold but the least likely.
        xtc_threshold: the probability from which on a token counts there; by default 0.1.
        seed: of the random draws. Each depends on the seed and its place in the stream alone, and
            MLX's random state stays as it is; by default, draws come from that.
        repetition_penalty: divides the logits of tokens written lately.
        repetition_context_size: how many tokens back the repetition penalty looks.
        sampler: a sampler of mlx-lm's, as make_sampler gives, instead of temp and its refinements.
        logits_processors: logits processors of mlx-lm's; they see target tokens only.
        early_eos: what to do when the model ends its turn before the source has ended.
        gpe_compat: write token for token what EIT-NLP/StreamingLLM writes (SPEC section 4). It has
            rules of its own for words and the end of a turn, and no ratio limit.
        draft: guess several tokens ahead, to be verified in one pass; the tokens stay the same.
            "ngram" looks them up in the text so far; a smaller model with the same tokenizer
            guesses better.
        num_draft_tokens: the most guesses in one pass.
        num_beams: how many continuations are compared; 1 takes the likeliest token. Between two
            reads the word to be written is searched for, and with the whole source the rest of the
            target, as transformers' generate() does with early_stopping=False.
        length_penalty: with beams, the power of its length by which the log probability of a
            continuation is divided; above 0 favours long ones.
        logprobs: tell with each token its log probability in the model's own distribution.
    """

    temp: float = _option(0.0, metavar="T")
    top_p: float | None = _option(None, metavar="P")
    min_p: float | None = _option(None, metavar="P")
    min_tokens_to_keep: int | None = _option(None, metavar="N")
    top_k: int | None = _option(None, metavar="K")
    xtc_probability: float | None = _option(None, metavar="P")
    xtc_threshold: float | None = _option(None, metavar="P")
    seed: int | None = _option(None, metavar="N")
    repetition_penalty: float | None = _option(None, metavar="R")
    repetition_context_size: int = _option(20, metavar="N")
    sampler: Sampler | None = _python_only()
    logits_processors: Iterable[LogitsProcessor] | None = _python_only()
    early_eos: Literal["read", "stop"] = "read"
    gpe_compat: bool = False
    draft: Literal["ngram"] | Drafter | tuple[Any, Any] | None = _option(
        None, metavar="ngram|FOLDER", plain=Literal["ngram"] | None
    )
    num_draft_tokens: int = _option(4, metavar="N")
    num_beams: int = _option(1, metavar="N")
    length_penalty: float = _option(1.0, metavar="P")
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


@dataclass(frozen=True)
class PlacementOptions:
    """Memory: where tokens stand, and how they are stored.

    Attributes:
        mode: "group" keeps source and target apart (SPEC section 1), "reencode" runs the target
            again after each read, "interleaved" takes tokens in order of arrival; "auto" is the
            mode that the checkpoint was trained in, else the best that its architecture supports.
        target_start: where target positions start: a position, or "follow" (just behind the
            source); "auto" is as the checkpoint was trained, else "follow".
        kv_bits: bits in which each key and value is stored, in mode "group".
        kv_group_size: with kv_bits, how many numbers share one scale.
    """

    mode: Mode = "auto"
    target_start: int | str | TargetStart = _option(
        "auto", metavar="auto|follow|N", plain=int | str
    )
    kv_bits: int | None = _option(None, metavar="N")
    kv_group_size: int = _option(64, metavar="N")

    def __post_init__(self) -> None:
        start = self.target_start
        if isinstance(start, str) and start not in ("auto", "follow"):
            raise InvalidOptionError(
                f'target_start must be "auto", "follow" or a position, got {start!r}.'
            )
        if isinstance(start, int):
            require_count("target_start", start, least=0)


@dataclass(frozen=True)
class SessionOptions:
    """All options of a session, in groups.

    Attributes:
        policy: when to read and when to write: an object, or a name such as "wait-k:3".
        prompt: what to do.
        turn: where a stream is cut into turns.
        limits: where the target is cut off.
        decoding: how a token is chosen.
        placement: where tokens stand.
    """

    policy: Policy | str = _option("wait-k:3", metavar="NAME[:OPTIONS]", plain=str)
    prompt: PromptOptions = PromptOptions()
    turn: TurnOptions = TurnOptions()
    limits: LimitOptions = LimitOptions()
    decoding: DecodingOptions = DecodingOptions()
    placement: PlacementOptions = PlacementOptions()

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "policy" and type(value) is not type(item.default):
                raise InvalidOptionError(
                    f"{item.name} is a group of options, {type(item.default).__name__}(...), got "
                    f"{value!r}; its options may be given by their own names, too."
                )

    @classmethod
    def of(cls, options: SessionOptions | None = None, /, **flat: Any) -> SessionOptions:
        """Options with some of them replaced, by their flat names.

        Args:
            options: what stays; the defaults if there are none.
            **flat: ``target_language="French"``, and so on; the names of all groups differ. A group
                may be given whole, too: ``limits=LimitOptions(max_words=9)``.

        Raises:
            InvalidOptionError: for an unknown name, or a value outside its range.
        """
        made, known = cls() if options is None else options, _group_of()
        if not isinstance(made, cls):
            raise InvalidOptionError(
                f"options must be a SessionOptions, got {made!r}; give single ones by name, as in "
                "target_language='French'."
            )
        if foreign := flat.keys() & NOT_OPTIONS.keys():
            name = min(foreign)
            raise InvalidOptionError(f"{name}, an argument of mlx-lm's: {NOT_OPTIONS[name]}.")
        if unknown := flat.keys() - known.keys() - GROUPS:
            raise InvalidOptionError(
                f"unknown option {min(unknown)!r}; known are {', '.join(sorted(known))}."
            )
        changed = {name: value for name, value in flat.items() if name in GROUPS}
        by_group: dict[str, dict[str, Any]] = {}
        for name, value in flat.items():
            if name not in GROUPS:
                by_group.setdefault(known[name], {})[name] = value
        changed |= by_group.pop("", {})
        for group, values in by_group.items():
            if "messages" in values:
                # They take the place of what an earlier instruction and earlier pairs said.
                values = {"instruction": None, "pairs": ()} | values
            changed[group] = replace(changed.get(group, getattr(made, group)), **values)
        return replace(made, **changed)

    @classmethod
    def from_plain(
        cls, table: Mapping[str, Any], options: SessionOptions | None = None
    ) -> SessionOptions:
        """Options from plain values, as JSON and TOML have them, flat or in a table for each group.

        Args:
            table: ``{"target_language": "French", "limits": {"max_words": 9}}``.
            options: what stays; the defaults if there are none.

        Raises:
            InvalidOptionError: for an unknown name, or a value of another type or outside its
                range.
        """
        known, kinds = _group_of(), _kinds()
        values: dict[str, Any] = {}
        for name, value in table.items():
            if name in GROUPS and isinstance(value, Mapping):
                values |= {key: (name, key, given) for key, given in value.items()}
            else:
                values[name] = (known.get(name, ""), name, value)
        made = {}
        for name, (group, key, value) in values.items():
            items = {item.name: item for item in plain_fields(kinds[group])}
            if key not in items:
                names = sorted(n for kind in kinds.values() for n in _names(kind))
                raise InvalidOptionError(f"unknown option {name!r}; known are {', '.join(names)}.")
            made[name] = value_of(kinds[group], items[key], value, name)
        return cls.of(options, **made)

    def flat(self) -> Mapping[str, Any]:
        """All options by their flat names."""
        return MappingProxyType(
            {
                name: getattr(getattr(self, group) if group else self, name)
                for name, group in _group_of().items()
            }
        )


def _kinds() -> dict[str, type]:
    """The dataclass of each group, and that of what is in none."""
    groups = {item.name: type(item.default) for item in fields(SessionOptions)}
    return {"": SessionOptions} | {name: groups[name] for name in GROUPS}


def _names(kind: type) -> list[str]:
    return [item.name for item in plain_fields(kind) if item.name not in GROUPS]


GROUPS = frozenset(item.name for item in fields(SessionOptions) if item.name != "policy")


@cache
def _group_of() -> Mapping[str, str]:
    """The group of each option; the policy has none."""
    kinds = _kinds()
    grouped = ((item.name, group) for group in GROUPS for item in fields(kinds[group]))
    return {"policy": "", **dict(grouped)}


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
