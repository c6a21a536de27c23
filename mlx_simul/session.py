"""SimulSession: text in as it arrives, events out. It does no I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date as Date
from functools import partial
from typing import Any, Literal, TypedDict

import mlx.nn as nn

from mlx_simul import archs
from mlx_simul.archs.prepare import adopt
from mlx_simul.archs.trained import told
from mlx_simul.cache.positions import TargetStart
from mlx_simul.engine import Engine, LogitsProcessor, Sampler, make_engine
from mlx_simul.engine.drafting import make_drafter
from mlx_simul.engine.needs import meet_needs
from mlx_simul.engine.prefix import EncodedPrefix
from mlx_simul.errors import InvalidOptionError, SessionClosedError
from mlx_simul.events import Event, Finished
from mlx_simul.loop.drafters import Drafter
from mlx_simul.loop.limits import DEFAULT_MAX_RATIO, Limits
from mlx_simul.loop.loop import NEED_SOURCE, SimulLoop
from mlx_simul.loop.reference import ReferenceLoop
from mlx_simul.loop.requests import Pass, Reply
from mlx_simul.policies import Policy, ProposedWord, WaitK, as_policy
from mlx_simul.text.boundary import WordBoundaryStoppingCriteria
from mlx_simul.text.detokenizer import StableDetokenizer
from mlx_simul.text.prompts import Frame, StreamingDataPreparator, TokenizedSource
from mlx_simul.text.segmenter import SourceSegmenter, require_text
from mlx_simul.text.vocabulary import end_of_turn_ids_of


class SessionOptions(TypedDict, total=False):
    """The options of :class:`SimulSession`, for the signatures that hand them on."""

    policy: Policy | str | None
    instruction: str | None
    source_language: str | None
    target_language: str | None
    context: str | None
    glossary: Mapping[str, str] | None
    frame: Frame
    examples: Sequence[tuple[str, str]] | None
    date: Date | str | None
    split: Callable[[str], Sequence[str]] | None
    mode: Literal["auto", "group", "reencode", "interleaved"]
    target_start: int | str | TargetStart
    kv_bits: int | None
    kv_group_size: int
    max_words: int | None
    max_tokens: int
    max_tokens_per_word: int
    max_target_source_ratio: float | Literal["auto"] | None
    sampler: Sampler | None
    logits_processors: Iterable[LogitsProcessor] | None
    early_eos: Literal["read", "stop"]
    gpe_compat: bool
    drafter: Literal["ngram"] | Drafter | None
    draft_model: tuple[nn.Module, Any] | None
    num_draft_tokens: int
    prefix: EncodedPrefix | None


class SimulSession:
    """One live stream: feed source text in any pieces, get events back (SPEC section 7).

    The same text in any pieces gives the same events but for their times. A session belongs to the
    thread that made it, as MLX's streams do.

    Args:
        model: from :func:`mlx_simul.load`.
        tokenizer: likewise.
        policy: when to read and when to write: an object, or a name as on the command line,
            ``"wait-k:3"`` or ``"confidence:0.5"``; ``WaitK(3)`` by default.
        instruction: what to do with the source; goes into the prefix, as the system message where
            the chat template has one. With no language either, what the checkpoint was trained on.
        source_language: for the default instruction, "Translate the following … paragraph to …".
        target_language: likewise.
        context: text the model should know, in the prefix.
        glossary: source term to target term, in the prefix.
        frame: ``"chat"``, ``"few-shot"``, or ``"auto"``: chat where the tokenizer has a template.
        examples: source and target pairs for the few-shot frame.
        date: what a chat template that prints the date takes for today, or "2026-07-30". By default
            that of ``prefix``, else today, so sessions that share a prefix have one date.
        split: cuts a run of a script without spaces into words; grapheme clusters by default.
        mode: ``"group"`` keeps source and target apart (SPEC 1), ``"reencode"`` runs the target
            again after each read, ``"interleaved"`` takes tokens in order of arrival; ``"auto"`` is
            as the checkpoint was trained, else ``"group"`` where the architecture can.
        target_start: where target positions start: a position, ``"follow"`` (just behind the
            source) or ``"auto"`` (as the checkpoint was trained, else ``"follow"``); SPEC 1.
        kv_bits: store keys and values in so many bits, in mode ``"group"``.
        kv_group_size: numbers that share a scale, with ``kv_bits``.
        max_words: target words after which the session ends. It and the ratio count words of
            speech, which are as long in any script (:mod:`mlx_simul.text.speech`).
        max_tokens: target tokens after which it ends.
        max_tokens_per_word: target tokens after which a word is cut.
        max_target_source_ratio: target words per source word read, at most; a whole source of one
            or two words counts as three. ``"auto"`` is 3, and ``None`` in reference mode.
        sampler: mlx-lm's (``mlx_lm.sample_utils.make_sampler``); greedy by default.
        logits_processors: mlx-lm's; they see target tokens only.
        early_eos: an end-of-turn predicted while source is left means ``"read"`` on or ``"stop"``.
        gpe_compat: reproduce EIT-NLP/StreamingLLM to the token (SPEC section 4); it has a word
            rule, a limit per word and an end-of-turn rule of its own, no ratio limit, and sliding
            windows on the source only.
        drafter: guesses several tokens ahead, to be verified in one pass; the tokens stay the same.
            ``"ngram"`` looks them up in the source and the target so far, which pays where text is
            copied (``docs/speed.md``).
        draft_model: a smaller model that guesses instead, and its tokenizer, which must be the
            same: what :func:`mlx_simul.load` gives.
        num_draft_tokens: guesses a pass, at most.
        prefix: from :meth:`encode_prefix` of a session that began alike, not to be encoded again.
        source: a source whose tokens are known; then there is nothing to feed and the prompt
            options do not apply.
        make_engine: makes what runs the passes, of the options that concern it.

    Raises:
        InvalidOptionError: for an option outside its range.
        PromptError: if the tokenizer's template cannot carry the source.
        UnknownArchitectureError: if the model's type is not registered.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        policy: Policy | str | None = None,
        instruction: str | None = None,
        source_language: str | None = None,
        target_language: str | None = None,
        context: str | None = None,
        glossary: Mapping[str, str] | None = None,
        frame: Frame = "auto",
        examples: Sequence[tuple[str, str]] | None = None,
        date: Date | str | None = None,
        split: Callable[[str], Sequence[str]] | None = None,
        mode: Literal["auto", "group", "reencode", "interleaved"] = "auto",
        target_start: int | str | TargetStart = "auto",
        kv_bits: int | None = None,
        kv_group_size: int = 64,
        max_words: int | None = None,
        max_tokens: int = 1024,
        max_tokens_per_word: int = 50,
        max_target_source_ratio: float | Literal["auto"] | None = "auto",
        sampler: Sampler | None = None,
        logits_processors: Iterable[LogitsProcessor] | None = None,
        early_eos: Literal["read", "stop"] = "read",
        gpe_compat: bool = False,
        drafter: Literal["ngram"] | Drafter | None = None,
        draft_model: tuple[nn.Module, Any] | None = None,
        num_draft_tokens: int = 4,
        prefix: EncodedPrefix | None = None,
        source: TokenizedSource | None = None,
        make_engine: Callable[..., Engine] = make_engine,
    ) -> None:
        if early_eos not in ("read", "stop"):
            raise InvalidOptionError(f"early_eos must be 'read' or 'stop', got {early_eos!r}.")
        self._began_s = time.perf_counter()
        model = adopt(model, tokenizer)
        self._engine = make_engine(
            model,
            mode=mode,
            target_start=target_start,
            kv_bits=kv_bits,
            kv_group_size=kv_group_size,
            gpe_compat=gpe_compat,
            sampler=sampler,
            logits_processors=logits_processors,
        )
        self._prompt: StreamingDataPreparator | None = None
        self._segmenter = SourceSegmenter(split)
        date = _date(date) or (prefix.date if prefix is not None else None)
        if source is None:
            trained = archs.streaming_config(model)
            instruction, source_language, target_language = told(
                trained,
                instruction,
                source_language,
                target_language,
                context=context,
                glossary=glossary,
                examples=examples,
                frame=frame if frame == "few-shot" else None,
            )
            prompt = self._prompt = StreamingDataPreparator(
                tokenizer,
                instruction=instruction,
                source_language=source_language,
                target_language=target_language,
                context=context,
                glossary=glossary,
                frame=(trained.frame or frame) if frame == "auto" else frame,
                examples=examples,
                split=split,
                date=date,
            )
            date = prompt.date
            prefix_ids, header = prompt.prefix_ids, prompt.header_ids
            end_of_turn_ids = prompt.end_of_turn_ids
            if not gpe_compat:
                end_of_turn_ids |= prompt.control_ids
        else:
            prefix_ids, header = source.segments[0], source.header
            end_of_turn_ids = end_of_turn_ids_of(tokenizer)
        policy = WaitK(3) if policy is None else as_policy(policy)
        if max_target_source_ratio == "auto":
            max_target_source_ratio = None if gpe_compat else DEFAULT_MAX_RATIO
        heads, wait_ids = meet_needs(policy, self._engine, tokenizer)
        end_of_turn_ids = {*end_of_turn_ids, *wait_ids}
        make_loop: Callable[..., SimulLoop] = partial(
            SimulLoop,
            stop_early=early_eos == "stop",
            heads=heads,
            wait_ids=wait_ids,
            forbidden_ids=() if self._prompt is None else self._prompt.forbidden_ids,
        )
        if gpe_compat:
            make_loop = partial(ReferenceLoop, tokenizer=tokenizer)
        self._loop = make_loop(
            policy,
            header,
            WordBoundaryStoppingCriteria(tokenizer, max_tokens_per_word, end_of_turn_ids),
            end_of_turn_ids,
            StableDetokenizer(tokenizer),
            Limits(max_words, max_tokens, max_target_source_ratio),
            clock_ms=self._clock_ms,
            read_ahead_tokens=self._engine.read_ahead_tokens,
            drafter=make_drafter(
                self._engine,
                tokenizer,
                drafter=drafter,
                draft_model=draft_model,
                num_draft_tokens=num_draft_tokens,
                sampler=sampler,
            ),
            num_draft_tokens=num_draft_tokens,
        )
        self._steps = self._loop.steps()
        self._asked: Pass | None = None
        self._reply: Reply | None = None
        self._is_finished = False
        self._is_broken = False
        self._n_words = 0
        setting = type(self._engine).__name__, kv_bits, kv_bits and kv_group_size
        self._prefix = EncodedPrefix(tuple(prefix_ids), model, setting, None, date)
        if prefix is not None:
            prefix.require(self._prefix.token_ids, model, setting)
            self._engine.state = prefix.state
        self._loop.add_segment(prefix_ids, is_encoded=prefix is not None)
        self._source_closed = source is not None
        if source is not None:
            for word in source.segments[1:-1]:
                self._loop.add_segment(word, tokenizer.decode(list(word)))
            self._loop.close_source(source.segments[-1])

    @property
    def finished(self) -> bool:
        """The last event has been given; what is fed now changes nothing."""
        return self._is_finished

    def observe(self, observer: Callable[[ProposedWord], None]) -> None:
        """Have a function told of each word as it is written, with the evidence for it.

        Args:
            observer: gets each word with the evidence that the policy needs.

        Raises:
            InvalidOptionError: if this session's policy needs none.
            SessionClosedError: once the target has begun; what is predicted already has none.
        """
        if self._asked is not None or self._engine.target_tokens:
            raise SessionClosedError(
                "this session's target has begun, and there is no evidence of what is predicted "
                "already; observe a new one, before feeding."
            )
        self._loop.observe(observer)

    def encode_prefix(self) -> EncodedPrefix:
        """Encode what stands before the source, for other sessions that begin alike.

        Raises:
            SessionClosedError: once source has arrived.
        """
        if self._source_closed or self._n_words:
            raise SessionClosedError(
                "this session has source already; take the prefix from a new one, before feeding."
            )
        for _ in self.events():
            pass
        return replace(self._prefix, state=self._engine.state)

    def feed(self, text: str) -> list[Event]:
        """Take a piece of the source and run as far as it allows.

        Args:
            text: any piece: words, half words, nothing.

        Returns:
            What was read and written because of it.

        Raises:
            SessionClosedError: after :meth:`finish`.
        """
        self.push(text)
        return list(self.events())

    def finish(self) -> list[Event]:
        """Say that the source has ended and run to the end; the last event is Finished."""
        self.close()
        return list(self.events())

    def push(self, text: str) -> None:
        """Take a piece of the source without running: :meth:`events` does that.

        Raises:
            InvalidOptionError: if it is not a ``str``; the session goes on without it.
            SessionClosedError: after :meth:`finish` or :meth:`close`, or after an error.
        """
        if self._source_closed:
            raise SessionClosedError("this session's source has ended; begin a new SimulSession.")
        require_text(text)
        if self._is_finished:
            return
        with self._breaking_off():
            self._add_words(self._segmenter.feed(text))

    def close(self) -> None:
        """Say that the source has ended, without running; idempotent."""
        if self._source_closed:
            return
        with self._breaking_off():
            self._source_closed = True
            self._add_words(self._segmenter.finish())
            if self._prompt is not None:
                self._loop.close_source(self._prompt.suffix_ids)

    def events(self) -> Iterator[Event]:
        """Run as far as the source allows, giving each event as it happens."""
        while (step := self.advance()) is not None:
            if isinstance(step, Pass):
                with self._breaking_off():
                    reply = self._engine.run(step)
                self.answer(reply)
            else:
                yield step

    # For who runs the passes of many sessions

    def advance(self) -> Event | Pass | None:
        """Go on to the next event, or to the next pass that has to be run.

        Returns:
            A pass again and again until it is answered; None if there is nothing to do before more
            source arrives, or at all.
        """
        if self._is_finished:
            return None
        with self._breaking_off():
            if self._asked is not None:
                return self._asked
            reply, self._reply = self._reply, None
            step = self._steps.send(reply)
        if step == NEED_SOURCE:
            return None
        if isinstance(step, Pass):
            self._asked = step
        else:
            self._is_finished = isinstance(step, Finished)
        return step

    def answer(self, reply: Reply | Pass) -> None:
        """Give what a pass gave, or what is left of it to run."""
        if isinstance(reply, Pass):
            self._asked = reply
        else:
            self._asked, self._reply = None, reply

    def break_off(self) -> None:
        """Let nothing more be done here."""
        self._is_broken = True

    @contextmanager
    def _breaking_off(self) -> Iterator[None]:
        """After an error the loop and the cache may disagree, so nothing more is done with them."""
        if self._is_broken:
            raise SessionClosedError(
                "an error broke this session off, or it left its batch, and what it holds is no "
                "longer whole; begin a new SimulSession."
            )
        try:
            yield
        except BaseException:
            self._is_broken = True
            raise

    def _clock_ms(self) -> float:
        return (time.perf_counter() - self._began_s) * 1000

    def _add_words(self, words: Sequence[str]) -> None:
        if self._prompt is None:
            return
        for word in words:
            self._loop.add_segment(self._prompt.encode_word(word, self._n_words == 0), word)
            self._n_words += 1


def _date(given: Date | str | None) -> Date | None:
    if not isinstance(given, str):
        return given
    try:
        return Date.fromisoformat(given)
    except ValueError as error:
        raise InvalidOptionError(
            f"date must be a day as in '2026-07-30', got {given!r}: {error}."
        ) from error
