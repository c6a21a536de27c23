"""A session that one server writes cannot be taken by another that has the same journals."""

import pytest

from mlx_simul.serving.outbox import Outbox


def message(seq):
    return {"type": "session.input_transcript.delta", "seq": seq, "delta": "a"}


def test_messages_have_one_writer(tmp_path):
    path = tmp_path / "messages"
    outbox = Outbox(1000, path, {"messages": 1})
    outbox.add([message(1)])
    with pytest.raises(BlockingIOError):
        Outbox.resumed(1000, path)
    outbox.add([message(2)])  # and nothing was cut off
    outbox.close()
    again, told = Outbox.resumed(1000, path)
    assert told.seq == again.seq == 2
    again.close()


def test_what_could_not_be_read_is_unlocked(tmp_path):
    path = tmp_path / "messages"
    path.write_bytes(b'{"messages": 1}\nnot JSON\n')
    with pytest.raises(ValueError):
        Outbox.resumed(1000, path)
    with pytest.raises(ValueError):  # and not a BlockingIOError
        Outbox.resumed(1000, path)
