"""How many people a server carries: real sockets, sessions that speak at 150 words a minute.

Each session sends a word every 400 ms, as one who speaks would, from its own moment on. What a word
allows is known beforehand: the same text is fed to a session alone, word by word, and the messages
that come of each word are counted. So the time from a word's departure to the arrival of the last
message that it allowed is the response time of the server, and nothing else. All texts must equal
those of the sessions alone.

    python benchmarks/serve_load.py --text dev.tsv [--sessions 1 16 64 128] [--seconds 20]
    python benchmarks/serve_load.py --text dev.tsv --servers 2        # a server for each core
    python benchmarks/serve_load.py --text dev.tsv --sequence 2000    # memory, one after another
    python benchmarks/serve_load.py --text dev.tsv --storm 60         # joins, leaves and kills

The rounds go on until the 95th percentile exceeds --limit-ms. ``alone`` is how many sessions could
be served one after another on one core, from the time that a word takes alone. Several servers
share the sessions evenly, as a proxy before them would.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import websockets
from rich.console import Console
from rich.table import Table

import mlx_simul
from mlx_simul.evaluation.corpus import read_corpus
from mlx_simul.serving.protocol import Protocol

WORD_S = 0.4
N_TEXTS = 16


@dataclass(frozen=True)
class Talk:
    """A text, in pieces of a word each, and what it comes to.

    Attributes:
        pieces: each a word and the space behind it.
        n_messages: for each piece, how many numbered messages there are once it is worked off.
        target: the translation.
    """

    pieces: tuple[str, ...]
    n_messages: tuple[int, ...]
    target: str


@dataclass(frozen=True)
class Round:
    """So many sessions at once.

    Attributes:
        sessions: that spoke.
        words: that they sent and that allowed something.
        p50_ms: response time.
        p95_ms: likewise.
        p99_ms: likewise.
        server_cpu: cores that the server took.
        rows_a_pass: sessions that shared a pass, on average.
        passes_a_second: of the server.
        equal: texts that equal those of sessions alone.
    """

    sessions: int
    words: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    server_cpu: float
    rows_a_pass: float
    passes_a_second: float
    equal: int


def main() -> None:
    """Measure what is asked for, and print it."""
    args = _parsed()
    talks, alone_ms = talks_of(args.text, args.seconds, args.policy)
    console = Console()
    carried = WORD_S * 1000 / alone_ms
    console.print(
        f"alone: {alone_ms:.1f} ms of CPU time a word, so one core serves {carried:.0f} sessions "
        "one after another"
    )
    figures: dict[str, Any] = {"alone_ms_a_word": alone_ms, "policy": args.policy}
    with ExitStack() as running:
        servers = [
            running.enter_context(serving(args.policy, args.max_sessions))
            for _ in range(args.servers)
        ]
        if args.sequence:
            figures["sequence"] = asyncio.run(
                one_after_another(servers[0], talks, args.sequence, console)
            )
        elif args.storm:
            storms = storm(servers[0], talks, args.storm, args.seed, console)
            figures["storm"] = asyncio.run(storms)
        else:
            figures["rounds"] = list(_rounds(servers, talks, args, console))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


def _rounds(
    servers: Sequence[Server], talks: Sequence[Talk], args: argparse.Namespace, console: Console
) -> Iterator[dict[str, Any]]:
    table = Table(
        "sessions", "words", "p50 ms", "p95 ms", "p99 ms", "cores", "rows", "passes/s", "equal"
    )
    for n_sessions in args.sessions:
        done = asyncio.run(speak_at_once(servers, talks, n_sessions, args.seed))
        table.add_row(
            f"{done.sessions}", f"{done.words}", f"{done.p50_ms:.0f}", f"{done.p95_ms:.0f}",
            f"{done.p99_ms:.0f}", f"{done.server_cpu:.2f}", f"{done.rows_a_pass:.1f}",
            f"{done.passes_a_second:.0f}", f"{done.equal}",
        )  # fmt: skip
        yield asdict(done)
        if done.p95_ms > args.limit_ms:
            break
    console.print(table)


async def speak_at_once(
    servers: Sequence[Server], talks: Sequence[Talk], n_sessions: int, seed: int
) -> Round:
    """Have so many sessions speak; those of several servers are summed up."""
    rng = random.Random(seed)
    delays_s = [rng.uniform(0, 5 * WORD_S) for _ in range(n_sessions)]
    before = _sum_of(servers)
    speakers = [
        _speak(servers[i % len(servers)].url, talks[i % len(talks)], delay_s)
        for i, delay_s in enumerate(delays_s)
    ]
    heard = await asyncio.gather(*speakers)
    after = _sum_of(servers)
    times_ms = sorted(ms for _, session_ms in heard for ms in session_ms)
    centiles = statistics.quantiles(times_ms, n=100)
    passes = after["passes"] - before["passes"]
    wall_s = (after["wall_s"] - before["wall_s"]) / len(servers)
    return Round(
        n_sessions,
        len(times_ms),
        centiles[49],
        centiles[94],
        centiles[98],
        (after["cpu_s"] - before["cpu_s"]) / wall_s,
        (after["rows"] - before["rows"]) / max(1, passes),
        passes / wall_s,
        sum(text == talks[i % len(talks)].target for i, (text, _) in enumerate(heard)),
    )


def _sum_of(servers: Sequence[Server]) -> dict[str, float]:
    figures = [server.figures() for server in servers]
    return {name: sum(each[name] for each in figures) for name in figures[0]}


async def _speak(url: str, talk: Talk, delay_s: float) -> tuple[str, list[float]]:
    """Speak a talk; return what was heard, and the response time for each word in ms."""
    await asyncio.sleep(delay_s)
    sent_s: list[float] = []
    arrived_s: list[float] = []
    text = ""
    async with websockets.connect(url, compression=None) as socket:
        await socket.recv()

        async def send() -> None:
            began_s = time.perf_counter()
            for i, piece in enumerate(talk.pieces):
                await asyncio.sleep(max(0.0, began_s + i * WORD_S - time.perf_counter()))
                sent_s.append(time.perf_counter())
                await socket.send(_append(piece))
            await socket.send('{"type": "session.close"}')

        sending = asyncio.create_task(send())
        async for raw in socket:
            arrived_s.append(time.perf_counter())
            message = _decoded(raw)
            if message.type == "session.output_transcript.delta":
                text += message.delta
            if message.type == "error":
                raise RuntimeError(raw)
        await sending
    times_ms, known = [], 0
    for at_s, n_messages in zip(sent_s, talk.n_messages, strict=True):
        if n_messages > known:
            times_ms.append(1000 * (arrived_s[n_messages - 1] - at_s))
        known = n_messages
    return text, times_ms


async def one_after_another(
    server: Server, talks: Sequence[Talk], n_sessions: int, console: Console
) -> list[dict[str, float]]:
    """Sessions one after another; memory now and then."""
    rows = []
    for number in range(1, n_sessions + 1):
        talk = talks[number % len(talks)]
        text = await _say_at_once(server.url, "".join(talk.pieces[:10]))
        if not text:
            raise RuntimeError(f"session {number} said nothing")
        if number == 100 or number % max(1, n_sessions // 10) == 0:
            rows.append({"sessions": number, "rss_mb": server.rss_mb()})
            console.print(rows[-1])
    return rows


async def storm(
    server: Server,
    talks: Sequence[Talk],
    seconds: float,
    seed: int,
    console: Console,
    n_at_once: int = 32,
) -> dict[str, int]:
    """Sessions that come, go and are cut off; all that survive must equal those alone."""
    rng, ends_s = random.Random(seed), time.perf_counter() + seconds
    outcome = {"survived": 0, "equal": 0, "cut": 0}

    async def one() -> None:
        while time.perf_counter() < ends_s:
            talk = rng.choice(talks)
            if rng.random() < 0.5:
                await _cut_off(server.url, talk, rng)
                outcome["cut"] += 1
                continue
            text = await _say_at_once(server.url, "".join(talk.pieces), rng)
            outcome["survived"] += 1
            outcome["equal"] += text == talk.target

    await asyncio.gather(*(one() for _ in range(n_at_once)))
    console.print(outcome)
    return outcome


async def _say_at_once(url: str, source: str, rng: random.Random | None = None) -> str:
    text, at = "", 0
    async with websockets.connect(url, compression=None) as socket:
        while at < len(source):
            step = len(source) if rng is None else rng.randint(1, 40)
            await socket.send(_append(source[at : at + step]))
            at += step
            if rng is not None:
                await asyncio.sleep(rng.uniform(0, 0.02))
        await socket.send('{"type": "session.close"}')
        async for raw in socket:
            message = _decoded(raw)
            if message.type == "session.output_transcript.delta":
                text += message.delta
    return text


async def _cut_off(url: str, talk: Talk, rng: random.Random) -> None:
    """Speak a little, and vanish without a word: in mid-pass, as often as not."""
    socket = await websockets.connect(url, compression=None)
    await socket.send(_append("".join(talk.pieces[: rng.randint(1, 20)])))
    await asyncio.sleep(rng.uniform(0, 0.2))
    socket.transport.abort()


class _Message(msgspec.Struct):
    type: str
    delta: str = ""


# The speakers share two cores with the server, so they decode no more than they need.
_decoded = msgspec.json.Decoder(_Message).decode


def _append(text: str) -> str:
    return json.dumps({"type": "session.input_text_buffer.append", "text": text})


def talks_of(path: Path, seconds: float, policy: str) -> tuple[list[Talk], float]:
    """Texts of so many seconds, what they come to, and the CPU time a word takes alone."""
    sources = [item.source for item in read_corpus(path)]
    random.Random(0).shuffle(sources)
    model, tokenizer = mlx_simul.load()
    n_words = max(12, round(seconds / WORD_S))
    words = iter(word for source in sources for word in source.split())
    talks, began_s, n_fed = [], time.process_time(), 0
    for _ in range(N_TEXTS):
        pieces = tuple(f"{next(words)} " for _ in range(n_words))
        session = mlx_simul.SimulSession(model, tokenizer, policy=policy)
        protocol, counts, target = Protocol(), [], ""
        for piece in pieces:
            for event in session.feed(piece):
                protocol.say(event)
                target += event.text
            counts.append(protocol.told.seq)
        target += "".join(event.text for event in session.finish())
        talks.append(Talk(pieces, tuple(counts), target))
        n_fed += n_words
    return talks, 1000 * (time.process_time() - began_s) / n_fed


class Server:
    """The server under load.

    Args:
        process: of the command.
        address: that it printed.
    """

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self._process, self._address = process, address
        self.url = f"{address.replace('http', 'ws', 1)}/v1/realtime/translations"

    def figures(self) -> dict[str, float]:
        """Passes, rows and CPU time up to now."""
        from urllib.request import urlopen

        with urlopen(f"{self._address}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return {
            "passes": float(values["mlx_simul_passes_total"]),
            "rows": float(values["mlx_simul_pass_rows_total"]),
            "cpu_s": (int(fields[11]) + int(fields[12])) / 100,
            "wall_s": time.perf_counter(),
        }

    def rss_mb(self) -> float:
        """Memory of the process."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        line = next(line for line in text.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024


@contextmanager
def serving(policy: str, max_sessions: int) -> Iterator[Server]:
    command = [
        sys.executable, "-m", "mlx_simul", "serve", "--port", "0",
        "--max-sessions", f"{max_sessions}", "--max-sessions-per-key", f"{max_sessions}",
        "--resume-s", "5", "--set", f"session.policy={policy}",
    ]  # fmt: skip
    # Its log would come between the rows.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().split()[-1]
            yield Server(process, address)
        finally:
            process.terminate()


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", type=Path, required=True, help="a test set, as evaluate takes it")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 16, 32, 64, 128, 192, 256])
    parser.add_argument("--seconds", type=float, default=20.0, help="that each session speaks")
    parser.add_argument("--limit-ms", type=float, default=500.0)
    parser.add_argument("--policy", default="wait-k:3")
    parser.add_argument("--max-sessions", type=int, default=1000)
    parser.add_argument("--sequence", type=int, default=0, metavar="N")
    parser.add_argument("--storm", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--servers", type=int, default=1, help="that share the sessions")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
