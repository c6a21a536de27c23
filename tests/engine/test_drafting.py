"""Drafters over models: the same tokens in fewer passes, and under a sampler the same chances."""

import itertools
from collections import Counter
from itertools import pairwise

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.sample_utils import make_sampler
from streams import TEXT, run
from tiny_models import first_of, tiny_model
from tiny_tokenizers import sentencepiece_bpe

from mlx_simul import SimulSession, SimulWarning, WaitK, archs
from mlx_simul.archs.streaming_config import StreamingConfig
from mlx_simul.engine import StreamingEngine, make_engine
from mlx_simul.engine.base import Engine
from mlx_simul.engine.drafting import ModelDrafter, make_drafter
from mlx_simul.errors import InvalidOptionError
from mlx_simul.loop.drafters import NGramDrafter
from mlx_simul.loop.requests import Pass
from mlx_simul.policies import Action, LocalAgreement, Policy, WholeSource

FAMILIES = ("gemma2", "gemma3_text", "internlm2", "llama", "mistral", "olmo2", "phi3", "qwen3")
MODELS = [first_of(name, vocab_size=1024) for name in FAMILIES]
STREAMS = [
    pytest.param(variation, mode, id=f"{variation}-{mode}")
    for variation in MODELS
    for mode in archs.find(variation.model_type).modes
]
HYBRID = first_of("lfm2", vocab_size=1024)
LEARNED_POSITIONS = first_of("gpt2", vocab_size=1024)


class Random:
    """Guesses anything, and now and then what a model would say."""

    def __init__(self, inner, seed):
        self.inner, self.seed = inner, seed

    def follow(self, request):
        self.inner.follow(request)

    def guess(self):
        self.seed = self.seed * 48271 % 2147483647
        token = self.inner.guess()
        return token if self.seed % 3 else 3 + self.seed % 900


class Leaping(Policy):
    """Reads two words at a time, of which a live source has but one at hand."""

    def decide(self, progress):
        wanted = 2 * progress.target_words_generated + 1
        return Action.WRITE if progress.source_words_read >= wanted else Action.READ


def drafter_of(kind, model, seed=1):
    """Options that let something guess: the model itself, which is right, among them."""
    if kind == "smaller":
        return {"draft": (tiny_model(first_of("qwen2", vocab_size=1024)), None)}
    if kind == "random":
        return {"draft": Random(ModelDrafter(make_engine(model)), seed)}
    return {"draft": NGramDrafter() if kind == "ngram" else ModelDrafter(make_engine(model))}


@pytest.mark.parametrize(("variation", "mode"), STREAMS)
@settings(max_examples=4)
@given(
    kind=st.sampled_from(["ngram", "smaller", "itself", "random"]),
    n=st.integers(1, 6),
    policy=st.builds(WaitK, st.integers(1, 7)) | st.sampled_from([Leaping(), LocalAgreement(2)]),
    per_word=st.sampled_from([1, 2, 50]),
    cuts=st.lists(st.integers(0, len(TEXT)), max_size=9),
    early_eos=st.sampled_from(["read", "stop"]),
)
def test_a_drafter_changes_no_event(
    variation, mode, tokenizer, kind, n, policy, per_word, cuts, early_eos
):
    model = tiny_model(variation)
    edges = [0, *sorted(cuts), len(TEXT)]
    options = {
        "policy": policy,
        "mode": mode,
        "max_tokens": 16,
        "max_tokens_per_word": per_word,
        "early_eos": early_eos,
    }
    guesses = drafter_of(kind, model) | {"num_draft_tokens": n}
    if kind == "smaller":
        guesses["draft"] = (guesses["draft"][0], tokenizer)
    chunks = [TEXT[a:b] for a, b in pairwise(edges)]
    drafted = run(model, tokenizer, chunks, **options, **guesses)
    assert drafted == run(model, tokenizer, TEXT, **options)


def test_an_engine_that_believes_its_drafts_is_told_apart(model, tokenizer, monkeypatch):
    """Negative control of the law above."""
    wanted = run(model, tokenizer, TEXT)

    def agree(self, found, drafts):
        return [*drafts, found[-1][1]]

    monkeypatch.setattr(Engine, "agree", agree)
    assert run(model, tokenizer, TEXT, draft="ngram") != wanted


@pytest.mark.parametrize("compat", [False, True])
def test_a_model_that_drafts_for_itself_is_always_right(model, tokenizer, compat):
    """It sees what the model sees: in most passes a whole word is had at once."""
    options = {"max_tokens": 60, "gpe_compat": compat, "target_start": 0}
    plain = run(model, tokenizer, TEXT, **options)
    itself = ModelDrafter(make_engine(model, target_start=0, gpe_compat=compat))
    drafted = run(model, tokenizer, TEXT, **options, draft=itself, num_draft_tokens=6)
    assert drafted == plain
    assert drafted[-1].n_passes < 0.7 * plain[-1].n_passes


def test_it_is_right_of_what_was_proposed_and_taken_back_too(model, tokenizer):
    options = {"policy": LocalAgreement(2), "target_start": 0, "max_tokens_per_word": 4}
    plain = run(model, tokenizer, TEXT, **options)
    itself = ModelDrafter(make_engine(model, target_start=0))
    drafted = run(model, tokenizer, TEXT, **options, draft=itself, num_draft_tokens=6)
    assert drafted == plain
    assert drafted[-1].n_passes < 0.5 * plain[-1].n_passes


def test_looking_up_pays_where_the_target_repeats_itself(model, tokenizer):
    plain = run(model, tokenizer, TEXT, max_tokens=200, policy=WaitK(30))
    drafted = run(model, tokenizer, TEXT, max_tokens=200, policy=WaitK(30), draft="ngram")
    assert drafted == plain
    assert drafted[-1].n_passes < 0.9 * plain[-1].n_passes


def test_a_prefix_that_is_shared_is_known_to_the_drafter_too(model, tokenizer):
    plain = run(model, tokenizer, TEXT, max_tokens=40)
    options = {"policy": WaitK(2), "max_tokens": 40}
    prefix = SimulSession(model, tokenizer, **options).encode_prefix()
    for _ in range(2):
        itself = ModelDrafter(make_engine(model))
        assert run(model, tokenizer, TEXT, max_tokens=40, prefix=prefix, draft=itself) == plain
        assert itself._engine.source_tokens > len(prefix.token_ids)


def test_the_smaller_model_is_fed_what_is_written_and_nothing_twice(model, tokenizer):
    itself = ModelDrafter(make_engine(model))
    finished = run(model, tokenizer, TEXT, max_tokens=40, draft=itself)[-1]
    sure = itself._fed[: itself._n_sure]
    n_header = len(itself._header)
    assert tuple(sure[n_header:]) == finished.token_ids[: len(sure) - n_header]
    assert itself._engine.target_tokens == len(itself._fed)


@pytest.mark.parametrize(
    ("policy", "setting"),
    [
        pytest.param(WholeSource(), {"target_start": 0}, id="learned positions end"),
        pytest.param(WaitK(3), {"mode": "interleaved"}, id="another mode"),
    ],
)
def test_a_drafter_that_cannot_follow_lets_the_stream_go_on(model, tokenizer, policy, setting):
    text = " ".join([TEXT] * 12)
    options = {"policy": policy, "max_tokens": 8}
    smaller = ModelDrafter(make_engine(tiny_model(LEARNED_POSITIONS), **setting))
    with pytest.warns(SimulWarning, match="has stopped guessing"):
        drafted = run(model, tokenizer, text, **options, draft=smaller)
    assert drafted == run(model, tokenizer, text, **options)


def test_a_draft_model_streams_in_groups_however_it_was_trained(model, tokenizer, monkeypatch):
    smaller = tiny_model(first_of("llama", vocab_size=1024))
    monkeypatch.setattr(smaller, "streaming_config", StreamingConfig(mode="interleaved"))
    drafter = make_drafter(make_engine(model), tokenizer, (smaller, tokenizer))
    assert isinstance(drafter._engine, StreamingEngine)


# What is refused


def test_what_cannot_draft_is_refused(model, tokenizer):
    other = sentencepiece_bpe()
    plain, hybrid = tiny_model(MODELS[0]), tiny_model(HYBRID)
    for options, complaint in (
        ({"draft": (plain, other)}, "tokenizer differs from the model's: .* is token"),
        ({"draft": (hybrid, tokenizer)}, "draft model is a 'lfm2'.*mode 'group'"),
        ({"draft": plain}, "as mlx_simul.load gives them"),
        ({"draft": "bigram"}, "object with follow and guess, got 'bigram'"),
        ({"draft": NGramDrafter}, "an object"),
        ({"num_draft_tokens": 0}, "at least 1, got 0"),
    ):
        with pytest.raises(InvalidOptionError, match=complaint):
            SimulSession(model, tokenizer, **options)
    with pytest.raises(InvalidOptionError, match="the model is a 'lfm2'"):
        SimulSession(hybrid, tokenizer, draft="ngram")


def test_vocabularies_may_be_padded_differently(model, tokenizer):
    wanted = run(model, tokenizer, TEXT)
    for size in (len(tokenizer.get_vocab()), 2048):
        padded = tiny_model(first_of("llama", vocab_size=size))
        for sampler in (None, make_sampler(temp=0.0)):
            assert run(model, tokenizer, TEXT, draft=(padded, tokenizer), sampler=sampler) == wanted


# Sampling


class Chain(Engine):
    """A Markov chain in a model's place: row i of its table follows token i."""

    n_passes = source_tokens = 0
    state = None

    def __init__(self, table, sampler=None):
        super().__init__(tiny_model(MODELS[0]), sampler)
        self.table = mx.log(mx.array(table))
        self.target = []

    @property
    def target_tokens(self):
        return len(self.target)

    def read(self, token_ids):
        raise AssertionError

    def write(self, token_ids):
        self.target += token_ids
        return self.table[mx.array(token_ids)][None]

    def roll_back(self, n_tokens):
        del self.target[len(self.target) - n_tokens :]


class Believing(Chain):
    """Takes every draft that is not impossible."""

    def _draw(self, logits, written, drafts, seed):
        return [*drafts, self._draw_one(logits[-1:], written, drafts)]


class Stubborn(Chain):
    """Gives a draft that it did not draw a second chance, which looks harmless."""

    def _draw(self, logits, written, drafts, seed):
        drawn = super()._draw(logits, written, drafts, seed)
        return drawn if len(drawn) > len(drafts) else super()._draw(logits, written, drafts, seed)


TABLE = [[0.6, 0.3, 0.1], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4]]
GUESSED = [[0.5, 0.2, 0.3], [0.3, 0.4, 0.3], [0.1, 0.5, 0.4]]
N_TOKENS = 3


class Cyclic:
    """Guesses the token after the last: a draft without chances, as n-grams are."""

    def follow(self, request):
        self.last = (*request.target_ids, *request.draft_ids)[-1]

    def guess(self):
        self.last = (self.last + 1) % 3
        return self.last


class OwnDice(ModelDrafter):
    """Draws its guesses for itself."""

    def follow(self, request):
        super().follow(request)
        self._dice += 12345


def smaller_chain(sampler, kind=ModelDrafter):
    return kind(Chain(GUESSED), sampler)


def sample(kind, drafter, n_draws, n_drafts=2, seed=0):
    """So many sequences that follow token 0, and the drafts that were accepted, of how many."""
    mx.random.seed(seed)
    sampler = make_sampler(temp=1.0)
    drawn, n_accepted, n_guessed = [], 0, 0
    for _ in range(n_draws):
        engine, guesses = kind(TABLE, sampler), drafter(sampler)
        written = [0]
        while len(written) <= N_TOKENS:
            request = Pass((), tuple(written[-1:]), written=written[1:])
            guesses.follow(request)
            draft_ids = tuple(guesses.guess() for _ in range(n_drafts))
            reply = engine.run(Pass((), request.target_ids, 0, draft_ids, 0, written[1:]))
            written += reply.token_ids
            n_accepted += len(reply.token_ids) - 1
            n_guessed += len(draft_ids)
        drawn.append(tuple(written[1 : N_TOKENS + 1]))
    return drawn, n_accepted / n_guessed


def surprise(drawn):
    """Chi-square of sequences against the chain's own distribution."""
    counts, total = Counter(drawn), 0.0
    for sequence in itertools.product(range(3), repeat=N_TOKENS):
        p = 1.0
        for a, b in pairwise((0, *sequence)):
            p *= TABLE[a][b]
        wanted = p * len(drawn)
        total += (counts[sequence] - wanted) ** 2 / wanted
    return total


BEYOND_CHANCE = 54.05
"""The chi-square that one in a thousand exceeds by chance, 27 cells."""

DRAFTERS = {
    "ngram": lambda sampler: Cyclic(),
    "model": smaller_chain,
    "own-dice": lambda sampler: smaller_chain(sampler, OwnDice),
}


@pytest.mark.parametrize("kind", [Chain, Believing, Stubborn])
@pytest.mark.parametrize("drafter", ["ngram", "model"])
def test_sampling_in_long_drafts_is_as_without(kind, drafter):
    """Chi-square of three tokens each, of which two at a time were drafted."""
    drawn, accepted = sample(kind, DRAFTERS[drafter], 1500)
    assert (surprise(drawn) < BEYOND_CHANCE) == (kind is Chain)
    assert accepted > 0.1


def test_like_dice_agree_more_often():
    """By the bound for like dice, which independent draws are far from."""
    alike, apart = (sample(Chain, DRAFTERS[name], 600, 1)[1] for name in ("model", "own-dice"))
    rows = list(zip(TABLE, GUESSED, strict=True))
    distances = [sum(abs(p - q) for p, q in zip(*row, strict=True)) / 2 for row in rows]
    assert apart < 0.45
    assert alike > min((1 - d) / (1 + d) for d in distances)
