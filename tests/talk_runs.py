"""Runs of talks made from a seed: what was said, and a translation with errors of every kind."""

import random

from mlx_simul.evaluation.corpus import Item
from mlx_simul.evaluation.talk_record import Shown, TalkRecord
from mlx_simul.evaluation.talks import Sentence, Talk, talk_at_pace

WORDS = [
    "le",
    "la",
    "un",
    "chat",
    "chats",
    "chien",
    "Hood.",
    "Hood",
    "mange",
    "demain",
    "été",
    "3.5",
]
WORDS += ["(ici)", *",.!?-"]
CHARACTERS = "猫は家で寝る犬も外に走る。、"


def random_run(seed, index, unit="word", n_sentences=None, n_words=14):
    """A record: units left out, changed, added; whole sentences left out; work of any length.

    Half of the talks are said at a pace, the others word by word with pauses.
    """
    rng = random.Random(f"{seed} {index} {unit}")
    talk = _talk(rng, unit, n_sentences or rng.randint(1, 8), n_words)
    units = [each for s in talk.sentences for each in _translation(rng, s.references[0], unit)]
    n_source = len(talk.said_ms)
    fed_ms = [0.0]
    while len(fed_ms) < n_source:
        fed_ms.append(fed_ms[-1] + rng.uniform(0, 900))
    shown, time_ms = [], 0.0
    for text, n_read in zip(units, sorted(rng.randint(1, n_source) for _ in units), strict=True):
        time_ms = max(time_ms, fed_ms[n_read - 1]) + rng.choice([0, rng.uniform(0, 300)])
        shown += _pieces(rng, text, n_read, time_ms, unit)
    return TalkRecord(index, talk, tuple(shown), tuple(fed_ms))


def exact_run(talk, unit="word", lag_words=0):
    """The references, each sentence spread over its words, by so many words later."""
    n_source, shown, first = len(talk.said_ms), [], 0
    for sentence in talk.sentences:
        text = sentence.references[0]
        units = text.split() if unit == "word" else list(text)
        for i, each in enumerate(units):
            n_read = min(n_source, first + 1 + i * len(sentence.said_ms) // len(units) + lag_words)
            text = each + (" " if unit == "word" else "")
            shown.append(Shown(text, n_read, 10.0 * n_read - 5))
        first += len(sentence.said_ms)
    return TalkRecord(0, talk, tuple(shown), tuple(10.0 * i for i in range(n_source)))


def _talk(rng, unit, n_sentences, n_words):
    joint, pool = (" ", WORDS) if unit == "word" else ("", CHARACTERS)

    def some(joint, pool):
        return joint.join(rng.choice(pool) for _ in range(rng.randint(1, n_words)))

    items = [Item(some(" ", "abcdefgh"), (some(joint, pool),)) for _ in range(n_sentences)]
    if rng.random() < 0.5:
        return talk_at_pace(items, rng.choice([400, rng.uniform(100, 700)]))
    sentences, now_ms = [], 0.0
    for item in items:
        start_ms = now_ms = now_ms + rng.choice([0, rng.uniform(0, 2000)])
        said_ms = [now_ms := now_ms + rng.uniform(50, 700) for _ in item.source.split()]
        sentences.append(Sentence(item.source, item.references, start_ms, tuple(said_ms)))
    return Talk(tuple(sentences))


def _translation(rng, reference, unit):
    if rng.random() < 0.15:
        return
    pool = WORDS if unit == "word" else CHARACTERS
    for each in reference.split() if unit == "word" else reference:
        if rng.random() < 0.15:
            continue
        yield rng.choice(pool) if rng.random() < 0.2 else each
        while rng.random() < 0.15:
            yield rng.choice(pool)


def _pieces(rng, text, n_read, time_ms, unit):
    """A unit shown at once, in two pieces, or after another that is taken back."""
    end = " " if unit == "word" else ""
    match rng.randint(0, 5):
        case 0 if len(text) > 1:
            return [Shown(text[:1], n_read, time_ms), Shown(text[1:] + end, n_read, time_ms)]
        case 1:
            return [
                Shown("hm" + end, n_read, time_ms),
                Shown(text + end, n_read, time_ms, 2 + len(end)),
            ]
    return [Shown(text + end, n_read, time_ms)]
