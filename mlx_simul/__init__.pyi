from .archs.prepare import prepare
from .checkpoints.loading import load
from .errors import SimulError, SimulWarning
from .evaluation.run import evaluate
from .events import Event, Finished, Read, ToolCall, TurnEnd, Write
from .generation import astream_generate, generate, stream_generate
from .options import SessionOptions
from .policies import Action, Policy, WaitK
from .serving.sessions import Sessions
from .session import SimulSession
from .text.prompts import TokenizedSource
from .text.stabiliser import Stabiliser, stabilise
from .training.run import train

__version__: str
__all__ = [
    "Action",
    "Event",
    "Finished",
    "Policy",
    "Read",
    "SessionOptions",
    "Sessions",
    "SimulError",
    "SimulSession",
    "SimulWarning",
    "Stabiliser",
    "TokenizedSource",
    "ToolCall",
    "TurnEnd",
    "WaitK",
    "Write",
    "astream_generate",
    "evaluate",
    "generate",
    "load",
    "prepare",
    "stabilise",
    "stream_generate",
    "train",
]
