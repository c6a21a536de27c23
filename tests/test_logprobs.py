"""Log probabilities of what is written are those of one teacher-forced pass over it."""

import json

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.sample_utils import make_logits_processors
from streams import TEXT, run, writes
from tiny_models import first_of, tiny_model

from mlx_simul import Sessions, WaitK, archs
from mlx_simul.engine import drawing, make_engine
from mlx_simul.events import as_plain
from mlx_simul.loop.requests import Evidence
from mlx_simul.policies import Confidence, LocalAgreement, WholeSource
from mlx_simul.text.prompts import TokenizedSource
from mlx_simul.training.batches import Sample, collate
from mlx_simul.training.layout import Example
from mlx_simul.training.loss import streaming_logits

MODEL = first_of("qwen2", vocab_size=1024)
HYBRID = first_of("lfm2", vocab_size=1024)
SOURCE = TokenizedSource([[5, 6], [30], [31, 32, 33], [34], [35, 36], [37], [7]], [8, 9])
START = 40
WAYS = {
    "greedy": {},
    "sampled": {"temp": 1.5},
    "n-grams guess": {"draft": "ngram", "num_draft_tokens": 3},
    "a logits processor": {"repetition_penalty": 5.0},
    "the reference mode": {"gpe_compat": True, "policy": WaitK(2)},
}


def ids_of(segments):
    return [token for segment in segments for token in segment]


def taught(logits, tokens):
    """The log probability of each token in its row of (N, V) logits."""
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return [logprobs[i, token].item() for i, token in enumerate(tokens)]


def said(events):
    """What the events say of the tokens that they write."""
    return [write.logprob for write in writes(events)]


def tokens_of(events):
    return [write.token for write in writes(events)]


def whole(model, mode, tokens):
    """One pass over a wholly read source and all tokens, in some mode."""
    engine = make_engine(model, mode=mode, **({"target_start": START} if mode == "group" else {}))
    feed = [*SOURCE.header, *tokens[:-1]]
    rows = engine.read_and_write(ids_of(SOURCE.segments), feed)[0]
    return taught(rows[len(SOURCE.header) - 1 :], tokens)


def stream(model, tokenizer, **options):
    if options.get("mode", "group") == "group":
        options["target_start"] = START
    usual = {"logprobs": True, "max_tokens": 30, "max_tokens_per_word": 3}
    options = {**usual, "max_target_source_ratio": None, **options}
    return run(model, tokenizer, SOURCE, **options)


@pytest.mark.parametrize("variation", [MODEL, HYBRID], ids=["plain", "hybrid"])
@pytest.mark.parametrize("way", ["greedy", "sampled", "a logits processor"])
def test_in_every_mode_they_are_those_of_one_pass(variation, way, tokenizer):
    model = tiny_model(variation)
    for mode in archs.of(model).modes:
        events = stream(model, tokenizer, policy=WholeSource(), mode=mode, **WAYS[way])
        tokens = tokens_of(events)
        assert len(tokens) > 5
        assert said(events) == pytest.approx(whole(model, mode, tokens), abs=2e-4)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "the reference mode"])
@pytest.mark.parametrize("wait_k", [1, 3])
def test_under_wait_k_they_are_those_of_the_training_pass(way, wait_k, tokenizer):
    """To the end of the stream, where a policy judges nothing any more."""
    model = tiny_model(MODEL)
    events = stream(model, tokenizer, policy=WaitK(wait_k), **WAYS[way])
    assert said(events) == pytest.approx(trained(model, events, wait_k), abs=2e-4)
    assert sum(write.source_words_read == 5 for write in writes(events)) > 5


@pytest.mark.parametrize("wait_k", [2, 4])
def test_a_schedule_one_word_off_is_told_apart(wait_k, tokenizer):
    """Negative control of both laws above."""
    model = tiny_model(MODEL)
    events = stream(model, tokenizer, policy=WaitK(wait_k))
    assert said(events) != pytest.approx(trained(model, events, wait_k - 1), abs=2e-3)


def trained(model, events, wait_k):
    """One masked pass over the words as they were written."""
    words, word = [], []
    for write in writes(events):
        word.append(write.token)
        if write.word_complete:
            words.append(tuple(word))
            word = []
    if word:
        words.append(tuple(word))
    example = Example(SOURCE.segments, (SOURCE.header, *words, (2,)))
    logits = streaming_logits(model, collate([Sample(example, wait_k, START)]))[0]
    return taught(logits[len(SOURCE.header) - 1 :], tokens_of(events))


@pytest.mark.parametrize("policy", [LocalAgreement(2), Confidence(0.02)], ids=str)
def test_beside_a_policy_that_judges_they_change_no_event(policy, tokenizer):
    model = tiny_model(MODEL)
    plain = stream(model, tokenizer, policy=policy, logprobs=False)
    told = stream(model, tokenizer, policy=policy)
    assert told == plain
    assert said(plain) == [None] * len(writes(plain))
    assert all(logprob < 0 for logprob in said(told))


@pytest.mark.parametrize("way", WAYS)
def test_an_accepted_draft_says_the_same_as_a_token_of_its_own_pass(way, tokenizer):
    model = tiny_model(MODEL)
    options = {"policy": WaitK(2), "logprobs": True, "seed": 1} | WAYS[way]
    alone = run(model, tokenizer, TEXT, **{**options, "draft": None})
    drafted = run(model, tokenizer, TEXT, **{**options, "draft": (model, tokenizer)})
    assert drafted == alone
    assert drafted[-1].n_passes < alone[-1].n_passes
    assert said(drafted) == pytest.approx(said(alone), abs=2e-4)


def test_in_a_batch_each_stream_has_its_own(tokenizer):
    model = tiny_model(MODEL)
    texts = TEXT, TEXT[20:], "Hello."
    wanted = [True, False, True]
    batch = Sessions(model, tokenizer)
    sessions = [batch.add(policy="wait-k:2", max_tokens=20, logprobs=asked) for asked in wanted]
    for session, text in zip(sessions, texts, strict=True):
        session.push(text)
        session.close()
    events = {session: [] for session in sessions}
    for session, event in batch.events():
        events[session].append(event)
    for session, text, asked in zip(sessions, texts, wanted, strict=True):
        alone = run(model, tokenizer, text, max_tokens=20, logprobs=True)
        there = said(events[session])
        assert there == (pytest.approx(said(alone), abs=2e-4) if asked else [None] * len(there))


def test_without_the_option_nothing_is_computed(tokenizer, monkeypatch):
    looked = []
    odds = drawing._odds
    monkeypatch.setattr(drawing, "_odds", lambda parts: looked.extend(parts) or odds(parts))
    model = tiny_model(MODEL)
    run(model, tokenizer, TEXT, policy=WaitK(2))
    assert not looked
    run(model, tokenizer, TEXT, policy=WaitK(2), logprobs=True)
    assert looked


def test_json_names_them_only_if_they_were_asked_for(tokenizer):
    model = tiny_model(MODEL)
    told, plain = (
        [as_plain(write) for write in writes(stream(model, tokenizer, logprobs=asked))]
        for asked in (True, False)
    )
    assert all(isinstance(json.loads(json.dumps(each))["logprob"], float) for each in told)
    assert not any("logprob" in each for each in plain)


def test_a_token_too_unlikely_for_a_float_has_a_logarithm():
    ((probability, margin, logprob),) = drawing._odds([(mx.array([[0.0, -200.0]]), [1])])
    assert probability == 0 and margin == -1
    assert logprob == pytest.approx(-200)
    assert Evidence().logprob != Evidence().logprob  # not a number, unless it was asked for


def test_with_processors_mlx_lms_differ(tokenizer):
    """As docs/mlx-lm.md says: ours are before them, mlx-lm's and those of beams are after them."""
    model, policy = tiny_model(MODEL), WholeSource()
    processors = make_logits_processors(logit_bias={40: 3.0, 41: -2.0})
    # A bias looks at no prompt, of which mlx-lm's processors see more.
    prompt = [*ids_of(SOURCE.segments), *SOURCE.header]

    def theirs(logits_processors):
        replies = generate_step(
            mx.array(prompt), model, max_tokens=8, logits_processors=logits_processors
        )
        return [(token, logprobs[token].item()) for token, logprobs in replies]

    def ours(**more):
        start = {"target_start": len(ids_of(SOURCE.segments)), **more}
        events = run(model, tokenizer, SOURCE, policy=policy, max_tokens=8, logprobs=True, **start)
        return tokens_of(events), said(events)

    def close(a, b):
        return a == pytest.approx(b, abs=2e-4)

    plain, biased = theirs(None), theirs(processors)
    tokens, logprobs = ours()
    assert tokens == [token for token, _ in plain]
    assert close(logprobs, [logprob for _, logprob in plain])
    tokens, logprobs = ours(logits_processors=processors)
    assert tokens == [token for token, _ in biased]
    raw = taught(model(mx.array([[*prompt, *tokens[:-1]]]))[0, len(prompt) - 1 :], tokens)
    assert close(logprobs, raw)
    assert not close(logprobs, [logprob for _, logprob in biased])
    tokens, logprobs = ours(logits_processors=processors, num_beams=2)
    rows = model(mx.array([[*prompt, *tokens[:-1]]]))[0, len(prompt) - 1 :]
    assert close(logprobs, taught(processors[0](None, rows), tokens))
    assert not close(logprobs, taught(rows, tokens))
