"""A run from its options to its checkpoint: data, model, legs, snapshots, validation."""

from __future__ import annotations

import json
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import date as Date
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import mlx.core as mx
import mlx.nn as nn

from mlx_simul.errors import InvalidOptionError
from mlx_simul.evaluation.corpus import group_by_source
from mlx_simul.evaluation.pairs import Pair, PairKeys, corpus_digest, read_pairs
from mlx_simul.evaluation.pictures import require_matplotlib
from mlx_simul.evaluation.quality import require_scorable
from mlx_simul.machine.files import expanded, write_whole
from mlx_simul.machine.folders import replacing_folder
from mlx_simul.machine.peers import Peers, checksum
from mlx_simul.training.batches import Batches
from mlx_simul.training.config import WHOLE, as_tables, make_options
from mlx_simul.training.layout import StreamingLayout
from mlx_simul.training.log import RunLog
from mlx_simul.training.options import TrainOptions
from mlx_simul.training.plot import draw_losses
from mlx_simul.training.prepare import prepare
from mlx_simul.training.quality import mean_loss, translation_quality
from mlx_simul.training.snapshot import read_state, write_state
from mlx_simul.training.trainer import StepReport, Trainer

Reporter: TypeAlias = Callable[[StepReport], None]

_FIXED = ("data", "corpus", "model", "layout", "batches", "augment")


def train(
    options: TrainOptions | Mapping[str, Any], group: mx.distributed.Group | None = None
) -> Path:
    """Train until the run's last step, going on with what its folder holds.

    Args:
        options: of the run, or their tables as a TOML file has them.
        group: the processes that share each batch; by default this one alone.

    Returns:
        The folder of the checkpoint, or of the adapters.

    Raises:
        InvalidOptionError: for an option outside its range, or a folder with another run.
        DataError: if the data cannot be used.
        ModelLoadError: if the checkpoint or the snapshot cannot be loaded.
        RanksError: if another process of the group has ended.
    """
    made = options if isinstance(options, TrainOptions) else make_options(options)
    run = Run(made, group=group)
    run.go()
    return run.latest


class Run:
    """One training run, in as many legs as it takes.

    Its folder holds ``latest/`` (the newest snapshot, which loads as a checkpoint), ``best/`` (the
    checkpoint with the lowest validation loss), ``log.jsonl`` and ``options.json``.

    Args:
        options: all of it; a run found in the folder is resumed, with any number of processes.
        report: called after each step, on rank 0.
        group: the processes that share each batch, by default this one alone. Rank 0 alone writes;
            all read the folder, so it has to be on a disk that they share.

    Raises:
        DataError: if the data cannot be used.
        ModelLoadError: if the checkpoint or the snapshot cannot be loaded.
        InvalidOptionError: if the folder holds a run with other options, or a rank began with
            another model, other data or another snapshot than rank 0.
        RanksError: if another process of the group has ended.
    """

    def __init__(
        self,
        options: TrainOptions,
        report: Reporter | None = None,
        group: mx.distributed.Group | None = None,
    ) -> None:
        self._peers = Peers(group)
        self.folder = expanded(options.run.folder)
        self.options = options = self._dated(options)
        self._report = report or (lambda step: None)
        if options.run.plot:
            require_matplotlib("train", "leave run.plot out")
        data = options.data
        pairs = list(self._pairs(data.train, data.train_split))
        corpus = corpus_digest(pairs)
        self._check_same_run(corpus)
        self._valid_pairs = list(
            islice(self._pairs(data.valid, data.valid_split), options.run.validate_pairs)
        )
        if options.run.bleu_sources and self._valid_pairs:
            items = group_by_source(self._valid_pairs)[: options.run.bleu_sources]
            require_scorable([item.references for item in items])
        state = read_state(self.latest)
        self._trainee = prepare(options, pairs, self.latest if state else None)
        self._layout = StreamingLayout(self._trainee.tokenizer, options.layout)
        batches = Batches(pairs, self._layout, options.layout, options.batches, options.augment)
        self.trainer = Trainer(
            self._trainee.model, batches, options.optimiser, options.batches.seed, self._peers
        )
        if state:
            self.trainer.state = state
        self._check_same_start(corpus)
        if self._peers.is_first:
            self._log = RunLog(self.folder / "log.jsonl", self.trainer.progress.step)

    @property
    def latest(self) -> Path:
        """The newest snapshot: a checkpoint folder, and what is needed to go on."""
        return self.folder / "latest"

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest validation loss, once there was a validation."""
        return self.folder / "best"

    def go(self) -> bool:
        """Train until the last step, the time limit, an interrupt, or the end of patience.

        Returns:
            Whether the run has come to its end; otherwise the same options go on with it.
        """
        options, trainer, peers = self.options.run, self.trainer, self._peers
        began_s = saved_s = time.monotonic()
        if trainer.progress.step == 0:
            self._validate()
        with _interruptible() as is_interrupted:
            for report in trainer.steps():
                if peers.is_first:
                    self._report(report)
                    self._log.note(report, trainer.progress, options.log_steps)
                if report.step % options.validate_steps == 0:
                    self._validate()
                now_s = time.monotonic()
                out_of_time = bool(options.minutes) and now_s - began_s > options.minutes * 60
                # One process alone may be told to end, and all end after the same step.
                is_over = any(peers.gather(is_interrupted() or out_of_time))
                if is_over or self._is_out_of_patience():
                    break
                if now_s - saved_s > options.snapshot_minutes * 60:
                    self.save()
                    saved_s = now_s
        self.save()
        peers.gather(None)  # until rank 0 has written, no other ends
        return trainer.progress.step >= self.options.optimiser.steps or self._is_out_of_patience()

    def save(self) -> None:
        """Write a snapshot in place of the last one, and the plot if it is wanted; on rank 0."""
        if not self._peers.is_first:
            return
        # Taken before the averaged weights stand in for the trained ones.
        state = self.trainer.state
        with replacing_folder(self.latest, force=True) as folder:
            self._write_checkpoint(folder)
            write_state(folder, state)
        if self.options.run.plot:
            draw_losses(self.folder / "log.jsonl", self.folder / "loss.png")

    def _write_checkpoint(self, folder: Path) -> None:
        with self._weights_to_use():
            self._trainee.write(folder)
        config = json.dumps(self._trainee.config, indent=2) + "\n"
        (folder / "config.json").write_text(config, "utf-8")

    def _validate(self) -> None:
        if not self._valid_pairs:
            return
        options = self.options
        progress = self.trainer.progress
        record: dict[str, Any] = {"step": progress.step}
        with self._weights_to_use() as model:
            record["valid_loss"] = losses = {
                _name(k): mean_loss(
                    model,
                    self._valid_pairs,
                    self._layout,
                    options.layout,
                    k,
                    options.batches.max_tokens,
                    self._peers,
                )
                for k in options.run.validate_wait_k
            }
            # A model that has learnt nothing rambles, and has nothing to show.
            is_trained = progress.step > 0 or options.model.path is not None
            if options.run.bleu_sources and is_trained:
                record["quality"] = {
                    _name(k): asdict(
                        translation_quality(
                            model,
                            self._trainee.tokenizer,
                            self._valid_pairs,
                            options.layout,
                            k,
                            options.run.bleu_sources,
                            self._peers,
                        )
                    )
                    for k in options.run.bleu_wait_k
                }
        if self._peers.is_first:
            self._log.write(record)
        mean = sum(losses.values()) / len(losses)
        is_best = progress.best_loss is None or mean < progress.best_loss
        self.trainer.progress = replace(
            progress,
            best_loss=mean if is_best else progress.best_loss,
            n_worse=0 if is_best else progress.n_worse + 1,
        )
        if is_best and self._peers.is_first:
            with replacing_folder(self.best, force=True) as folder:
                self._write_checkpoint(folder)

    def _is_out_of_patience(self) -> bool:
        patience = self.options.run.patience
        return bool(patience) and self.trainer.progress.n_worse >= patience

    @contextmanager
    def _weights_to_use(self) -> Iterator[nn.Module]:
        """The model in evaluation mode, with its averaged weights where there are any."""
        model = self._trainee.model
        trained = model.trainable_parameters()
        model.eval()
        model.update(self.trainer.average)
        try:
            yield model
        finally:
            model.update(trained)
            model.train()

    def _pairs(self, name: str | None, split: str) -> Iterator[Pair]:
        if name is None:
            return iter(())
        data = self.options.data
        return read_pairs(name, PairKeys(data.source_key, data.target_key), split)

    def _dated(self, options: TrainOptions) -> TrainOptions:
        """The options with the date of the run's first leg, where none is given."""
        if options.layout.date is not None:
            return options
        path, date = self.folder / "options.json", Date.today().isoformat()
        if self.latest.is_dir() and path.is_file():
            # A run that is older than this option has none.
            date = _read_options(path)["layout"].get("date")
        # It may be midnight between two ranks.
        date = self._peers.gather(date)[0]
        return replace(options, layout=replace(options.layout, date=date))

    def _check_same_run(self, corpus: str) -> None:
        """A snapshot goes on only with the data and the layout that it began with."""
        tables = as_tables(self.options) | {"corpus": corpus}
        path = self.folder / "options.json"
        if self.latest.is_dir() and path.is_file():
            begun = _read_options(path)
            for name in _FIXED:
                if begun.get(name, tables[name]) != tables[name]:
                    raise InvalidOptionError(
                        f"{self.folder} holds a run with another {name} ({begun[name]!r}); give "
                        "the same one to go on with it, or another run.folder to begin a new one."
                    )
        if self._peers.is_first:
            write_whole(path, json.dumps(tables, indent=2) + "\n")

    def _check_same_start(self, corpus: str) -> None:
        """All ranks begin with the same data, tokenizer, weights and place in the run."""
        if self._peers.size == 1:
            return
        state = self.trainer.state
        vocabulary = sorted(self._trainee.tokenizer.get_vocab().items())
        self._peers.require_same(
            {
                "set of options": as_tables(self.options),
                "corpus": corpus,
                "tokenizer": zlib.crc32(json.dumps(vocabulary).encode()),
                "snapshot": state.progress.step,
                "model": checksum(self._trainee.model.parameters()),
                "optimiser": checksum([state.optimiser, state.average]),
            }
        )


def _read_options(path: Path) -> dict[str, Any]:
    """The options of a run; those that are newer than it have their defaults."""
    try:
        tables = json.loads(path.read_text("utf-8"))
        corpus = {"corpus": tables.pop("corpus")} if "corpus" in tables else {}
        return as_tables(make_options(tables)) | corpus
    except (ValueError, AttributeError) as error:
        raise InvalidOptionError(
            f"{path} is damaged: {error}. Remove it if the run beside it is the one you mean."
        ) from error


def _name(wait_k: int | None) -> str:
    return WHOLE if wait_k is None else str(wait_k)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C or a TERM signal end a run between two steps; the second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    seen: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, _frame: object) -> None:
        seen.append(number)
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, note)
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
