"""The prompt around a source, and the source in it as segments of token ids (SPEC 1, 2).

``prefix | word, word, … | suffix`` is the source group; ``header`` starts the target group.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import date as Date
from difflib import SequenceMatcher
from functools import lru_cache, partial
from itertools import chain
from typing import Any

from mlx_simul.errors import PromptError
from mlx_simul.events import ToolCall
from mlx_simul.options import Frame, Tools
from mlx_simul.text.encoding import PieceEncoder
from mlx_simul.text.frames import (
    built_in_examples,
    chat_frame,
    chat_turns,
    check_texts,
    few_shot_frame,
    few_shot_turns,
    guide_text,
    tool_turn,
)
from mlx_simul.text.segmenter import SourceSegmenter
from mlx_simul.text.tools import tool_format_of
from mlx_simul.text.vocabulary import end_of_turn_ids_of, piece_texts

# One for each number of finished pairs before the source.
_MAX_CACHED_TURNS = 16


@dataclass(frozen=True, init=False)
class TokenizedSource:
    """A source as token ids, for exact control over what the model reads (SPEC 7).

    Args:
        segments: ``[prefix, word, …, suffix]``, each a sequence of token ids; prefix and suffix are
            always there, though they may be empty.
        header: Ids that open the target group; at least one.

    Raises:
        PromptError: Fewer than two segments, an empty header, or an id that is not an integer >= 0.
    """

    segments: tuple[tuple[int, ...], ...]
    header: tuple[int, ...]

    def __init__(self, segments: Iterable[Iterable[int]], header: Iterable[int]) -> None:
        checked = tuple(_checked_ids(ids, f"segment {i}") for i, ids in enumerate(segments))
        if len(checked) < 2:
            raise PromptError(
                f"a tokenized source needs at least a prefix and a suffix, but has {len(checked)} "
                "segment(s); give [prefix, word, …, suffix], empty ones as []."
            )
        object.__setattr__(self, "segments", checked)
        object.__setattr__(self, "header", _checked_ids(header, "the header"))
        if not self.header:
            raise PromptError(
                "the header is empty, so nothing could predict the first target token; give the "
                "ids that start the assistant's turn."
            )


def _checked_ids(ids: Iterable[int], what: str) -> tuple[int, ...]:
    try:
        checked = tuple(operator.index(token) for token in ids)
    except TypeError as error:
        raise PromptError(f"{what} must be a sequence of token ids: {error}.") from error
    for token in checked:
        if not 0 <= token < 2**31:
            raise PromptError(f"{what} holds the token id {token}; ids go from 0 to 2**31 - 1.")
    return checked


class StreamingDataPreparator:
    """Renders a prompt once and tokenises sources into it, whole or word by word.

    **Chat.** The instruction is the system message, the source the user's. A template that refuses
    or drops a system message gets the instruction before the source, in the user's turn. The header
    ends where a plain answer begins, as the template's family writes one: thoughts are closed and
    channels opened in it, so that the target is the translation. Where the start of an answer
    writes nothing of its own (``[INST] … [/INST]``), all that follows the source is header.

    The target ends where the template ends an answer, and at the tokenizer's eos_token. Any other
    control token ends it too, but for those of a thought: a model whose header has closed its
    thought may open another, so these are forbidden.

    **Few-shot**, for base models: a tokenizer without a template, or on request::

        {instruction, glossary and context, where given}

        English: {example}
        French: {its translation}

        English: {source}
        French:

    The translation ends at any token with a line break in it. Examples are the caller's, or built
    in for pairs of English, French, German, Spanish and Italian; without any, the default
    instruction stands on top. Languages not named are called "Source" and "Target".

    Args:
        tokenizer: A Hugging Face tokenizer or mlx-lm's wrapper around one.
        instruction: Used verbatim. By default, if ``target_language`` is given, "Translate the
            following {source_language} paragraph to {target_language}"; otherwise there is none.
        source_language: In English, as the model reads it: "German".
        target_language: Likewise.
        context: What the source belongs to; follows the instruction under "Context:".
        glossary: Source term -> target term; follows it under "Glossary:", a line "- a = b" each.
        frame: "chat", "few-shot", or "auto": chat where the tokenizer has a template.
        split: Segmenter for scripts without spaces, see ``SourceSegmenter``.
        examples: Pairs (source, translation) for the few-shot frame.
        date: What a template that prints the date takes for today; by default it is today.
        tools: JSON schemas of functions that the model may call; they belong to the chat frame.

    Attributes:
        prefix_text, prefix_ids: All before the source, except for a last space, which goes to the
        first word.
        suffix_text, suffix_ids: From the end of the source to the end of the user's turn.
        header_text, header_ids: The start of the answer.
        end_of_turn_ids: Tokens that end the target.
        closing_id: The one among them that a target is trained to end with.
        control_ids: Tokens that end it too, though no answer of this family ends that way.
        forbidden_ids: Tokens that must not be predicted.
        date: As above.
        tool_format: How calls are written; None without tools.

    Raises:
        PromptError: The template cannot carry the source, the options contradict each other, or
            its texts are longer than ``frames.MAX_PROMPT_CHARS`` together.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        instruction: str | None = None,
        source_language: str | None = None,
        target_language: str | None = None,
        context: str | None = None,
        glossary: Mapping[str, str] | None = None,
        frame: Frame = "auto",
        split: Callable[[str], Sequence[str]] | None = None,
        examples: Sequence[tuple[str, str]] | None = None,
        date: Date | None = None,
        tools: Tools = (),
    ) -> None:
        if glossary is not None and not isinstance(glossary, Mapping):
            raise PromptError(
                f"glossary must map source terms to target terms, got {type(glossary).__name__}."
            )
        if any(len(pair) != 2 for pair in examples or ()):
            raise PromptError("examples must be pairs of a source and its translation.")
        options = (instruction, source_language, target_language, context)
        pairs = (*(glossary or {}).items(), *(examples or ()))
        check_texts(text for text in (*options, *chain(*pairs)) if text is not None)
        self._split = split
        self._encoder = PieceEncoder(tokenizer)
        is_chat = _is_chat(frame, _has_template(tokenizer))
        if source_language and not target_language:
            raise PromptError(
                f"source_language={source_language!r} without a target_language; name both, or "
                "neither and give an instruction."
            )
        if is_chat and examples:
            raise PromptError('examples belong to the few-shot frame; give frame="few-shot" too.')
        if tools and not is_chat:
            raise PromptError("tools belong to the chat frame; use a model with a chat template.")
        self.tool_format = tool_format_of(tokenizer, tools) if tools else None
        if examples is None:
            examples = built_in_examples(source_language or "", target_language or "")
        if instruction is None and target_language and (is_chat or not examples):
            source = f"{source_language} " if source_language else ""
            instruction = f"Translate the following {source}paragraph to {target_language}"
        guide = guide_text(instruction, glossary, context)

        self.date = date or Date.today()
        labels = source_language or "Source", target_language or "Target"
        if is_chat:
            parts = chat_frame(tokenizer, guide, self.date, tools)
            turns_of = partial(chat_turns, tokenizer, guide, self.date, tools)
        else:
            parts = few_shot_frame(guide, examples, *labels, self._line_end())
            turns_of = partial(few_shot_turns, parts, labels[0])
        self._turns_of = lru_cache(_MAX_CACHED_TURNS)(turns_of)
        self._tool_turn = partial(tool_turn, tokenizer, self.date, tools)
        self.suffix_text = parts.suffix
        self.header_text = parts.header

        encoder = self._encoder
        self._bos = [] if is_chat else encoder.bos()  # a template writes its own
        # In the few-shot frame all text is the user's.
        self._encode_piece = encoder.continuation if is_chat else encoder.literal
        self._open(parts.before, parts.guide, parts.between)
        self.suffix_ids = tuple(self._encode_piece(parts.suffix, "a"))
        self.header_ids = tuple(self._encode_piece(parts.header, parts.suffix or "a"))
        named, known = end_of_turn_ids_of(tokenizer), encoder.control_ids
        closing = [i for i in encoder.continuation(parts.closing) if i in named | known][:1]
        ends = named.union(closing, known.intersection(self.suffix_ids[:1]))
        if not is_chat or (not closing and parts.closing.startswith("\n")):
            ends |= {i for i, piece in enumerate(piece_texts(tokenizer)) if "\n" in piece}
        if not self.header_ids or not ends:
            what = "end a target: it has no eos_token" if self.header_ids else "start a target"
            raise PromptError(f"this tokenizer has no token to {what}; complete its configuration.")
        calls = self._ids_in_calls() - ends
        self.end_of_turn_ids = ends
        usual = (*closing, *self.suffix_ids[:1], tokenizer.eos_token_id, *sorted(ends))
        self.closing_id = next(token for token in usual if token in ends)
        self.forbidden_ids = tuple(sorted(encoder.thought_ids - ends - calls))
        self.control_ids = known.difference(
            ends, calls, self.forbidden_ids, [tokenizer.unk_token_id]
        )

    def behind(self, history: Sequence[tuple[str, str]]) -> StreamingDataPreparator:
        """Gives the same prompt with finished pairs before the source (SPEC 8).

        They stand in its prefix, as earlier turns of the chat, a user's and an assistant's each, or
        as further examples in the few-shot frame. What spells a control token in them stays text.

        Args:
            history: Pairs (source, translation), the oldest first; their white space is normalised.

        Returns:
            A prompt of its own; this one if there are no pairs.

        Raises:
            PromptError: The template cannot carry earlier turns, or their texts are too long.
        """
        if any(len(pair) != 2 for pair in history):
            raise PromptError("pairs and history must be pairs of a source and its translation.")
        if not history:
            return self
        texts = [text for pair in history for text in pair]
        check_texts(texts)
        parts, encoder = self._turns_of(len(history)), self._encoder
        first, *pieces = parts.pieces
        prompt = copy(self)
        prompt._open(parts.before, parts.guide, first)
        ids = [*prompt.prefix_ids]
        for text, piece in zip(texts, pieces, strict=True):
            said = prompt._lead + " ".join(text.split())
            start, prompt._lead = _without_lead(piece)
            ids += encoder.literal(said, prompt.prefix_text) + self._encode_piece(start, "a")
            prompt.prefix_text += said + start
        prompt.prefix_ids = tuple(ids)
        return prompt

    def tool_result_ids(self, call: ToolCall, result: str) -> tuple[int, ...]:
        """Tokenises the result of a call as it stands between the call and the next answer.

        Args:
            call: As the model made it.
            result: What spells a control token in it stays text.

        Returns:
            The ids from the end of the call to the start of the next answer.

        Raises:
            PromptError: There are no tools, the result is too long or not text, or the template
                does not show where a call ends and its result begins.
        """
        if self.tool_format is None:
            raise PromptError("no tools were given, so no call can have a result; give tools=.")
        check_texts([result])
        names = [tool["function"]["name"] for tool in self.tool_format.tools]
        # A template shows a call that failed as any other.
        parts = self._tool_turn(call.name or names[0], call.arguments, self.tool_format.end)
        encoder = self._encoder
        before, after = (encoder.continuation(part) for part in parts)
        return (*before, *encoder.literal(result, parts[0]), *after)

    def _ids_in_calls(self) -> set[int]:
        """Control tokens that a call is made of; they end no turn."""
        if self.tool_format is None:
            return set()
        markers = self._encoder.encode(self.tool_format.start + self.tool_format.end)
        return {*self._encoder.control_ids.intersection(markers)}

    def _open(self, before: str, guide: str, between: str) -> None:
        """Sets the prefix to the prompt's start, up to the first text in it."""
        encoder, (start, self._lead) = self._encoder, _without_lead(between)
        self.prefix_text = before + guide + start
        if encoder.has_control(encoder.encode(guide)):
            ids = encoder.encode(before) + encoder.literal(guide)
            ids += encoder.continuation(start)
        else:
            ids = encoder.opening(self.prefix_text, self._lead + "a")
        self.prefix_ids = (*self._bos, *ids)

    def segmenter(self) -> SourceSegmenter:
        """Starts a segmenter whose words suit ``encode_word``."""
        return SourceSegmenter(self._split)

    def encode_word(self, segment: str, is_first: bool) -> list[int]:
        """Tokenises one word as it stands in the prompt.

        Text that spells a control token (``<|im_end|>``) stays text.

        Args:
            segment: A word from the segmenter, with the space before it.
            is_first: Whether it is the source's first, which follows the prefix.

        Returns:
            Its token ids; none only if the tokenizer drops every character of it.
        """
        if is_first:
            return self._encoder.literal(self._lead + segment, self.prefix_text)
        return self._encoder.literal(segment)

    def prepare_source_text(self, text: str) -> tuple[str, list[int], list[int]]:
        """Tokenises a whole source, without the header (SPEC 6).

        Args:
            text: The source; its white space is normalised.

        Returns:
            The text of the source group, its token ids, and the number of tokens in each segment:
            prefix, words, suffix.
        """
        words = self._words(text)
        segments = self._segments(words)
        ids = [token for segment in segments for token in segment]
        return self._formatted(words), ids, [len(segment) for segment in segments]

    def tokenize(self, text: str) -> TokenizedSource:
        """Tokenises a whole source.

        Args:
            text: The source; its white space is normalised.

        Returns:
            Its segments and the header.
        """
        return TokenizedSource(self._segments(self._words(text)), self.header_ids)

    def check_segments(self, text: str) -> list[str]:
        """Finds where tokenising word by word differs from tokenising the prompt whole (SPEC 2).

        Args:
            text: A source to try.

        Returns:
            The segments whose ids differ, prefix and suffix included; none if the law holds.
        """
        words = self._words(text)
        segments = self._segments(words)
        names = [self.prefix_text, *words, self.suffix_text]
        owners = [i for i, segment in enumerate(segments) for _ in segment]
        apart = [token for segment in segments for token in segment]
        whole = self._bos + self._encoder.encode(self._formatted(words))
        changes = SequenceMatcher(None, apart, whole, autojunk=False).get_opcodes()
        differing = {
            owner
            for tag, start, stop, _, _ in changes
            if tag != "equal"
            for owner in owners[start : max(stop, start + 1)] or owners[-1:]
        }
        return [names[i] for i in sorted(differing)]

    def _words(self, text: str) -> list[str]:
        segmenter = self.segmenter()
        return segmenter.feed(text) + segmenter.finish()

    def _segments(self, words: list[str]) -> list[list[int]]:
        ids = [self.encode_word(word, is_first=i == 0) for i, word in enumerate(words)]
        return [list(self.prefix_ids), *ids, list(self.suffix_ids)]

    def _formatted(self, words: list[str]) -> str:
        source = self._lead + "".join(words) if words else ""
        return self.prefix_text + source + self.suffix_text

    def _line_end(self) -> str:
        # Some tokenizers have a token for a full stop with a line break. A space between them keeps
        # the end of the source a segment of its own, and the end of the target a token of its own.
        is_apart = self._encoder.encode("a.\n")[:-1] == self._encoder.encode("a.")
        return "\n" if is_apart else " \n"


def _without_lead(piece: str) -> tuple[str, str]:
    # Tokenizers put a space with the word after it.
    start = piece.removesuffix(" ")
    return start, piece[len(start) :]


def _has_template(tokenizer: Any) -> bool:
    from transformers import PreTrainedTokenizerBase

    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer.chat_template is not None
    return tokenizer.has_chat_template


def _is_chat(frame: str, has_template: bool) -> bool:
    if frame not in ("auto", "chat", "few-shot"):
        raise PromptError(f'frame must be "auto", "chat" or "few-shot", not {frame!r}.')
    if frame == "chat" and not has_template:
        raise PromptError(
            'frame="chat", but this tokenizer has no chat template; use frame="few-shot", or an '
            "instruction-tuned checkpoint."
        )
    return has_template and frame != "few-shot"
