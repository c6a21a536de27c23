"""Audio that comes at once, at its pace, or from another thread: none of it is lost."""

import os
import threading
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from speech_scripts import pcm, silence

from mlx_simul.errors import RecogniserError, SimulWarning
from mlx_simul.speech.capture import (
    LATE_S,
    MAX_TAKE_S,
    Arriving,
    AtOnce,
    Pumped,
    read_pipe,
)
from mlx_simul.speech.recogniser import SAMPLE_RATE_HZ

lengths = st.lists(st.integers(0, 5000), max_size=6)


def blocks_of(lengths):
    """Blocks of which no two samples are alike."""
    ends = np.cumsum([0, *lengths])
    return [np.arange(a, b, dtype=np.float32) for a, b in pairwise(ends)]


class Clock:
    """Stands still but for those who wait."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s

    def wait(self, seconds):
        self.now_s += seconds


def paced(blocks, clock=None):
    clock = clock or Clock()
    return Pumped(blocks, is_paced=True, clock=clock, wait=clock.wait)


def taken(audio):
    """All that audio gives, and in what pieces."""
    pieces = []
    with audio:
        while (piece := audio.take()) is not None:
            pieces.append(piece)
    return np.concatenate([np.zeros(0, np.float32), *pieces]), pieces


@pytest.mark.parametrize("kind", [AtOnce, Pumped, paced])
@given(lengths=lengths)
def test_what_comes_is_given_once_and_in_order(kind, lengths):
    samples, pieces = taken(kind(blocks_of(lengths)))
    assert samples.tolist() == list(range(sum(lengths)))
    assert [len(piece) for piece in pieces] == lengths or all(map(len, pieces))


def test_audio_for_which_there_is_no_room_is_refused_and_not_dropped():
    """Negative control: what put() refuses is not there."""
    audio = Arriving(max_waiting_s=1.0)
    assert audio.put(silence(1.0), wait=False)
    assert not audio.put(silence(1.0), wait=False)
    assert len(audio.take()) == SAMPLE_RATE_HZ
    assert audio.put(silence(0.5), wait=False)


def test_one_who_waits_gets_room_when_there_is():
    audio = Arriving(max_waiting_s=0.1)
    audio.put(silence(0.1), wait=True)
    thread = threading.Thread(target=audio.put, args=(silence(0.2),), kwargs={"wait": True})
    thread.start()
    assert len(audio.take()) == SAMPLE_RATE_HZ // 10
    thread.join()
    assert len(audio.take()) == SAMPLE_RATE_HZ // 5


class Noting(Pumped):
    """Notes when each block is put."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.noted = []

    def put(self, block, *, wait):
        self.noted.append((self._clock(), len(block)))
        return super().put(block, wait=wait)


def is_on_time(is_paced):
    """Whether no block comes before it has been spoken, nor later."""
    clock = Clock()
    audio = Noting([silence(0.35), silence(1.0)], is_paced=is_paced, clock=clock, wait=clock.wait)
    taken(audio)
    n_samples, on_time = 0, True
    for now_s, n in audio.noted:
        n_samples += n
        on_time &= now_s == pytest.approx(100 + n_samples / SAMPLE_RATE_HZ)
    assert n_samples == 1.35 * SAMPLE_RATE_HZ
    return on_time


def test_a_pace_is_that_of_the_speaker():
    assert is_on_time(is_paced=True)
    assert not is_on_time(is_paced=False)


def test_what_is_there_comes_as_it_is_read_and_what_waits_in_large_ones():
    _, pieces = taken(AtOnce([silence(0.1)] * 9))
    assert {len(piece) for piece in pieces} == {SAMPLE_RATE_HZ / 10}
    audio = Arriving()
    for _ in range(25):
        audio.put(silence(1.0), wait=False)
    audio.end()
    assert [len(piece) / SAMPLE_RATE_HZ for piece in taken(audio)[1]] == [MAX_TAKE_S] * 2 + [5]


def test_audio_that_breaks_off_is_given_before_that_is_said():
    audio = Arriving()
    audio.put(silence(0.5), wait=False)
    audio.end(RecogniserError("gone"))
    audio.end(RecogniserError("never said"))
    assert not audio.put(silence(0.5), wait=False)
    assert len(audio.take()) == SAMPLE_RATE_HZ / 2
    with pytest.raises(RecogniserError, match="gone"):
        audio.take()


@pytest.mark.parametrize("kind", [AtOnce, Pumped])
def test_what_reading_raises_is_raised_where_the_audio_is_taken(kind):
    def broken():
        yield silence(0.1)
        raise ZeroDivisionError

    with kind(broken()) as audio:
        assert len(audio.take()) == SAMPLE_RATE_HZ / 10
        with pytest.raises(ZeroDivisionError):
            audio.take()


def test_a_source_that_gives_nothing_has_broken_off():
    audio = Arriving(max_gap_s=0.001)
    audio.put(silence(0.5), wait=False)
    assert audio.take() is not None
    with pytest.raises(RecogniserError, match=r"nothing for 0\.001 s; is it still connected\?"):
        audio.take()
    assert not audio.put(silence(0.5), wait=False)


def test_when_it_is_stopped_what_waits_is_still_given():
    audio = Arriving()
    audio.put(silence(0.5), wait=False)
    audio.stop()
    assert not audio.put(silence(0.5), wait=True)
    assert len(audio.take()) == SAMPLE_RATE_HZ / 2
    assert audio.take() is None
    at_once = AtOnce([silence(9)])
    at_once.stop()
    assert at_once.take() is None


def test_a_speaker_is_not_waited_for_when_it_is_stopped():
    with Pumped([silence(3600)], is_paced=True) as audio:
        audio.stop()
        while audio.take() is not None:
            pass


# ---- How late it is ----


def arriving_at(clock, *, seconds, after_s):
    """Audio of which so much arrived within that time, and is not taken."""
    audio = Arriving(clock)
    audio.put(silence(1.0), wait=False)  # its first sample was spoken a second ago
    clock.wait(after_s)
    audio.put(silence(seconds - 1), wait=False)
    return audio


@pytest.mark.parametrize(
    ("seconds", "after_s", "behind_s"),
    [
        (20, 19, 20),  # as it is spoken
        (20, 39, 20),  # the speaker was silent, and so was the microphone
        (100, 4, 5),  # faster than anybody speaks: five seconds might have been heard by now
    ],
)
def test_only_what_has_been_spoken_and_has_arrived_is_late(seconds, after_s, behind_s):
    audio = arriving_at(Clock(), seconds=seconds, after_s=after_s)
    assert audio.behind_s == pytest.approx(behind_s)


def test_lateness_is_said_again_when_it_has_doubled_or_has_come_back():
    clock = Clock()
    audio = Arriving(clock)
    said = []
    for _ in range(45):
        clock.wait(1.0)
        audio.put(silence(1.0), wait=False)
        said += audio.remarks()
    numbers = [
        text.removeprefix("listening is ").split(" s behind the speaker")[0] for text in said
    ]
    assert numbers == ["5", "10", "20", "40"]
    while audio.behind_s:
        audio.take()
    assert audio.remarks() == []
    clock.wait(LATE_S)
    audio.put(silence(LATE_S), wait=False)
    assert len(audio.remarks()) == 1


# ---- Raw PCM ----


def piped(pieces):
    """What read_pipe gives for bytes that come piece by piece."""
    reader, writer = os.pipe()

    def write():
        for piece in pieces:
            os.write(writer, piece)
        os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        return np.concatenate([silence(0), *read_pipe(reader, lambda: False)])
    finally:
        thread.join()
        os.close(reader)


@given(st.lists(st.integers(-32768, 32767), min_size=2, max_size=50), st.sets(st.integers(0, 100)))
def test_bytes_of_pcm_may_be_cut_anywhere(samples, places):
    data = np.array(samples, "<i2").tobytes()
    bounds = [0, *sorted(place for place in places if place < len(data)), len(data)]
    pieces = [data[a:b] for a, b in pairwise(bounds) if a < b]
    assert piped(pieces).tolist() == [sample / 32768 for sample in samples]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"RIFF\x24\x08\x00\x00WAVE", "begins like a WAV file"),
        (b"OggS\x00\x02", "begins like an Ogg file"),
    ],
)
def test_what_is_not_raw_pcm_is_refused(data, says):
    with pytest.raises(RecogniserError, match=says):
        piped([data])


def test_half_a_sample_at_the_end_is_said():
    with pytest.warns(SimulWarning, match="ends within a sample"):
        assert len(piped([bytes(5)])) == 2


def test_a_pipe_that_is_stopped_is_read_no_further():
    reader, writer = os.pipe()
    stopped = threading.Event()
    with Pumped(read_pipe(reader, stopped.is_set), stopped=stopped) as audio:
        os.write(writer, pcm(0.1))
        assert len(audio.take()) == SAMPLE_RATE_HZ / 10
        audio.stop()
        assert audio.take() is None
    os.close(writer)
    os.close(reader)


def test_a_pipe_is_read_before_anybody_listens():
    reader, writer = os.pipe()
    with Pumped(read_pipe(reader, lambda: False)) as audio:
        os.write(writer, bytes(8))
        os.close(writer)
        with audio as again:  # one who listens enters it, too
            samples, _ = taken(again)
    assert len(samples) == 4
    os.close(reader)


def test_what_cannot_be_read_is_said(tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(IsADirectoryError):
        list(read_pipe(folder, lambda: False))
    os.close(folder)
