"""An evaluation from its options to its figures."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from typing import Any, TypeAlias

import mlx.core as mx

from mlx_simul.checkpoints.loading import DEFAULT_MODEL, find_folder, load
from mlx_simul.errors import InvalidOptionError, SimulError
from mlx_simul.evaluation.corpus import Item, corpus_digest, read_corpus
from mlx_simul.evaluation.figures import policy_figures
from mlx_simul.evaluation.folder import ResultFolder, files_digest
from mlx_simul.evaluation.logs import write_logs
from mlx_simul.evaluation.options import AUTO, EvaluationOptions
from mlx_simul.evaluation.pairs import PairKeys
from mlx_simul.evaluation.pictures import require_matplotlib
from mlx_simul.evaluation.plot import draw_curve
from mlx_simul.evaluation.quality import (
    paired_bootstrap,
    require_scorable,
    require_tokenizer,
    text_quality,
)
from mlx_simul.evaluation.record import Record
from mlx_simul.evaluation.translate import Translator
from mlx_simul.machine.blas import describe
from mlx_simul.machine.files import expanded, write_whole
from mlx_simul.options import SessionOptions
from mlx_simul.policies import parse_policy

RESULTS = "evaluation.json"
"""The figures, in the folder of an evaluation."""

Task: TypeAlias = tuple[str, int, str]
"""A policy, the index of a source, and its text."""
Progress: TypeAlias = Callable[[str, int, int], None]
"""Told the policy, translations that are there, and those there will be."""


def evaluate(
    options: EvaluationOptions | Mapping[str, Any], report: Progress | None = None
) -> dict[str, Any]:
    """Translate a test set under some policies, and score what comes out.

    The options' folder gets a line for each translation as soon as it is there, so that an
    evaluation that was stopped goes on; then figures, plots, and logs for SimulEval and OmniSTEval.

    Args:
        options: of the evaluation, or a mapping of them.
        report: called after each translation.

    Returns:
        What ``evaluation.json`` holds: ``docs/evaluation.md`` says what that is.

    Raises:
        InvalidOptionError: for an option outside its range, a folder with another evaluation, or a
            package that is not installed.
        DataError: if the test set or a record cannot be used.
        ModelLoadError: if the model cannot be loaded.
        SimulError: if a process that shares the work is killed.
    """
    if not isinstance(options, EvaluationOptions):
        options = _options_from(options)
    if "policy" in options.session:
        raise InvalidOptionError(
            f"the policy {options.session['policy']!r} is among the session's options; name it "
            "among the policies to evaluate."
        )
    SessionOptions.from_plain(options.session)  # refuses what is not known
    if options.adapter is not None and not expanded(options.adapter).is_dir():
        raise InvalidOptionError(
            f"there is no folder {options.adapter}; the adapter is the one that holds "
            "adapters.safetensors and adapter_config.json."
        )
    if options.quality:
        require_tokenizer("13a" if options.bleu_tokenizer == AUTO else options.bleu_tokenizer)
    if options.plot:
        require_matplotlib("eval", "leave the plot out (--no-plot)")
    keys = PairKeys(options.source_key, options.target_key)
    items = read_corpus(options.corpus, options.references, keys, options.split, options.n_sources)
    options = options.suited_to([text for item in items for text in item.references])
    date = options.session.get("date")
    folder = ResultFolder(expanded(options.folder), _setting(options, items), date and str(date))
    options = replace(options, session={**options.session, "date": folder.date})
    folder.require_distinct(options.policies)
    if options.quality:
        require_scorable([item.references for item in items], options.bleu_tokenizer)
    _translate(options, items, folder, report or (lambda *_: None))
    records = {spec: _in_order(folder, spec, len(items)) for spec in options.policies}
    results = summary(options, items, records)
    for spec in options.policies:
        write_logs(folder.of_policy(spec), items, records[spec], options.word_ms)
    write_whole(folder.path / RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    if options.plot:
        draw_curve(results, folder.path / "quality-latency")
    return results


def summary(
    options: EvaluationOptions, items: Sequence[Item], records: Mapping[str, Sequence[Record]]
) -> dict[str, Any]:
    """The figures of all policies, from their records.

    Args:
        options: of the evaluation.
        items: the test set.
        records: for each policy, of all sources in their order.
    """
    figures: dict[str, dict[str, Any]] = {
        spec: policy_figures(items, held, options.known_unit, options.word_ms)
        for spec, held in records.items()
    }
    signatures: dict[str, str] = {}
    if options.quality:
        references = [item.references for item in items]
        texts = {spec: [each.prediction for each in held] for spec, held in records.items()}
        for spec, hypotheses in texts.items():
            scores = text_quality(hypotheses, references, options.bleu_tokenizer)
            figures[spec] |= {
                "bleu": {"score": scores.bleu},
                "chrf": {"score": scores.chrf},
                "length_ratio": scores.length_ratio,
            }
        if options.n_bootstrap:
            found, signatures = paired_bootstrap(
                texts,
                options.baseline_policy,
                references,
                options.bleu_tokenizer,
                options.n_bootstrap,
            )
            for spec, by_metric in found.items():
                figures[spec] |= {metric: asdict(each) for metric, each in by_metric.items()}
    return {
        "model": _shown(options.model or str(DEFAULT_MODEL)),
        "corpus": {
            "name": _shown(options.corpus),
            "n_sources": len(items),
            "n_references": sum(len(item.references) for item in items),
            "source_words": sum(held.source_words for held in next(iter(records.values()))),
        },
        "options": {
            "model": options.model and _shown(options.model),
            "adapter": options.adapter and _shown(options.adapter),
            "allow_unverified": options.allow_unverified,
            "corpus": _shown(options.corpus),
            "references": [_shown(each) for each in options.references],
            "source_key": options.source_key,
            "target_key": options.target_key,
            "split": options.split,
            "n_bootstrap": options.n_bootstrap,
            "unit": options.known_unit,
            "word_ms": options.word_ms,
            "clock": options.clock,
            "bleu_tokenizer": options.bleu_tokenizer,
            "baseline": options.baseline_policy,
            "n_sources": options.n_sources,
            "session": dict(options.session),
        },
        "signatures": signatures,
        "made_with": _made_with(options),
        "policies": figures,
    }


def _options_from(table: Mapping[str, Any]) -> EvaluationOptions:
    lists: dict[str, Any] = dict(table)
    for name, value in lists.items():
        lists[name] = tuple(value) if isinstance(value, list) else value
    try:
        return EvaluationOptions(**lists)
    except TypeError as error:
        raise InvalidOptionError(f"not the options of an evaluation: {error}.") from error


def _shown(path_or_id: str) -> str:
    """A file by its name alone: others have it elsewhere. An id of the hub is all of it."""
    path = expanded(path_or_id)
    name = path.absolute().name if path.exists() else path_or_id
    # A name in another encoding than UTF-8 is shown with escapes, as JSON cannot say it.
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _setting(options: EvaluationOptions, items: Sequence[Item]) -> dict[str, Any]:
    """All that decides what a translation is, its policy excepted."""
    adapter = options.adapter and files_digest(expanded(options.adapter))
    return {
        "model": files_digest(find_folder(options.model or DEFAULT_MODEL)),
        "adapter": adapter,
        "test set": corpus_digest(items),
        "unit": options.known_unit,
        "clock": options.clock,
        "session options": {k: v for k, v in options.session.items() if k != "date"},
    }


def _made_with(options: EvaluationOptions) -> dict[str, Any]:
    names = ("mlx", "mlx-lm", "mlx-simul", *(("sacrebleu",) if options.quality else ()))
    return {
        **{name: version(name) for name in names},
        "device": str(mx.default_device()),
        "blas": describe(),
        "processes": options.processes,
    }


def _in_order(folder: ResultFolder, spec: str, n_sources: int) -> list[Record]:
    held = folder.records(spec)
    return [held[index] for index in range(n_sources)]


def _translate(
    options: EvaluationOptions, items: Sequence[Item], folder: ResultFolder, report: Progress
) -> None:
    """Add the records that are missing."""
    tasks: list[Task] = []
    for spec in options.policies:
        held = folder.records(spec)
        missing = (index for index in range(len(items)) if index not in held)
        tasks += [(spec, index, items[index].source) for index in missing]
    n_all = len(items) * len(options.policies)
    n_done = n_all - len(tasks)
    if not tasks:
        return
    run = _in_this_process if options.processes == 1 else _in_processes
    for spec, record in run(options, tasks):
        folder.append(spec, record)
        n_done += 1
        report(spec, n_done, n_all)


def _translator(options: EvaluationOptions) -> Translator:
    model, tokenizer = load(
        options.model,
        adapter_path=options.adapter,
        allow_unverified=options.allow_unverified,
    )
    session: Any = dict(options.session)
    return Translator(model, tokenizer, session, options.known_unit, options.clock)


def _in_this_process(
    options: EvaluationOptions, tasks: Iterable[Task]
) -> Iterator[tuple[str, Record]]:
    translate = _translator(options)
    for spec, index, source in tasks:
        yield spec, translate(index, source, parse_policy(spec))


def _in_processes(
    options: EvaluationOptions, tasks: Iterable[Task]
) -> Iterator[tuple[str, Record]]:
    # Never forked: a child must not inherit threads and devices of MLX.
    context = multiprocessing.get_context("spawn")
    lifeline, held = context.Pipe(duplex=False)
    with _threads_shared_by(options.processes):
        pool = ProcessPoolExecutor(options.processes, context, _begin_worker, (lifeline,))
        try:
            for done in as_completed([pool.submit(_work, options, task) for task in tasks]):
                yield done.result()
        except BrokenProcessPool as error:
            raise SimulError(
                "a process that shared the work was killed, for want of memory perhaps. What it "
                "translated is kept: give the same command again, with fewer --processes."
            ) from error
        finally:
            held.close()
            pool.shutdown(cancel_futures=True)
            lifeline.close()


def _begin_worker(lifeline: Connection) -> None:
    """Let this process end when the one that began it lets go of its pipe, or ends in any way."""
    # Ctrl-C reaches the whole group; whoever began the workers ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_it() -> None:
        wait([lifeline])
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


# A worker's own, from its first task to its last.
_worker: list[Translator] = []


def _work(options: EvaluationOptions, task: Task) -> tuple[str, Record]:
    # Not before the first task: what a task raises is told, while a worker that does not start only
    # breaks the pool.
    if not _worker:
        _worker.append(_translator(options))
    spec, index, source = task
    return spec, _worker[0](index, source, parse_policy(spec))


@contextmanager
def _threads_shared_by(n_processes: int) -> Iterator[None]:
    """Processes begun here share the cores, unless the user has said how many threads to take."""
    names = [n for n in ("MKL_NUM_THREADS", "OMP_NUM_THREADS") if n not in os.environ]
    n_threads = max(1, (os.cpu_count() or 1) // n_processes)
    os.environ.update(dict.fromkeys(names, str(n_threads)))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]
