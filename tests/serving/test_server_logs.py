"""The log: one line of JSON an event, without texts, keys or whole ids."""

import io
import json
import logging
import warnings

from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.serving.logs import MAX_ALIKE, Few, Lines, fields, logging_to, note

LOG = logging.getLogger("mlx_simul.serving.tests")
NAME = "sess_abcdefGHIJKLMNOPQR-_12"
FAMOUS = "the quick brown fox"


def logged(act, *, texts=False):
    stream = io.StringIO()
    with logging_to(stream, texts=texts):
        act()
    return stream.getvalue()


def lines(act, *, texts=False):
    return [json.loads(line) for line in logged(act, texts=texts).splitlines()]


def fail():
    try:
        try:
            raise KeyError(FAMOUS)
        except KeyError as error:
            raise ValueError(f"not {FAMOUS}") from error
    except ValueError:
        LOG.exception("a pass failed", extra=fields(session=NAME))


def test_an_event_is_a_line():
    (line,) = lines(lambda: note(LOG, "refused", code="too_fast", param=None, n=3))
    assert line.pop("time").endswith("Z")
    assert line == {"level": "info", "event": "refused", "code": "too_fast", "n": 3}


@given(st.text(), st.text())
def test_whatever_is_in_it_stays_on_one_line_of_printable_ascii(value, owner):
    record = logging.makeLogRecord(
        {"msg": "x", "levelno": logging.INFO, **fields(a=value, b=owner)}
    )
    line = Lines().format(record)
    assert line.isascii() and line.isprintable()
    assert json.loads(line)["a"] == value or "sess_" in value or "Bearer" in value


def test_a_traceback_says_where_and_not_what():
    (line,) = lines(fail)
    assert "in fail" in line["traceback"] and "KeyError" in line["traceback"]
    assert FAMOUS not in json.dumps(line)
    assert FAMOUS in json.dumps(lines(fail, texts=True))


def test_a_full_disk_is_told():
    def act():
        try:
            raise OSError(28, "No space left on device", f"/journal/{NAME}.messages")
        except OSError:
            LOG.exception("cannot write")

    (line,) = lines(act)
    assert "No space left on device" in line["traceback"]
    assert NAME not in json.dumps(line)


def test_texts_are_written_on_request_only():
    def act():
        note(LOG, "turn", texts={"source_text": FAMOUS}, turn=1)

    assert FAMOUS not in logged(act)
    assert lines(act, texts=True)[0]["source_text"] == FAMOUS


def test_nothing_in_a_line_lets_its_reader_listen_or_speak():
    secret, key = "ek_" + "x" * 32, "k" * 40

    def act():
        note(LOG, "session opened", session=NAME, way=f"/v1/streams/{NAME}/events", ek=secret)
        LOG.warning("odd request %s", f"realtime, openai-insecure-api-key.{key}")
        LOG.warning("odd header Authorization: Bearer %s", key)

    said = logged(act)
    assert NAME not in said and secret not in said and key not in said
    assert json.loads(said.splitlines()[0])["session"] == "sess_abcdef..."


def test_an_id_with_a_prefix_is_as_short():
    name = NAME.replace("sess_", "sess_north_")
    (line,) = lines(lambda: note(LOG, "session opened", session=name))
    assert line["session"] == "sess_north_abcdef..."


def test_warnings_and_other_libraries_come_as_lines_too():
    def act():
        warnings.warn("careful", UserWarning, stacklevel=1)
        logging.getLogger("uvicorn.error").error("bad")
        logging.getLogger("uvicorn.error").info("chatter")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        found = lines(act)
    assert len(found) == 2 and "careful" in found[0]["event"] and found[1]["event"] == "bad"


def test_a_flood_is_cut_and_says_so():
    def act():
        for _ in range(3 * MAX_ALIKE):
            note(LOG, "refused", level=logging.WARNING, code="unknown_type")
        note(LOG, "refused", level=logging.WARNING, code="too_fast")

    found = lines(act)
    assert [line["code"] for line in found].count("unknown_type") <= 2 * MAX_ALIKE  # two windows
    assert any(line.get("note", "").startswith("more of this kind") for line in found)
    assert found[-1]["code"] == "too_fast"


def test_what_is_no_warning_is_never_cut_and_a_new_window_begins_anew():
    few = Few()

    def passes(created, level):
        record = logging.makeLogRecord({"msg": "x", "levelno": level, "created": created})
        return few.filter(record)

    assert all(passes(1.0, logging.INFO) for _ in range(3 * MAX_ALIKE))
    assert sum(passes(1.0, logging.WARNING) for _ in range(3 * MAX_ALIKE)) == MAX_ALIKE
    assert passes(11.0, logging.WARNING)


def test_levels_and_handlers_are_as_before():
    root = logging.getLogger()
    before = root.level, list(root.handlers), warnings.showwarning
    logged(fail)
    assert before == (root.level, list(root.handlers), warnings.showwarning)
