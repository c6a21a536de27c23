"""What the tests against the field's tools share. Without these tools they are not collected."""

from importlib.util import find_spec

import pytest

if find_spec("simuleval") is None or find_spec("omnisteval") is None:
    collect_ignore_glob = ["test_*.py"]
elif find_spec("simulstream") is None or find_spec("mweralign") is None:
    collect_ignore = ["test_talk_logs.py"]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Sources and a tiny model on disk, with what our own sessions make of them."""
    from client import Corpus

    return Corpus(tmp_path_factory.mktemp("field"))
