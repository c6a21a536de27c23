"""What a listener waits for when a server hears: speakers over real sockets, at the pace of speech.

Each speaker sends a recording in pieces of 200 ms. On the speaker's own clock are measured, in
seconds, computing and queueing included:

* ``recognised``: from the end of a word in the audio until its client is told of the word;
* ``delay``: from the end of the last word that a piece of target waited for until it arrives.

Afterwards the words that were recognised are sent as text, pauses as blank lines. Nothing is lost
if the target is the same. With ``--text FOLDER``, where ``two_cities.txt`` holds what is said in
``two_cities.wav``, jiwer gives the word error rate, case and punctuation aside.

    python benchmarks/serve_speech.py two_cities.wav --recogniser faster-whisper:tiny.en
    python benchmarks/serve_speech.py two_cities.wav --recogniser … --speakers 1 2 4
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import websockets
from rich.console import Console
from rich.table import Table

from mlx_simul.serving.audio import RATE_HZ, SAMPLE_BYTES

PIECE_S = 0.2
PIECE_BYTES = int(PIECE_S * RATE_HZ) * SAMPLE_BYTES


@dataclass
class Talk:
    """What a speaker hears.

    Attributes:
        source: that was recognised, pauses as blank lines.
        target: the translation.
        recognised_s: for each source word.
        delays_s: for each piece of target.
        errors: codes of what was refused.
    """

    source: str = ""
    target: str = ""
    recognised_s: list[float] = field(default_factory=list)
    delays_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


async def spoken(url: str, audio: bytes) -> Talk:
    """Speak, and hear the translation."""
    talk, ends_s = Talk(), [0.0]  # when each source word was said, by its number
    async with websockets.connect(url, max_size=None) as socket:
        await socket.recv()
        began_s = time.monotonic()
        speaking = asyncio.create_task(_speak(socket, audio, began_s))
        async for data in socket:
            message, now_s = json.loads(data), time.monotonic() - began_s
            match message["type"]:
                case "session.input_audio_buffer.recognised":
                    talk.source += message["text"]
                    for word in message["words"]:
                        end_s = word["end_ms"] / 1000
                        talk.recognised_s.append(now_s - end_s)
                        ends_s += [end_s] * len(word["text"].split())
                case "session.output_transcript.delta":
                    talk.target += message["delta"]
                    talk.delays_s.append(now_s - ends_s[message["source_words"]])
                case "error":
                    talk.errors.append(message["error"]["code"])
        await speaking
    return talk


async def _speak(socket: Any, audio: bytes, began_s: float) -> None:
    for number, at in enumerate(range(0, len(audio), PIECE_BYTES), 1):
        # A piece can be sent once all of it has been said.
        await asyncio.sleep(max(0.0, began_s + number * PIECE_S - time.monotonic()))
        piece = base64.b64encode(audio[at : at + PIECE_BYTES]).decode()
        message = {"type": "session.input_audio_buffer.append", "audio": piece}
        await socket.send(json.dumps(message))
    await socket.send('{"type": "session.close"}')


async def written(url: str, text: str) -> str:
    """The translation of a text that is typed."""
    async with websockets.connect(url, max_size=None) as socket:
        append = {"type": "session.input_text_buffer.append", "text": text}
        await socket.send(json.dumps(append))
        await socket.send('{"type": "session.close"}')
        messages = [json.loads(data) async for data in socket]
    deltas = [each for each in messages if each["type"] == "session.output_transcript.delta"]
    return "".join(each["delta"] for each in deltas)


def samples_of(path: Path) -> bytes:
    """A recording as clients send it."""
    audio, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    mono = soxr.resample(audio.mean(axis=1), rate_hz, RATE_HZ)
    return (np.clip(mono, -1, 1) * 32767).astype("<i2").tobytes()


@contextmanager
def served(recogniser: str) -> Iterator[str]:
    """The address of a server that hears."""
    command = [sys.executable, "-m", "mlx_simul", "serve", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--recogniser", recogniser],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip().rpartition(":")[2]
        yield f"ws://127.0.0.1:{port}/v1/realtime/translations?model=en-fr"
    finally:
        process.terminate()
        process.wait()


def error_rate(said: str, heard: str) -> float:
    """Word error rate, case and punctuation aside."""
    import jiwer

    return float(
        jiwer.wer(*(" ".join(re.findall(r"[\w']+", each.lower())) for each in (said, heard)))
    )


def spread(seconds: list[float]) -> str:
    """The median, and where nine in ten are below."""
    if not seconds:
        return "–"
    median, p90 = np.quantile(seconds, (0.5, 0.9))
    return f"{median:.2f} ({p90:.2f})"


async def measure(url: str, path: Path, n_speakers: int, text: str | None) -> list[str]:
    """A row of the table."""
    audio = samples_of(path)
    talks = await asyncio.gather(*(spoken(url, audio) for _ in range(n_speakers)))
    same = [talk.target == await written(url, talk.source) for talk in talks]
    rates = [error_rate(text, talk.source) for talk in talks if text is not None]
    return [
        path.name,
        f"{len(audio) / SAMPLE_BYTES / RATE_HZ:.1f}",
        str(n_speakers),
        f"{np.mean(rates):.3f}" if rates else "–",
        spread([delay for talk in talks for delay in talk.recognised_s]),
        spread([delay for talk in talks for delay in talk.delays_s]),
        f"{sum(same)} of {n_speakers}",
        ", ".join(sorted({code for talk in talks for code in talk.errors})) or "none",
    ]


def main() -> int:
    """Measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recordings", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--recogniser", default="faster-whisper", metavar="NAME[:MODEL]")
    parser.add_argument("--speakers", nargs="+", type=int, default=[1], metavar="N")
    parser.add_argument("--text", type=Path, metavar="FOLDER", help="what is said: NAME.txt")
    args = parser.parse_args()
    names = ("recording", "seconds", "speakers", "error rate", "recognised, s: median (p90)",
             "delay, s: median (p90)", "nothing lost", "refused")  # fmt: skip
    table = Table(*names)
    with served(args.recogniser) as url:
        for path in args.recordings:
            known = args.text and args.text / f"{path.stem}.txt"
            text = known.read_text("utf-8") if known and known.exists() else None
            for n_speakers in args.speakers:
                table.add_row(*asyncio.run(measure(url, path, n_speakers, text)))
    Console(width=160).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
