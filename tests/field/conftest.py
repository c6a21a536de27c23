"""What the tests against SimulEval share: they are skipped where it is not installed."""

import pytest


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Sources and a tiny model on disk, with what our own sessions make of them."""
    from client import Corpus

    return Corpus(tmp_path_factory.mktemp("field"))
