"""An evaluation of talks from its options to its figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlx_simul.evaluation.conditions import (
    described,
    made_with,
    model_name,
    opened,
    shown,
)
from mlx_simul.evaluation.options import EvaluationOptions
from mlx_simul.evaluation.pairs import PairKeys
from mlx_simul.evaluation.plot import draw_lagging
from mlx_simul.evaluation.quality import quality_figures
from mlx_simul.evaluation.talk_figures import talk_figures
from mlx_simul.evaluation.talk_logs import write_talk_logs
from mlx_simul.evaluation.talk_record import TalkRecord
from mlx_simul.evaluation.talk_sentences import RealignedTalk, realigned_talk
from mlx_simul.evaluation.talks import Talk, read_talks
from mlx_simul.evaluation.work import Progress, translate_missing
from mlx_simul.machine.files import write_whole
from mlx_simul.machine.peers import Peers

TALK_RESULTS = "talks.json"
"""The figures of talks, in the folder of an evaluation."""


def evaluate_talks(
    options: EvaluationOptions, report: Progress, peers: Peers
) -> dict[str, Any] | None:
    """Translate talks under some policies, each in one session, and score what comes out.

    The options' folder gets a line for each talk as soon as it has ended, so that an evaluation
    that was stopped goes on with the talks that are missing. A talk said at another pace or at
    other times needs no new translation.

    Args:
        options: of the evaluation, checked.
        report: called after each talk of rank 0.
        peers: processes that share the talks.

    Returns:
        What ``talks.json`` holds: ``docs/talks.md`` says what that is; None on other ranks than 0.

    Raises:
        As :func:`mlx_simul.evaluation.run.evaluate`.
    """
    keys = PairKeys(options.source_key, options.target_key)
    talks = read_talks(
        options.corpus,
        options.references,
        keys,
        options.split,
        options.sentences_per_talk,
        options.word_ms,
    )[: options.n_sources]
    references = [sentence.references for talk in talks for sentence in talk.sentences]
    options, folder = opened(options, references, talks_digest(talks), TalkRecord, peers)
    translate_missing(options, talks, folder, report, peers)
    if not peers.is_first:
        return None
    records: dict[str, list[TalkRecord]] = {}
    for spec in options.policies:
        held = folder.in_order(spec, len(talks))
        records[spec] = [replace(each, talk=talks[each.index]) for each in held]
        write_talk_logs(folder.of_policy(spec), records[spec], options.known_unit)
    realigned = {
        spec: [realigned_talk(record, options.known_unit) for record in held]
        for spec, held in records.items()
    }
    results = talk_summary(options, folder.setting["model"], realigned)
    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    write_whole(folder.path / TALK_RESULTS, text)
    if options.plot:
        # The longest talk says most about drift.
        longest = max(range(len(talks)), key=lambda index: talks[index].said_ms[-1])
        draw_lagging(
            {spec: held[longest] for spec, held in realigned.items()}, folder.path / "lagging"
        )
    return results


def talk_summary(
    options: EvaluationOptions, model_sha256: str, talks: Mapping[str, Sequence[RealignedTalk]]
) -> dict[str, Any]:
    """The figures of all policies, from their realigned talks.

    Args:
        options: of the evaluation.
        model_sha256: of the model's files.
        talks: for each policy, all talks in their order.
    """
    texts: dict[str, list[str]] = {}
    references: list[tuple[str, ...]] = []
    for spec, held in talks.items():
        sentences = [sentence for talk in held for sentence in talk.sentences]
        texts[spec] = [sentence.prediction for sentence in sentences]
        references = [sentence.references for sentence in sentences]
    quality, signatures = quality_figures(options, texts, references)
    spoken = [talk.record.talk for talk in next(iter(talks.values()))]
    return {
        "model": model_name(options),
        "model_sha256": model_sha256,
        "corpus": {
            "name": shown(options.corpus),
            "n_talks": len(spoken),
            "n_sentences": len(references),
            "n_references": sum(map(len, references)),
            "source_words": sum(len(talk.said_ms) for talk in spoken),
            "minutes": sum(talk.said_ms[-1] for talk in spoken) / 60_000,
        },
        "options": described(options),
        "signatures": signatures,
        "made_with": made_with(options),
        "policies": {spec: talk_figures(held) | quality[spec] for spec, held in talks.items()},
    }


def talks_digest(talks: Iterable[Talk]) -> str:
    """SHA-256 of what is said in some talks, and of its translations; not of when it is said."""
    said = [[[s.source, *s.references] for s in talk.sentences] for talk in talks]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()
