"""What listeners have been told of a stream, and how they are told of a session's events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mlx_simul.events import Finished, TurnEnd


class Mark(NamedTuple):
    """A place in the source after words that were recognised.

    Attributes:
        source_chars: all characters of the source up to it.
        spoken_chars: those of them that were recognised.
        audio_ms: the audio that they came from.
    """

    source_chars: int = 0
    spoken_chars: int = 0
    audio_ms: int = 0


@dataclass
class Told:
    """What listeners have been told of a stream; a stream that is resumed goes on from it.

    Attributes:
        seq: the number of the last message.
        turns: that have ended.
        reads: source deltas since then.
        writes: target deltas since then.
        commits: that were answered.
        closed: the last message was the last of all.
        marks: those after recognised words, the newest last. A message comes before the text itself
            reaches the journal, so which of them hold is known only when the journal is read.
    """

    seq: int = 0
    turns: int = 0
    reads: int = 0
    writes: int = 0
    commits: int = 0
    closed: bool = False
    marks: list[Mark] = field(default_factory=list, compare=False, repr=False)

    @property
    def mark(self) -> Mark:
        """The newest."""
        return self.marks[-1] if self.marks else Mark()

    def count(self, message: Mapping[str, Any]) -> None:
        """Count a numbered message."""
        self.seq = message["seq"]
        match message["type"]:
            case "session.turn.done":
                self.turns, self.reads, self.writes = message["turn"] + 1, 0, 0
            case "session.input_transcript.delta":
                self.reads += 1
            case "session.output_transcript.delta":
                self.writes += 1
            case "session.input_text_buffer.committed":
                self.commits = message["commits"]
            case "session.input_audio_buffer.recognised":
                spoken_chars = self.mark.spoken_chars + len(message["text"])
                at = message["position_chars"], spoken_chars, message["audio_ms"]
                self.marks.append(Mark(*at))
            case "session.input_audio_buffer.lost":
                self.forget_behind(message["position_chars"])
            case "session.closed":
                self.closed = True

    def forget_behind(self, source_chars: int) -> bool:
        """Keep the newest mark that a source of this length has; whether there were later ones."""
        kept = [mark for mark in self.marks if mark.source_chars <= source_chars]
        is_lost = len(kept) < len(self.marks)
        self.marks = kept[-1:]
        return is_lost


def turn_done(end: TurnEnd) -> dict[str, Any]:
    """How clients hear of a turn that has ended, but for the number of the message."""
    return {
        "type": "session.turn.done",
        "turn": end.turn,
        "source_text": end.source_text,
        "target_text": end.target_text,
        "source_span_words": list(end.source_span_words),
        "target_span_words": list(end.target_span_words),
        "delays": list(end.delays),
        "began_ms": round(end.began_ms),
        "word_times_ms": [round(time_ms) for time_ms in end.word_times_ms],
        "time_ms": round(end.time_ms),
        "ended_by": end.ended_by,
        "reason": end.reason,
        **_stop_of(end),
    }


def session_closed(finished: Finished) -> dict[str, Any]:
    """How clients hear of a stream's end, likewise."""
    return {
        "type": "session.closed",
        "reason": finished.reason,
        **_stop_of(finished),
        "usage": usage_of(finished),
    }


def _stop_of(end: TurnEnd | Finished) -> dict[str, Any]:
    return {} if end.stop is None else {"stop": end.stop}


def usage_of(finished: Finished) -> dict[str, Any]:
    """What a stream has used, as clients and logs say it."""
    return {
        "source_words": finished.source_words,
        "target_words": finished.target_words,
        "turns": finished.turns,
        "passes": finished.n_passes,
        "total_ms": round(finished.total_ms),
    }
