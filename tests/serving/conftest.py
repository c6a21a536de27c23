"""Servers that the tests of sockets share."""

import pytest
from live_server import Server
from served import OPTIONS, TALK, alone

from mlx_simul.events import Write

OWNERS = {"k" * 20: "ann", "q" * 20: "bob"}


@pytest.fixture(scope="session")
def loader(golden_models, tokenizer):
    return lambda: (golden_models["qwen2-tiny-0"], tokenizer, OPTIONS)


@pytest.fixture(scope="session")
def server(loader):
    """A server without keys."""
    running = Server(loader)
    yield running
    running.stop()


@pytest.fixture
def own_server(loader):
    """A server without keys, and without the sessions of other tests."""
    running = Server(loader)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def locked(loader):
    """A server that asks for a key."""
    running = Server(loader, owners=OWNERS)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def talk_alone(golden_models, tokenizer):
    """What a session that is fed TALK alone writes."""
    said = alone(golden_models["qwen2-tiny-0"], tokenizer, TALK)
    return "".join(event.text for event in said if isinstance(event, Write))
