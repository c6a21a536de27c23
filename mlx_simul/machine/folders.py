"""A folder that appears whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_simul.errors import ConversionError


@contextmanager
def replacing_folder(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that becomes ``target`` when the block succeeds.

    When the block fails or is interrupted, ``target`` stays as it was and the folder is removed.
    When the process is killed, the folder stays behind, hidden, until the next run for the same
    target takes it over. An old target is kept under another name until the new one is in place.

    Args:
        target: The folder to write; its parents are made.
        force: Replace a folder that is not empty but holds a model (a config.json), and so is not
            somebody's home.

    Raises:
        ConversionError: if ``target`` is not a folder; if it has content, and ``force`` is not
            given or finds no model there; or if another process is writing it.
    """
    target = target.resolve()
    partial = target.with_name(f".{target.name}.partial")
    previous = target.with_name(f".{target.name}.previous")
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(partial, target)
    try:
        _settle(previous, target)
        _refuse_content(target, force)
        _empty(partial)
        yield partial
        _sync(partial)
        try:
            if target.exists():
                target.rename(previous)
            partial.rename(target)
        finally:
            _settle(previous, target)
    except BaseException:
        # The error that brought us here matters more than one in cleaning up after it.
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _lock(partial: Path, target: Path) -> int:
    """Make the folder and lock it; the kernel drops the lock with the process, however it ends."""
    while True:
        partial.mkdir(exist_ok=True)
        try:
            lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # its owner finished between the two lines
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if partial.exists() and os.path.samestat(os.fstat(lock), partial.stat()):
                return lock
        except BlockingIOError as error:
            os.close(lock)
            raise ConversionError(
                f"{target} is being written by another process; wait for it to end."
            ) from error
        os.close(lock)


def _settle(previous: Path, target: Path) -> None:
    """Finish what an interrupted swap began: bring the old folder back, or let go of it."""
    if previous.exists():
        if target.exists():
            shutil.rmtree(previous)
        else:
            previous.rename(target)


def _refuse_content(target: Path, force: bool) -> None:
    if target.exists() and not target.is_dir():
        raise ConversionError(f"{target} is a file; name a folder to write.")
    if not target.exists() or not any(target.iterdir()):
        return
    if not force:
        raise ConversionError(
            f"{target} exists and is not empty. Name another folder, or replace it with --force."
        )
    if not (target / "config.json").is_file():
        raise ConversionError(
            f"{target} holds no config.json, so it is not a model that --force may replace. Name "
            "another folder, or remove it yourself."
        )


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _sync(folder: Path) -> None:
    """Bring the folder's files to the disk, so that a power cut cannot empty what was renamed."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
