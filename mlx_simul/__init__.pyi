from .archs.prepare import prepare
from .archs.streaming_config import StreamingConfig
from .batched import BatchedSessions
from .cache import DualStreamingCache, SourceTargetCache
from .drafts import Drafter, NGramDrafter
from .errors import (
    CacheStateError,
    ConversionError,
    DataError,
    InvalidOptionError,
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
from .events import Event, Finished, Read, Write
from .generation import astream_generate, generate, stream_generate
from .loading import load
from .masks import create_streaming_attention_mask
from .policies import Action, Policy, WaitK, calculate_wait_words
from .positions import FixedStart, FollowStart, StayStart
from .prefix import EncodedPrefix
from .prompts import StreamingDataPreparator, TokenizedSource
from .segmenter import SourceSegmenter
from .session import SimulSession
from .state import StreamingState
from .training.run import train
from .words import (
    EOSStoppingCriteria,
    MaxLengthStoppingCriteria,
    WordBoundaryStoppingCriteria,
)

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
