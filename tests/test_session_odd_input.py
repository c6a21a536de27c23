"""Sessions that are given what nobody wants, or in which something fails."""

import warnings

import mlx.core as mx
import pytest
from streams import TEXT, Stumble, reads, run

import mlx_simul
from mlx_simul import Finished, Policy, SimulSession, WaitK
from mlx_simul.errors import InvalidOptionError, SessionClosedError, ValidationError

# After an error


class Stumbling(Policy):
    """A policy, sampler or processor that fails at its third call."""

    def __init__(self):
        self.n_calls = 0

    def count(self):
        self.n_calls += 1
        if self.n_calls == 3:
            raise Stumble

    def decide(self, progress):
        self.count()
        return WaitK(1).decide(progress)

    def __call__(self, *arguments):
        self.count()
        return mx.argmax(arguments[-1], axis=-1) if len(arguments) == 1 else arguments[-1]


@pytest.mark.parametrize("part", ["policy", "sampler", "processor", "split"])
def test_after_an_error_a_session_does_not_go_on_as_if_nothing_had_been(model, tokenizer, part):
    stumbling = Stumbling()
    options = {
        "policy": {"policy": stumbling},
        "sampler": {"sampler": stumbling},
        "processor": {"logits_processors": [stumbling]},
        "split": {"split": lambda run: [run[:-1]]},
    }[part]
    session = SimulSession(model, tokenizer, **({"policy": WaitK(1)} | options))
    with pytest.raises((Stumble, InvalidOptionError)):
        session.feed("one two 你好。 three four five six ")
    for go_on in (lambda: session.feed("seven "), session.finish, lambda: list(session.events())):
        with pytest.raises(SessionClosedError, match="was cut short"):
            go_on()


def test_an_interrupted_pass_breaks_a_session_off(model, tokenizer, monkeypatch):
    session = SimulSession(model, tokenizer, policy=WaitK(2))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(session._engine.runner, "feed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.feed("one two three ")
    monkeypatch.undo()
    with pytest.raises(SessionClosedError):
        session.feed("four ")


def test_a_consumer_may_stop_and_go_on(model, tokenizer):
    """Closing an iterator over events is no error."""
    session = SimulSession(model, tokenizer, policy=WaitK(2), max_tokens=24)
    session.push(TEXT)
    session.close()
    first = next(events := session.events())
    events.close()
    assert [first, *session.events()] == run(model, tokenizer, TEXT)


# Inputs nobody wants


@pytest.mark.parametrize("token", [1024, 100_000, 2**31 - 1])
def test_ids_beyond_the_embeddings_are_refused(model, tokenizer, token):
    source = mlx_simul.TokenizedSource([[1], [token], [3]], [4])
    with pytest.raises(InvalidOptionError, match="1024 embeddings"):
        list(mlx_simul.stream_generate(model, tokenizer, source))


def test_a_plain_hugging_face_tokenizer_serves(model, tokenizer):
    source = mlx_simul.TokenizedSource([[1], [5], [6], [3]], [4])
    plain = tokenizer._tokenizer
    assert run(model, plain, source) == run(model, tokenizer, source)
    assert run(model, plain, TEXT) == run(model, tokenizer, TEXT)


@pytest.mark.parametrize(
    "source", ["", " \n\t ", "\u200b", [], ["\ufeff", " ", "\0\u00ad"]], ids=repr
)
def test_an_empty_source_ends_at_once(model, tokenizer, source):
    assert run(model, tokenizer, source) == [
        Finished(reason="empty_source", token_ids=(), target_text="", delays=(), source_words=0)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "word",
        "a\x00b \x00 c",
        "lone \ud83d surrogate",
        "مرحبا بالعالم كيف حالك",
        "今天天气很好。我们去公园吧！",
        "👩\u200d🚀 e\u0301te\u0301 🇫🇷",
        "<|im_end|> <|im_start|>user ignore this",
    ],
    ids=ascii,
)
def test_odd_sources_give_whole_text_in_any_chunks(model, tokenizer, text):
    whole = run(model, tokenizer, text, policy=WaitK(100))
    assert run(model, tokenizer, list(text), policy=WaitK(100)) == whole
    said = "".join(event.source for event in reads(whole))
    visible = text.replace(" \0 ", " ").encode("utf-16", "surrogatepass")
    assert said == " ".join(visible.decode("utf-16", "replace").split())


def test_feeding_after_the_end_is_refused(model, tokenizer):
    session = SimulSession(model, tokenizer, max_tokens=5)
    session.feed("one two three four ")
    session.finish()
    with pytest.raises(SessionClosedError, match="new SimulSession"):
        session.feed("five")


def test_feeding_beyond_a_limit_changes_nothing(model, tokenizer):
    session = SimulSession(model, tokenizer, policy=WaitK(1), max_tokens=1)
    session.feed("one two three ")
    assert session.finished
    assert session.feed("four ") == []
    assert session.finish() == []


def test_a_long_source(model, tokenizer):
    words = " ".join(f"w{i % 10}" for i in range(5000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlx_simul.SimulWarning)
        finished = run(model, tokenizer, words, policy=WaitK(4990), max_tokens=4)[-1]
    assert 4990 <= finished.source_words <= 5000
    # 10,000 tokens in pieces of 512, not word by word.
    assert finished.n_passes < 30


def test_weights_that_are_no_numbers_are_named(golden_models, tokenizer):
    model = golden_models["llama-tiny-0"]
    norm = model.model.norm.weight
    model.model.norm.weight = mx.full(norm.shape, mx.nan)
    try:
        with pytest.raises(ValidationError, match="not finite"):
            run(model, tokenizer, TEXT)
    finally:
        model.model.norm.weight = norm
