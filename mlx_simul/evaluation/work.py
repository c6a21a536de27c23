"""The translations that an evaluation lacks, made in this process or shared among several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, TypeAlias

from mlx_simul.checkpoints.loading import load
from mlx_simul.errors import SimulError
from mlx_simul.evaluation.folder import ResultFolder
from mlx_simul.evaluation.options import EvaluationOptions
from mlx_simul.evaluation.talk_translate import TalkTranslator
from mlx_simul.evaluation.translate import Player, Translator
from mlx_simul.machine.peers import Peers
from mlx_simul.options import SessionOptions
from mlx_simul.policies import Policy, parse_policy

Task: TypeAlias = tuple[str, int, Any]
"""A policy, the index of a source, and the source: a text or a talk."""
Progress: TypeAlias = Callable[[str, int, int], None]
"""Is told the policy, how many translations there are, and how many there will be."""
Translate: TypeAlias = Callable[[int, Any, Policy], Any]
"""Makes a record from an index, a source and a policy."""


def translate_missing(
    options: EvaluationOptions,
    sources: Sequence[Any],
    folder: ResultFolder,
    report: Progress,
    peers: Peers,
) -> None:
    """Add the records that a folder lacks, each as soon as it is made.

    Ranks share the sources, and in the end the folder of rank 0 holds the records of all.

    Args:
        options: of the evaluation, whose unit is chosen.
        sources: texts or talks, all of them.
        folder: to add them to.
        report: called after each of rank 0; told of the share of rank 0.
        peers: processes that share the work.
    """
    tasks: list[Task] = []
    for spec in options.policies:
        # A rank with a disk of its own sees only its own records.
        held = set[int]().union(*peers.gather(list(folder.records(spec))))
        missing = (index for index in range(len(sources)) if index not in held)
        tasks += [(spec, index, sources[index]) for index in missing]
    n_done = len(sources) * len(options.policies) - len(tasks)
    if mine := peers.share(tasks):
        n_all = n_done + len(mine)
        run = _in_this_process if options.processes == 1 else _in_processes
        for spec, record in run(options, mine):
            folder.append(spec, record)
            n_done += 1
            if peers.is_first:
                report(spec, n_done, n_all)
    _bring_together(options.policies, len(sources), folder, peers)


def _bring_together(
    specs: Iterable[str], n_sources: int, folder: ResultFolder, peers: Peers
) -> None:
    """Once all ranks are done, give rank 0 what its folder lacks, and one file for each policy."""
    peers.gather(None)
    for spec in specs:
        held = folder.records(spec)
        wanted, *_ = peers.gather([index for index in range(n_sources) if index not in held])
        given = peers.gather([held[index].to_json() for index in wanted if index in held])
        if peers.is_first:
            folder.join(spec, [line for lines in given for line in lines])


def _translator(options: EvaluationOptions) -> Translate:
    """Load the model, for records of an index, a source and a policy."""
    loaded = load(
        options.model,
        adapter_path=options.adapter,
        allow_unverified=options.allow_unverified,
    )
    player = Player(*loaded, SessionOptions.from_plain(options.session), options.clock)
    return TalkTranslator(player) if options.has_talks else Translator(player, options.known_unit)


def _in_this_process(
    options: EvaluationOptions, tasks: Iterable[Task]
) -> Iterator[tuple[str, Any]]:
    translate = _translator(options)
    for spec, index, source in tasks:
        yield spec, translate(index, source, parse_policy(spec))


def _in_processes(options: EvaluationOptions, tasks: Iterable[Task]) -> Iterator[tuple[str, Any]]:
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
                "a process that shared the work was killed, perhaps for lack of memory. What it "
                "translated is kept: give the same command again, with fewer --processes."
            ) from error
        finally:
            held.close()
            pool.shutdown(cancel_futures=True)
            lifeline.close()


def _begin_worker(lifeline: Connection) -> None:
    """Let this process end when the one that began it lets go of its pipe, or ends in any way."""
    # Ctrl-C reaches the whole group; the process that began the workers ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_it() -> None:
        wait([lifeline])
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


# A worker's own, from its first task to its last.
_worker: list[Translate] = []


def _work(options: EvaluationOptions, task: Task) -> tuple[str, Any]:
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
