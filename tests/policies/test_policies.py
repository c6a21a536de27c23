"""What each policy decides, and how it is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import without_drafts

from mlx_simul import WaitK
from mlx_simul.errors import InvalidOptionError
from mlx_simul.events import Read, Write
from mlx_simul.loop.progress import StreamingState
from mlx_simul.policies import (
    Action,
    AlignAtt,
    Confidence,
    HoldN,
    LocalAgreement,
    Needs,
    Policy,
    Proposal,
    ProposedWord,
    ReadNWriteM,
    Shown,
    WaitKCatchUp,
    WaitToken,
    WholeSource,
    as_policy,
    parse_policy,
    policy_names,
    spec_of,
    usage,
)
from mlx_simul.testing.scripted import END_OF_TURN, PIECES, WAIT, ScriptedStream


def state(n_read, n_written, n_words=20):
    progress = StreamingState([1] * (n_words + 1), source_complete=False)
    for _ in range(n_read):
        progress.mark_source_read()
    for _ in range(n_written):
        progress.mark_target_written()
    return progress


def wanted(policy, n_words):
    """Source words read before each of so many target words."""
    return [
        next(n for n in range(20) if policy.decide(state(n, i)) is Action.WRITE)
        for i in range(n_words)
    ]


def say(text, ended=True):
    return Proposal(tuple(ProposedWord(tuple(map(ord, word))) for word in text.split()), ended)


# Those that count


def test_waits_are_as_the_papers_have_them():
    assert wanted(WaitK(3), 5) == [3, 4, 5, 6, 7]
    assert wanted(WaitKCatchUp(3), 5) == [3, 4, 5, 6, 7]
    # STACL: k + i - floor(c i).
    assert wanted(WaitKCatchUp(3, catch_up=0.25), 9) == [3, 4, 5, 6, 6, 7, 8, 9, 9]
    assert wanted(WaitKCatchUp(2, stride=3), 7) == [2, 2, 2, 5, 5, 5, 8]
    assert wanted(ReadNWriteM(3, 2), 6) == [3, 3, 6, 6, 9, 9]
    assert all(WholeSource().decide(state(n, 0)) is Action.READ for n in range(20))


# Those that judge


def judged(policy, *hypotheses):
    """Words written after each hypothesis; each begins behind what is written, as in a stream."""
    counts, memory, n_written = [], None, 0
    for i, text in enumerate(hypotheses):
        n_words, memory = policy.judge(state(i + 1, n_written), say(text), memory)
        counts.append(n_words)
        n_written += n_words
    return counts


def test_agreement_counts_the_last_word_of_the_shorter_hypothesis():
    assert judged(LocalAgreement(2), "the cat", "the cat sat") == [0, 2]
    assert judged(LocalAgreement(2), "the cat", "the cat sat", "sat on") == [0, 2, 1]
    assert judged(LocalAgreement(2), "the cat", "a cat", "a dog", "dog") == [0, 0, 1, 1]
    assert judged(LocalAgreement(3), "a b", "a b c", "a b d", "d e", "d f") == [0, 0, 2, 0, 1]


def test_agreement_minds_what_was_written_though_less_than_it_let_stand():
    policy = LocalAgreement(2)
    _, memory = policy.judge(state(1, 0), say("a b c d"), None)
    n_words, memory = policy.judge(state(2, 0), say("a b c d"), memory)
    assert n_words == 4
    # A limit let only one of them be written.
    assert policy.judge(state(3, 1), say("b c x"), memory)[0] == 2


def test_words_are_held_back():
    assert judged(HoldN(2), "a", "a b c d", "c d e") == [0, 2, 1]
    assert judged(HoldN(0), "a b", "c") == [2, 1]


@pytest.mark.parametrize(
    ("f", "attention", "stands"),
    [
        (1, (0.3, 0.1, 0.2), True),
        (1, (0.1, 0.2, 0.3), False),
        (2, (0.1, 0.3, 0.2), False),
        (2, (0.3, 0.1, 0.2), True),
        (0, (0.1, 0.2, 0.3), True),
        (3, (0.3, 0.1, 0.2), False),
    ],
)
def test_attention_at_the_end_of_what_is_read_lets_nothing_stand(f, attention, stands):
    proposal = Proposal((ProposedWord((1,), attention=attention),), False)
    n_read = len(attention)
    assert AlignAtt(f).judge(state(n_read, 0), proposal, None) == (int(stands), None)


def test_confidence_is_that_of_the_least_sure_token_unless_it_is_late():
    proposal = Proposal((ProposedWord((1, 2), (0.9, 0.8), (0.8, 0.6)),), False)
    for policy, n_words in [
        (Confidence(0.6, max_lag=None), 1),
        (Confidence(0.61, max_lag=None), 0),
        (Confidence(0.61, max_lag=3), 1),
        (Confidence(0.61, max_lag=4), 0),
    ]:
        assert policy.judge(state(5, 2), proposal, None) == (n_words, None)


# In a stream


class Saying(ScriptedStream):
    """Predicts by script: text by the source words read, each behind what is written."""

    def __init__(self, policy, says, **limits):
        super().__init__(0, policy, **limits)
        self.says = says

    def predict(self):
        n_read = len(self.source) - 1
        tokens = [PIECES.index(piece) for piece in self.says[min(n_read, len(self.says) - 1)]]
        written = self.target[2:]
        assert written == tokens[: len(written)]
        return [*tokens, END_OF_TURN][len(written)]


def run(policy, says, source, **limits):
    stream = Saying(policy, says, **limits)
    stream.loop.add_segment([100])
    stream.feed([[i] for i in source], suffix=[200])
    return stream.events


def writes(events):
    return [(e.text, e.source_words_read) for e in events if isinstance(e, Write)]


def test_a_stream_under_agreement_forces_what_it_wrote():
    says = [[], [" a"], [" a", " b"], [" a", " b", "c", " a"], [" a", " b", "c", "d"]]
    events = run(LocalAgreement(2), [*says, says[-1]], [11, 13, 14, 15])
    assert writes(events) == [(" a", 2), (" b", 4), ("c", 4), ("d", 4)]


def test_the_end_of_a_turn_is_no_end_while_source_is_left():
    says = [[], [" a"], [" a"], [" a"], [" a", " b"], [" a", " b"]]
    for policy in (LocalAgreement(2), HoldN(0), Confidence(0.0)):
        events = run(policy, says, [11, 13, 14, 15])
        assert sum(isinstance(event, Read) for event in events) == 5
        assert events[-1].reason == "end_of_turn"
        assert events[-1].token_ids == (1, 2)


def test_hypotheses_are_in_a_row_though_a_read_between_them_gave_none():
    some, none = [" a", " b"], []
    events = run(LocalAgreement(2), [none, some, none, some, some], [11, 13, 15, 17])
    assert [n_read for _, n_read in writes(events)][:2] == [3, 3]


def test_a_sentence_ends_no_sooner_than_its_source():
    says = [[], *[[" a", "."]] * 9]
    ends = {
        name: [n_read for text, n_read in writes(run(HoldN(0), says, source)) if text == "."]
        for name, source in {
            "no end": [11] * 5,
            "end": [11, 12, 11, 11, 11],
            "recognised speech": [11] * 8,
        }.items()
    }
    assert ends == {"no end": [5], "end": [2], "recognised speech": [7]}


def sentence_ends(policy, says, source):
    return [n_read for text, n_read in writes(run(policy, says, source)) if text == "."]


def test_a_sentence_of_the_source_allows_for_one_of_the_target():
    says = [[], *[[" a", ".", " b", "."]] * 12]
    one_end, two_ends = [12, *[11] * 8], [12, 12, *[11] * 8]
    for policy in (HoldN(0), Confidence(0.0, max_lag=1), HoldN(0, min_words=2)):
        # The second is believed after six words more.
        first, second = sentence_ends(policy, says, one_end)
        assert first == policy.min_words and second >= first + 6
        assert sentence_ends(policy, says, two_ends)[1] <= 2
    # Of two that come without a reason one is believed at a time.
    assert sentence_ends(HoldN(0), says, [11] * 20) == [7, 14]


def test_a_doubt_does_not_outlast_what_was_doubted():
    doubted, other = [" a", "."], [" a", " b"]
    says = [[], doubted, *[other] * 6, *[[*other, "."]] * 12]
    (end,) = sentence_ends(HoldN(0), says, [11] * 20)
    assert end == 14


def test_a_model_that_waits_is_read_to_and_its_token_never_written():
    wait = PIECES[WAIT]
    says = [[], [wait], [" a", wait], [" a", "c", wait], [" a", "c", " b"], [" a", "c", " b"]]
    events = run(WaitToken(), says, [11, 13, 14, 15, 17])
    assert [text for text, _ in writes(events)][:1] == [" a"]
    assert WAIT not in events[-1].token_ids
    assert events[-1].source_words == 5


@given(st.integers(0, 500), st.integers(1, 4), st.floats(0.3, 2.0))
def test_limits_hold_for_proposals_too(seed, max_words, ratio):
    for policy in (LocalAgreement(2), HoldN(1), Confidence(0.1)):
        stream = ScriptedStream(seed, policy, max_words=max_words, max_target_source_ratio=ratio)
        stream.loop.add_segment([100])
        stream.feed([[i] for i in range(10, 22)], suffix=[200])
        *said, finished = stream.events
        assert len(finished.delays) <= max_words
        for event in said:
            if isinstance(event, Write):
                n_words = event.target_words_generated + (not event.word_complete)
                assert n_words <= ratio * event.source_words_read


@given(st.integers(0, 500))
def test_drafts_change_nothing_but_the_number_of_passes(seed):
    for policy in (LocalAgreement(2), HoldN(1), Confidence(0.5), AlignAtt(1)):
        streams = []
        for kind in (ScriptedStream, without_drafts(ScriptedStream)):
            stream = kind(seed, policy)
            stream.loop.add_segment([100])
            stream.feed([[i] for i in range(10, 18)], suffix=[200])
            streams.append(stream.events)
        assert streams[0] == streams[1]
        assert streams[0][-1].n_passes <= streams[1][-1].n_passes


class Noting(ScriptedStream):
    """Minds what each pass says is written, and keeps what a pass with source says."""

    said = ()

    def _answer(self, request):
        fed = [*self.target[: len(self.target) - request.n_rewind], *request.target_ids]
        n_header = 2
        if request.target_ids:
            assert list(request.written) == fed[n_header:]
        if request.source_ids or request.n_rewind or request.draft_ids:
            self.said = (*self.said, tuple(request.written))
        return super()._answer(request)


@given(st.integers(0, 500))
def test_what_is_said_to_be_written_is_what_the_target_holds(seed):
    """And where source is read, nothing stands: all that is said to be written stays."""
    for policy in (WaitK(2), LocalAgreement(2), HoldN(1), Confidence(0.5), Shown(WaitK(2))):
        stream = Noting(seed, policy)
        stream.loop.add_segment([100])
        stream.feed([[i] for i in range(10, 18)], suffix=[200])
        token_ids = stream.events[-1].token_ids
        assert stream.said
        assert all(written == token_ids[: len(written)] for written in stream.said)


@given(st.integers(0, 500))
def test_forbidden_tokens_are_never_written(seed):
    for policy in (WaitK(2), LocalAgreement(2), HoldN(1), Confidence(0.5), WaitToken()):
        written = []
        for forbidden_ids in ((), (1, 2, 3)):
            stream = ScriptedStream(seed, policy, forbidden_ids=forbidden_ids, max_tokens=99)
            stream.loop.add_segment([100])
            stream.feed([[i] for i in range(10, 22)], suffix=[200])
            written.append({e.token for e in stream.events if isinstance(e, Write)})
        assert not written[1] & {1, 2, 3}
        assert written[0] != written[1] or not written[0] & {1, 2, 3}


@given(st.integers(0, 500), st.booleans())
def test_a_wait_token_overruns_no_limit(seed, stop_early):
    """Nor does it end the stream, though an end-of-turn does with ``early_eos="stop"``."""

    class Early(ScriptedStream):
        def make_loop(self, policy, limits, **settings):
            return super().make_loop(policy, limits, stop_early=stop_early, **settings)

    stream = Early(seed, WaitToken(), max_words=2)
    stream.loop.add_segment([100])
    stream.feed([[i] for i in range(10, 22)], suffix=[200])
    assert stream.events[-1].target_words <= 2


@given(st.integers(0, 500), st.none() | st.floats(0.5, 2.0))
def test_a_policy_decides_as_it_does_alone_when_it_is_shown_more(seed, ratio):
    for policy in (WaitK(2), ReadNWriteM(2, 3), LocalAgreement(2), Confidence(0.5), WaitToken()):
        streams = []
        for shown in (policy, Shown(policy)):
            stream = ScriptedStream(seed, shown, max_target_source_ratio=ratio)
            stream.loop.add_segment([100])
            stream.feed([[i] for i in range(10, 20)], suffix=[200])
            streams.append(stream.events)
        assert streams[0] == streams[1]


# Names

counts = st.integers(1, 99)
heads = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=4)
policies = st.one_of(
    st.builds(WaitK, counts),
    st.builds(WaitKCatchUp, counts, st.floats(0, 0.99), counts),
    st.builds(ReadNWriteM, counts, counts),
    st.just(WholeSource()),
    st.builds(LocalAgreement, st.integers(2, 9), counts),
    st.builds(HoldN, st.integers(0, 9), counts),
    st.builds(AlignAtt, st.integers(0, 9), counts, st.none() | heads.map(tuple)),
    st.builds(Confidence, st.floats(0, 1), counts, st.none() | counts),
    st.builds(WaitToken, st.just("<WAIT>") | st.just("[pause]"), counts),
)


@given(policies)
def test_a_policy_is_what_its_spec_says(policy):
    assert parse_policy(spec_of(policy)) == policy


def test_specs_read_as_people_write_them():
    assert parse_policy("wait-k:3") == parse_policy(" wait-k:k=3 ") == WaitK(3)
    assert parse_policy("align-att:2,heads=3-1+4-0") == AlignAtt(2, heads=((3, 1), (4, 0)))
    assert parse_policy("confidence") == Confidence()
    assert spec_of(LocalAgreement(2)) == "local-agreement"
    assert usage("local-agreement") == "local-agreement:[n=2],[min_words=1]"
    assert [usage(name).partition(":")[0] for name in policy_names()] == policy_names()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("wait-kk:3", "there is no policy 'wait-kk'; known are align-att"),
        ("", "there is no policy"),
        ("wait-k", "spelled wait-k:k"),
        ("wait-k:3,4", "spelled wait-k:k"),
        ("wait-k:0", "at least 1"),
        ("wait-k:two", "at least 1"),
        ("hold-n:m=3", "spelled hold-n"),
        ("local-agreement:1", "n must be a whole number of at least 2"),
        ("align-att:heads=3", "pairs"),
        ("align-att:-1", "at least 0"),
        ("confidence:2", "from 0 to 1"),
        ("confidence:0.5,max_lag=0", "max_lag must be"),
        ("wait-k-catch-up:3,catch_up=1", "below 1"),
        ("wait-token:3", "token must be a non-empty string"),
        ("read-n-write-m:3,0", "m must be"),
    ],
)
def test_what_cannot_be_is_refused(spec, says):
    with pytest.raises(InvalidOptionError, match=says):
        parse_policy(spec)


def test_one_without_a_name_says_so():
    with pytest.raises(InvalidOptionError, match=r"entry-point group 'mlx_simul\.policies'"):
        spec_of(Shown(WaitK(1)))


def test_a_policy_is_given_by_name_or_as_an_object():
    assert as_policy("wait-k:3") == as_policy(WaitK(3)) == WaitK(3)
    with pytest.raises(InvalidOptionError, match=r"got 3; .* subclasses mlx_simul\.Policy"):
        as_policy(3)


def test_by_default_a_policy_needs_nothing_and_lets_all_stand():
    class Counting(Policy):
        def decide(self, progress):
            return Action.WRITE

    assert Counting().needs == Needs(0)
    assert Counting().judge(state(1, 0), say("a b"), 7) == (2, 7)
    with pytest.raises(TypeError, match="decide"):
        type("Undecided", (Policy,), {})()


def test_policies_are_values_of_one_base_class():
    for name in policy_names():
        options = ":1,1" if name == "read-n-write-m" else ":1" if "wait-k" in name else ""
        policy = parse_policy(name + options)
        assert policy == parse_policy(spec_of(policy))
        assert hash(policy) == hash(parse_policy(spec_of(policy)))
        assert isinstance(policy, Policy)
    assert WaitK(1).needs == Needs(0)
    assert Shown(WaitK(1)).needs == Needs(0, True, True)
    assert Shown(LocalAgreement()).needs.lookahead_words is None
