"""What an evaluation is made under: its options checked, its folder, and how results name both."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import mlx.core as mx

from mlx_simul.checkpoints.loading import DEFAULT_MODEL, find_folder
from mlx_simul.errors import InvalidOptionError
from mlx_simul.evaluation.folder import AnyRecord, ResultFolder, files_digest
from mlx_simul.evaluation.options import AUTO, EvaluationOptions
from mlx_simul.evaluation.pictures import require_matplotlib
from mlx_simul.evaluation.quality import require_scorable, require_tokenizer
from mlx_simul.machine.blas import describe
from mlx_simul.machine.files import expanded
from mlx_simul.machine.peers import Peers
from mlx_simul.options import SessionOptions


def checked(options: EvaluationOptions | Mapping[str, Any]) -> EvaluationOptions:
    """Options of an evaluation, once all that can be known about them before it begins is known.

    Raises:
        InvalidOptionError: for an option outside its range, or a package that is not installed.
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
    return options


def opened(
    options: EvaluationOptions,
    references: Sequence[Sequence[str]],
    digest: str,
    kind: type[AnyRecord],
    peers: Peers,
) -> tuple[EvaluationOptions, ResultFolder[AnyRecord]]:
    """Open the folder of an evaluation.

    Args:
        options: checked.
        references: of all sentences.
        digest: of the test set.
        kind: the records that it holds.
        peers: processes that share the work.

    Returns:
        The options, with the unit and the tokenizer that suit the references and the folder's date;
        and the folder.

    Raises:
        InvalidOptionError: for a folder with another evaluation, policies that would share
            files, or a rank with another model or test set than rank 0.
        DataError: if BLEU finds nothing in the references.
    """
    options = options.suited_to([text for each in references for text in each])
    date = options.session.get("date")
    setting = _setting(options, digest)
    peers.require_same({**setting, "list of policies": list(options.policies)})
    path = expanded(options.folder)
    folder = None
    if peers.is_first:
        folder = ResultFolder(path, setting, kind, date and str(date))
    (date, *_) = peers.gather(folder and folder.date)
    folder = folder or ResultFolder(path, setting, kind, date, peers.rank)
    folder.require_distinct(options.policies)
    if options.quality:
        require_scorable(references, options.bleu_tokenizer)
    return replace(options, session={**options.session, "date": folder.date}), folder


def described(options: EvaluationOptions) -> dict[str, Any]:
    """What results say of the options that they were made with."""
    return {
        "model": options.model and shown(options.model),
        "adapter": options.adapter and shown(options.adapter),
        "allow_unverified": options.allow_unverified,
        "corpus": shown(options.corpus),
        "references": [shown(each) for each in options.references],
        "source_key": options.source_key,
        "target_key": options.target_key,
        "split": options.split,
        "talks": options.talks,
        "sentences_per_talk": options.sentences_per_talk,
        "n_bootstrap": options.n_bootstrap,
        "unit": options.known_unit,
        "word_ms": options.word_ms,
        "clock": options.clock,
        "bleu_tokenizer": options.bleu_tokenizer,
        "baseline": options.baseline_policy,
        "n_sources": options.n_sources,
        "session": dict(options.session),
    }


def made_with(options: EvaluationOptions) -> dict[str, Any]:
    """Versions and machinery."""
    names = ("mlx", "mlx-lm", "mlx-simul", *(("sacrebleu",) if options.quality else ()))
    return {
        **{name: version(name) for name in names},
        "device": str(mx.default_device()),
        "blas": describe(),
        "processes": options.processes,
    }


def model_name(options: EvaluationOptions) -> str:
    """What results call the model."""
    return shown(options.model or str(DEFAULT_MODEL))


def shown(path_or_id: str) -> str:
    """A file by its name alone: others have it elsewhere. An id of the hub is all of it."""
    path = expanded(path_or_id)
    name = path.absolute().name if path.exists() else path_or_id
    # A name in another encoding than UTF-8 is shown with escapes, as JSON cannot say it.
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _options_from(table: Mapping[str, Any]) -> EvaluationOptions:
    lists: dict[str, Any] = dict(table)
    for name, value in lists.items():
        lists[name] = tuple(value) if isinstance(value, list) else value
    try:
        return EvaluationOptions(**lists)
    except TypeError as error:
        raise InvalidOptionError(f"not the options of an evaluation: {error}.") from error


def _setting(options: EvaluationOptions, digest: str) -> dict[str, Any]:
    """All that decides what a translation is, its policy excepted."""
    adapter = options.adapter and files_digest(expanded(options.adapter))
    return {
        "model": files_digest(find_folder(options.model or DEFAULT_MODEL)),
        "adapter": adapter,
        "test set": digest,
        "unit": options.known_unit,
        "clock": options.clock,
        "session options": {k: v for k, v in options.session.items() if k != "date"},
    }
