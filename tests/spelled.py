"""A loop whose model knows what it wants to write, in characters, bytes or longer tokens."""

from dataclasses import replace

from mlx_simul.loop.limits import Limits
from mlx_simul.loop.loop import NEED_SOURCE, SimulLoop
from mlx_simul.loop.requests import Pass, Reply
from mlx_simul.policies import WaitK
from mlx_simul.text.boundary import WordBoundaryStoppingCriteria
from mlx_simul.text.segmenter import SourceSegmenter


def words_of(text):
    """The source words of a text."""
    segmenter = SourceSegmenter()
    return [*segmenter.feed(text), *segmenter.finish()]


class Spelling:
    """A tokenizer whose entries are given as bytes; one that is no whole character is a byte."""

    eos_token_ids = (0,)
    added_tokens_decoder = ()

    def __init__(self, entries):
        self.entries = [b"<end>", *dict.fromkeys(entries)]
        self.vocab_size = len(self.entries)

    def decode(self, tokens):
        return b"".join(self.entries[token] for token in tokens).decode("utf-8", "replace")

    def get_vocab(self):
        return {str(entry): i for i, entry in enumerate(self.entries)}

    def encode(self, text, add_special_tokens=True):
        return []

    def batch_decode(self, rows, **options):
        return [self.decode(row) for row in rows]


class NoText:
    """A detokenizer that is not asked: what is written is judged by its tokens."""

    is_holding = False

    def add(self, token):
        return ""

    def flush(self):
        return ""


def in_characters(text):
    return [char.encode() for char in text]


def in_bytes(text):
    """As a tokenizer with byte fallback spells a script that it does not know."""
    return [bytes([byte]) for byte in text.encode()]


def in_threes(text):
    """Tokens of several characters, as large vocabularies have."""
    return [text[i : i + 3].encode() for i in range(0, len(text), 3)]


def translate(source, target, policy=None, cut=in_characters, **limits):
    """What a loop writes of a target that its model would write whole."""
    policy = policy or WaitK(3)
    entries = cut(target)
    spelling = Spelling(entries)
    script = [*(spelling.entries.index(entry) for entry in entries), 0]
    boundary = WordBoundaryStoppingCriteria(spelling)
    limits = Limits(**{"max_tokens": 100_000, **limits})
    loop = SimulLoop(
        policy, (1,), boundary, (0,), NoText(), limits, stop_early=False, clock_ms=lambda: 0.0
    )
    loop.add_segment([1])
    for word in words_of(source):
        loop.add_segment([1], word)
    loop.close_source([1])
    steps, events, n_fed, reply = loop.steps(), [], 0, None
    while not events or not hasattr(events[-1], "reason"):
        step = steps.send(reply)
        reply = None
        assert step != NEED_SOURCE
        if not isinstance(step, Pass):
            events.append(step)
        elif step.target_ids:
            # The header is one token; those behind it are the script's.
            n_fed += len(step.target_ids) - step.n_rewind
            predicted = [script[min(n_fed - 1, len(script) - 1)]]
            for draft in step.draft_ids:
                if draft != predicted[-1]:
                    break
                n_fed += 1
                predicted.append(script[min(n_fed - 1, len(script) - 1)])
            reply = Reply(tuple(predicted), 1)
        else:
            n_fed -= step.n_rewind
            reply = Reply((), 1)
    return replace(events[-1], target_text=spelling.decode(events[-1].token_ids))
