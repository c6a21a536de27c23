"""What the tests of sessions share: a text, and streams over it."""

from dataclasses import replace

import mlx_simul
from mlx_simul import Finished, Read, TurnEnd, WaitK, Write

TEXT = "Good morning, how are you today? I would like to buy a ticket to Paris, please."


def run(model, tokenizer, source, **options):
    """All events of a short stream, wait-2 unless said otherwise."""
    options = {"policy": WaitK(2), "max_tokens": 24} | options
    if "make_engine" not in options:
        return list(mlx_simul.stream_generate(model, tokenizer, source, **options))
    session = mlx_simul.SimulSession(model, tokenizer, **options)
    chunks = [source] if isinstance(source, str) else source
    events = [event for chunk in chunks for event in session.feed(chunk)]
    return [*events, *session.finish()]


def writes(events):
    """The Write events among them."""
    return [event for event in events if isinstance(event, Write)]


def reads(events):
    """The Read events among them."""
    return [event for event in events if isinstance(event, Read)]


def without_drafts(kind):
    """A made-up stream whose engine keeps no draft."""

    class TakesNoDrafts(kind):
        def _answer(self, request):
            return super()._answer(replace(request, draft_ids=()))

    return TakesNoDrafts


class Stumble(Exception):
    """Something of the user's that fails once."""


def words_of(events):
    """What was written, cut at white space, and the source words read when it was all there.

    That is the delay that ``Finished`` notes, unless half a character held the word's end back:
    it is there only with the next one then. What comes with another delay is another word, even
    without white space between: the one before was there by itself.
    """
    texts, part, delay = {}, "", 0
    for event in events:
        if isinstance(event, Read):
            delay = event.source_words_read
        elif isinstance(event, Write):
            part += event.text
        is_word = isinstance(event, Write) and event.word_complete
        if is_word or isinstance(event, TurnEnd | Finished):
            texts[delay] = texts.get(delay, "") + part
            part = ""
    return [(word, delay) for delay, text in texts.items() for word in text.split()]
