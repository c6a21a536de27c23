"""Every error and warning of mlx_simul.

The tree of classes::

    SimulError
    ├── ModelLoadError              a checkpoint that cannot be loaded
    │   └── UnknownArchitectureError    its model_type is not registered
    ├── ConversionError             a conversion that is refused or failed
    ├── ValidationError             a checkpoint that fails validation
    ├── DataError (ValueError)      training data that cannot be used
    ├── PromptError (ValueError)    a template that cannot carry the source
    ├── InvalidOptionError (ValueError)     an option outside its range
    ├── JournalError                a journal that cannot be written, or belongs to another stream
    ├── SavedSessionError           a saved session that is damaged, or belongs to another stream
    ├── RecogniserError             audio that cannot be read or recognised
    ├── SessionClosedError (RuntimeError)   fed after it was finished
    ├── SessionFailedError (RuntimeError)   one of many broke off
    ├── RanksError (RuntimeError)   ranks that were lost, or are no longer in step
    └── CacheStateError (RuntimeError)      a cache used out of turn

    SimulWarning (UserWarning)      worth knowing once, never fatal
"""

from __future__ import annotations


class SimulError(Exception):
    """Base class: ``except SimulError`` catches all that mlx_simul raises on purpose."""


class ModelLoadError(SimulError):
    """A checkpoint is missing, damaged, or not what its config says."""


class UnknownArchitectureError(ModelLoadError):
    """The config's ``model_type`` is not in the registry of streaming architectures."""


class ConversionError(SimulError):
    """A checkpoint cannot be converted; nothing was written."""


class ValidationError(SimulError):
    """A checkpoint failed one of the checks of ``validate``."""


class DataError(SimulError, ValueError):
    """Training data is missing, or a line of it cannot be used."""


class PromptError(SimulError, ValueError):
    """A chat template or frame cannot carry the source text."""


class InvalidOptionError(SimulError, ValueError):
    """An option has a value outside its range."""


class RecogniserError(SimulError):
    """Audio cannot be read or recognised."""


class SessionClosedError(SimulError, RuntimeError):
    """A session was fed after it had finished."""


class SessionFailedError(SimulError, RuntimeError):
    """One session of a batch broke off, and the others go on; the cause says why.

    Attributes:
        session: which.
    """

    def __init__(self, session: object, message: str) -> None:
        super().__init__(message)
        self.session = session


class JournalError(SimulError):
    """A stream's journal cannot be written, is damaged, or belongs to another stream."""


class SavedSessionError(SimulError):
    """A saved session cannot be written, is damaged, or belongs to another stream."""


class RanksError(SimulError, RuntimeError):
    """The ranks that share a model are no longer in step, or one of them failed or was lost."""


class CacheStateError(SimulError, RuntimeError):
    """A cache was used out of turn: updated while merged, or read before a merge."""


class SimulWarning(UserWarning):
    """Something the user should know once; the session goes on."""
