"""What the tests of sessions share: a text, and streams over it."""

import mlx_simul
from mlx_simul import Read, WaitK, Write

TEXT = "Good morning, how are you today? I would like to buy a ticket to Paris, please."


def run(model, tokenizer, source, **options):
    """All events of a short stream, wait-2 unless said otherwise."""
    defaults = {"policy": WaitK(2), "max_tokens": 24}
    return list(mlx_simul.stream_generate(model, tokenizer, source, **(defaults | options)))


def writes(events):
    """The Write events among them."""
    return [event for event in events if isinstance(event, Write)]


def reads(events):
    """The Read events among them."""
    return [event for event in events if isinstance(event, Read)]


class Stumble(Exception):
    """Something of the user's that fails once."""
