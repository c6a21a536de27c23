from .archs.prepare import prepare
from .archs.streaming_config import StreamingConfig
from .cache import DualStreamingCache, SourceTargetCache
from .cache.masks import create_streaming_attention_mask
from .cache.positions import FixedStart, FollowStart, StayStart
from .checkpoints.loading import load
from .engine.prefix import EncodedPrefix
from .errors import (
    CacheStateError,
    ConversionError,
    DataError,
    InvalidOptionError,
    JournalError,
    ModelLoadError,
    PromptError,
    SessionClosedError,
    SessionFailedError,
    SimulError,
    SimulWarning,
    UnknownArchitectureError,
    ValidationError,
)
from .evaluation.run import evaluate
from .events import Event, Finished, Read, TurnEnd, Write
from .generation import astream_generate, generate, stream_generate
from .loop.drafters import Drafter, NGramDrafter
from .loop.progress import StreamingState
from .policies import Action, Policy, WaitK, calculate_wait_words
from .serving.sessions import BatchedSessions
from .session import SimulSession
from .text.boundary import (
    EOSStoppingCriteria,
    MaxLengthStoppingCriteria,
    WordBoundaryStoppingCriteria,
)
from .text.prompts import StreamingDataPreparator, TokenizedSource
from .text.segmenter import SourceSegmenter
from .training.run import train

__version__: str
__all__ = [
    "Action",
    "BatchedSessions",
    "CacheStateError",
    "ConversionError",
    "DataError",
    "Drafter",
    "DualStreamingCache",
    "EOSStoppingCriteria",
    "EncodedPrefix",
    "Event",
    "Finished",
    "FixedStart",
    "FollowStart",
    "InvalidOptionError",
    "JournalError",
    "MaxLengthStoppingCriteria",
    "ModelLoadError",
    "NGramDrafter",
    "Policy",
    "PromptError",
    "Read",
    "SessionClosedError",
    "SessionFailedError",
    "SimulError",
    "SimulSession",
    "SimulWarning",
    "SourceSegmenter",
    "SourceTargetCache",
    "StayStart",
    "StreamingConfig",
    "StreamingDataPreparator",
    "StreamingState",
    "TokenizedSource",
    "TurnEnd",
    "UnknownArchitectureError",
    "ValidationError",
    "WaitK",
    "WordBoundaryStoppingCriteria",
    "Write",
    "astream_generate",
    "calculate_wait_words",
    "create_streaming_attention_mask",
    "evaluate",
    "generate",
    "load",
    "prepare",
    "stream_generate",
    "train",
]
