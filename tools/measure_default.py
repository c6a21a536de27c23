"""How good a packed model is: its translations of a test set, through real sessions, judged."""

from __future__ import annotations

import random
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import mlx.core as mx
import sacrebleu
from mlx_lm.generate import generate_step

from mlx_simul.checkpoints.loading import load
from mlx_simul.evaluation.corpus import Item
from mlx_simul.evaluation.latency import latency, mean_latency
from mlx_simul.evaluation.quality import text_quality
from mlx_simul.evaluation.talk_record import Display, TalkRecord
from mlx_simul.evaluation.talk_sentences import realigned_talk
from mlx_simul.evaluation.talks import talk_at_pace
from mlx_simul.evaluation.units import reference_length, target_units
from mlx_simul.events import Finished, Write
from mlx_simul.machine.blas import describe
from mlx_simul.policies import WHOLE
from mlx_simul.serving.sessions import Sessions
from mlx_simul.session import SimulSession
from mlx_simul.text.prompts import StreamingDataPreparator
from mlx_simul.training.augment import caption, with_disfluencies, without_punctuation
from mlx_simul.training.options import AugmentOptions

POLICIES = ("wait-k:1", "wait-k:3", "wait-k:5", WHOLE, "confidence:0.5")
MAIN_POLICY = "wait-k:3"
"""What is tried in one way only is tried with this policy."""

HISTORY_PAIRS = (1, 3)
PASSAGE_SENTENCES = (2, 4, 8)
TALK_SENTENCES = 50
TALK_POLICIES = ("wait-k:3", "confidence:0.5")
N_BEAMS = 4
BEAMS = f"clean, {N_BEAMS} beams"
N_TOGETHER = 128

Pairs: TypeAlias = Sequence[tuple[str, str]]
Scores: TypeAlias = dict[str, Any]
Grid: TypeAlias = Iterator[tuple[str, str, Callable[[], Scores]]]


def disfluent(text: str) -> str:
    """A sentence with fillers and repeated words, the same ones each time."""
    return with_disfluencies(text, AugmentOptions().fillers, random.Random(text))


LOOKS: Mapping[str, Callable[[str], str]] = {
    "clean": str,
    "captions": caption,
    "lower case": str.lower,
    "no punctuation": without_punctuation,
    "disfluent": disfluent,
    "disfluent captions": lambda text: caption(disfluent(text)),
}
"""What becomes of a test sentence."""

MAIN_LOOKS = ("clean", "captions")


def measure(
    packed: Path,
    unpacked: Path,
    items: Sequence[Item],
    quality: dict[str, dict[str, Scores]],
    report: Callable[[str, int, int], None],
) -> None:
    """Measure what is not in a record yet.

    Args:
        packed: the folder of the packed model.
        unpacked: the checkpoint that it was packed from.
        items: the test set.
        quality: for each group, the scores by name; what is missing is added.
        report: called before each measurement with its name, and how many of all are done; and
            once more when all are.
    """
    todo = conditions(packed, unpacked, items)
    for n_done, (group, name, scores) in enumerate(todo):
        report(f"{group}, {name}", n_done, len(todo))
        held = quality.setdefault(group, {})
        if name not in held:
            began_s = time.monotonic()
            # That a session leaves out the history it is given is one of the things to measure.
            with warnings.catch_warnings(action="ignore"):
                held[name] = scores() | {"seconds": round(time.monotonic() - began_s)}
    report("done", len(todo), len(todo))


def conditions(
    packed: Path, unpacked: Path, items: Sequence[Item]
) -> list[tuple[str, str, Callable[[], Scores]]]:
    """All that is measured, by group and name; what says most comes first."""
    model, tokenizer = load(packed, dequantize=True)
    ours, before = Translator(model, tokenizer), Translator(*load(unpacked))
    searching = Translator(model, tokenizer, N_BEAMS)
    seen = {look: [replace(i, source=f(i.source)) for i in items] for look, f in LOOKS.items()}

    def looks(names: Iterable[str], policies: Iterable[str]) -> Grid:
        for policy, look in product(policies, names):
            yield look, policy, partial(ours.scores, seen[look], policy)

    def history(group: str, are_shown: bool) -> Grid:
        for n in HISTORY_PAIRS:
            yield group, str(n), partial(ours.scores, items, MAIN_POLICY, n, are_shown)

    def others() -> Grid:
        for look in MAIN_LOOKS:
            yield "before packing", look, partial(before.scores, seen[look], MAIN_POLICY)
        yield from history("history given", False)
        for policy in TALK_POLICIES:
            yield "talks", policy, partial(ours.talk_scores, items, policy)
        yield from history("history shown", True)

    def more() -> Grid:
        for policy in POLICIES:
            yield BEAMS, policy, partial(searching.scores, items, policy)
        for n in PASSAGE_SENTENCES:
            if n <= len(items):
                yield "passages", str(n), partial(ours.scores, passages(items, n), MAIN_POLICY)
        yield "plain mlx-lm", "clean", partial(plain, model, tokenizer, items)

    rest = [look for look in LOOKS if look not in MAIN_LOOKS]
    by_use = sorted(POLICIES, key=lambda policy: policy != MAIN_POLICY)
    return [*looks(MAIN_LOOKS, POLICIES), *others(), *looks(rest, by_use), *more()]


def conditions_of_all(items: Sequence[Item]) -> dict[str, Any]:
    """What all measurements have in common."""
    return {
        "n_sources": len(items),
        "n_references": sum(len(item.references) for item in items),
        "versions": {name: version(name) for name in ("mlx-simul", "mlx", "mlx-lm", "sacrebleu")},
        "device": f"{mx.default_device()}, {describe()}",
        "signatures": signatures(items),
    }


def passages(items: Sequence[Item], n_sentences: int) -> list[Item]:
    """Sentences of a test set put together, in its order, with the first reference of each."""
    groups = zip(*[iter(items)] * n_sentences, strict=False)
    return [
        Item(
            " ".join(item.source for item in group),
            (" ".join(item.references[0] for item in group),),
        )
        for group in groups
    ]


@dataclass(frozen=True)
class Turn:
    """A source's translation.

    Attributes:
        text: the translation.
        delays: for each word, the source words read when it was written.
        source_words: words of the source.
        ended: whether the model ended it by itself.
    """

    text: str
    delays: tuple[int, ...]
    source_words: int
    ended: bool


class Translator:
    """Translates a test set, many sources at a time, each in a session of its own.

    Args:
        model: as it is loaded.
        tokenizer: of the model.
        num_beams: that sessions search with.
    """

    def __init__(self, model: Any, tokenizer: Any, num_beams: int = 1) -> None:
        self._model, self._tokenizer, self._num_beams = model, tokenizer, num_beams
        self._prompt = StreamingDataPreparator(tokenizer)
        self._alone: dict[tuple[str, tuple[Item, ...]], list[Turn]] = {}

    def scores(
        self, items: Sequence[Item], policy: str, n_pairs: int = 0, are_shown: bool = False
    ) -> Scores:
        """Quality and latency under one policy, and how translations end.

        Args:
            items: the test set.
            policy: by name and options.
            n_pairs: the sentences before, each with its translation, that a session is given.
            are_shown: whether the model is shown them even if a session would leave them out.
        """
        turns = self._translated_alone(items, policy)
        if n_pairs:
            finished = [(item.source, turn.text) for item, turn in zip(items, turns, strict=True)]
            pairs = [finished[max(0, i - n_pairs) : i] for i in range(len(items))]
            turns = self._translate(items, policy, pairs, are_shown)
        lags = mean_latency(
            latency(turn.delays, turn.source_words, reference_length(item.references[0], "word"))
            for turn, item in zip(turns, items, strict=True)
        )
        n_short = sum(
            len(turn.text.split()) <= 2 * len(item.source.split())
            for turn, item in zip(turns, items, strict=True)
        )
        return {
            **_quality(items, [turn.text for turn in turns]),
            "laal": lags and round(lags.laal, 2),
            "ended": sum(turn.ended for turn in turns) / len(items),
            "within_twice_the_source": n_short / len(items),
        }

    def talk_scores(self, items: Sequence[Item], policy: str) -> Scores:
        """Quality of the same sentences as talks, each of which is one session."""
        starts = range(0, len(items), TALK_SENTENCES)
        talks = [talk_at_pace(items[start : start + TALK_SENTENCES]) for start in starts]
        batch = Sessions(self._model, self._tokenizer, policy=policy)
        displays: dict[SimulSession, Display] = {}
        for talk in talks:
            session = batch.add()
            session.push(talk.source)
            session.close()
            displays[session] = Display()
        for session, event in batch.events():
            displays[session].see(event, 0.0)
        texts: list[str] = []
        for talk, display in zip(talks, displays.values(), strict=True):
            record = TalkRecord(0, talk, tuple(display.shown), (0.0,) * len(talk.said_ms))
            texts += [each.prediction for each in realigned_talk(record, "word").sentences]
        ends = [end.reason == "end_of_turn" for shown in displays.values() for end in shown.ends]
        return {**_quality(items, texts), "ended": sum(ends) / len(ends)}

    def _translated_alone(self, items: Sequence[Item], policy: str) -> list[Turn]:
        """Without history; once, for all that builds on it."""
        key = policy, tuple(items)
        if key not in self._alone:
            self._alone[key] = self._translate(items, policy, [()] * len(items), False)
        return self._alone[key]

    def _translate(
        self, items: Sequence[Item], policy: str, pairs: Sequence[Pairs], are_shown: bool
    ) -> list[Turn]:
        turns: list[Turn] = []
        for start in range(0, len(items), N_TOGETHER):
            some = slice(start, start + N_TOGETHER)
            turns += self._together(items[some], policy, pairs[some], are_shown)
        return turns

    def _together(
        self, items: Sequence[Item], policy: str, pairs: Sequence[Pairs], are_shown: bool
    ) -> list[Turn]:
        batch = Sessions(
            self._model,
            self._tokenizer,
            policy=policy,
            turns=None,
            num_beams=self._num_beams,
        )
        sessions: list[SimulSession] = []
        for item, before in zip(items, pairs, strict=True):
            limit = 64 + 8 * len(item.source.split())
            if are_shown:
                source = self._prompt.behind(before).tokenize(item.source)
                sessions.append(batch.add(source=source, max_tokens=limit))
            else:
                session = batch.add(pairs=tuple(before), max_tokens=limit)
                session.push(item.source)
                session.close()
                sessions.append(session)
        pieces: dict[SimulSession, list[tuple[str, int, float]]] = defaultdict(list)
        ends: dict[SimulSession, Finished] = {}
        for session, event in batch.events():
            if isinstance(event, Write):
                pieces[session].append((event.text, event.source_words_read, 0.0))
            elif isinstance(event, Finished):
                ends[session] = event
        return [
            Turn(
                " ".join(ends[session].target_text.split()),
                target_units(pieces[session], "word").delays,
                ends[session].source_words,
                ends[session].reason == "end_of_turn",
            )
            for session in sessions
        ]


def plain(model: Any, tokenizer: Any, items: Sequence[Item]) -> dict[str, Any]:
    """The same weights as an ordinary language model: mlx-lm's generation, positions in a row."""
    texts, n_ended = [], 0
    for item in items:
        turn = [{"role": "user", "content": item.source}]
        prompt = mx.array(tokenizer.apply_chat_template(turn, add_generation_prompt=True))
        ids = list(_until_end(prompt, model, tokenizer, 64 + 8 * len(item.source.split())))
        n_ended += bool(ids) and ids[-1] in tokenizer.eos_token_ids
        texts.append(tokenizer.decode([i for i in ids if i not in tokenizer.eos_token_ids]))
    return {**_quality(items, texts), "ended": n_ended / len(items)}


def signatures(items: Sequence[Item]) -> dict[str, str]:
    """sacrebleu's, of both metrics."""
    n_most = max(len(item.references) for item in items)
    streams = [[*item.references, *[None] * (n_most - len(item.references))] for item in items]
    metrics = {"bleu": sacrebleu.BLEU(), "chrf": sacrebleu.CHRF()}
    for metric in metrics.values():
        metric.corpus_score(["" for _ in items], list(zip(*streams, strict=True)))  # pyright: ignore
    return {name: str(metric.get_signature()) for name, metric in metrics.items()}


def _until_end(prompt: mx.array, model: Any, tokenizer: Any, max_tokens: int) -> Iterable[int]:
    for token, _ in generate_step(prompt, model, max_tokens=max_tokens):
        yield int(token)
        if int(token) in tokenizer.eos_token_ids:
            return


def _quality(items: Sequence[Item], texts: Sequence[str]) -> dict[str, float]:
    scores = text_quality(texts, [item.references for item in items])
    return {name: round(value, 3) for name, value in asdict(scores).items()}
