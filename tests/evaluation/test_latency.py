"""Latency: equal to SimulEval's scorers on the golden cases, and what holds for any delays.

Every law runs over the real scores, and is shown to reject a broken one.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import pytest
from golden_cases import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_simul.errors import InvalidOptionError
from mlx_simul.evaluation import latency as lt

GOLDEN_LATENCY = json.loads((GOLDEN / "latency.json").read_text("utf-8"))
WITHIN = 1e-9


@pytest.mark.parametrize("with_reference", [True, False])
@pytest.mark.parametrize("case", GOLDEN_LATENCY["cases"], ids=lambda case: case["category"])
def test_scores_are_simulevals(case, with_reference):
    wanted = case["scores" if with_reference else "scores_no_use_ref_len"]
    n_target = case["reference_length"] if with_reference else None
    scores = lt.latency(case["delays"], case["source_length"], n_target)
    if scores is None:
        assert set(wanted.values()) == {None}
        return
    for name in lt.metric_names():
        assert getattr(scores, name) == pytest.approx(wanted[name.upper()], abs=WITHIN)


def test_mean_over_a_corpus_is_simulevals():
    scores = [
        lt.latency(case["delays"], case["source_length"], case["reference_length"])
        for case in GOLDEN_LATENCY["cases"]
    ]
    assert None in scores
    mean = lt.mean_latency(scores)
    for name in lt.metric_names():
        assert getattr(mean, name) == pytest.approx(
            GOLDEN_LATENCY["corpus"][name.upper()], abs=WITHIN
        )


def test_a_corpus_of_empty_translations_has_no_latency():
    assert lt.mean_latency([None, None]) is None


@pytest.mark.parametrize("case", GOLDEN_LATENCY["zero_length_source"])
def test_a_source_without_length(case):
    assert lt.average_token_delay(case["delays"]) == case["result"]["ATD"]
    # SimulEval divides by zero.
    with pytest.raises(InvalidOptionError, match="source 0"):
        lt.latency(case["delays"], case["source_length"], case["reference_length"])


@pytest.mark.parametrize(
    ("delays", "n_source", "n_target", "match"),
    [
        ([], 3, 3, "no delays"),
        ([2, 1], 3, 3, "decrease"),
        ([1], -1, 3, "source -1"),
        ([1], 3, 0, "target 0"),
        ([1], math.nan, 3, "source nan"),
    ],
)
def test_what_no_score_is_defined_for(delays, n_source, n_target, match):
    with pytest.raises(InvalidOptionError, match=match):
        lt.average_lagging(delays, n_source, n_target)


def test_elapsed_times_must_be_as_many_as_delays():
    with pytest.raises(InvalidOptionError, match="2 delays but 1 elapsed"):
        lt.average_token_delay([1, 2], [1.0])


# Laws


@dataclass(frozen=True)
class Case:
    """A translation: delays within its source, and its reference's length."""

    delays: list[int]
    n_source: int
    n_target: int


@st.composite
def cases(draw):
    n_source = draw(st.integers(1, 12))
    n_written = draw(st.integers(1, 12))
    delays = draw(st.lists(st.integers(1, n_source), min_size=n_written, max_size=n_written))
    return Case(sorted(delays), n_source, draw(st.integers(1, 12)))


Score = Callable[[list, float, int], float]

AL: Score = lt.average_lagging
LAAL: Score = lt.length_adaptive_average_lagging
AP: Score = lt.average_proportion


def DAL(delays, n_source, n_target):
    return lt.differentiable_average_lagging(delays, n_source)


def ATD(delays, n_source, n_target):
    return lt.average_token_delay(delays)


def never_below_al(score: Score, case: Case):
    """Writing more than the reference never makes it smaller than AL."""
    args = case.delays, case.n_source, case.n_target
    assert score(*args) >= AL(*args) - WITHIN


def al_if_not_too_long(score: Score, case: Case):
    n_target = len(case.delays) + case.n_target
    args = case.delays, case.n_source, n_target
    assert score(*args) == pytest.approx(AL(*args), abs=WITHIN)


def a_share_of_the_source(score: Score, case: Case):
    """Between the first share and the last, if the target is as long as its reference."""
    share = score(case.delays, case.n_source, len(case.delays))
    assert case.delays[0] / case.n_source - WITHIN <= share
    assert share <= case.delays[-1] / case.n_source + WITHIN


def moves_with_all_delays(score: Score, case: Case):
    """As long as no delay reaches the source's end, c words later is c words more."""
    n_source = case.n_source + 6
    before = score(case.delays, n_source, case.n_target)
    after = score([delay + 5 for delay in case.delays], n_source, case.n_target)
    assert after == pytest.approx(before + 5, abs=WITHIN)


def knows_no_unit(score: Score, case: Case):
    """In milliseconds it is the same score, in milliseconds."""
    before = score(case.delays, case.n_source, case.n_target)
    after = score([300 * delay for delay in case.delays], 300 * case.n_source, case.n_target)
    assert after == pytest.approx(300 * before, abs=1e-6)


def wait_k_lags_by_k(score: Score, case: Case):
    """Source and target of one length, under wait-k: k (Ma et al. 2019)."""
    k = case.delays[0]
    delays = [min(k + i, case.n_source) for i in range(case.n_source)]
    assert score(delays, case.n_source, case.n_source) == pytest.approx(k, abs=WITHIN)


def not_below_the_first_delay(score: Score, case: Case):
    args = case.delays, case.n_source, case.n_target
    assert score(*args) >= case.delays[0] - WITHIN


def never_falls_with_a_later_unit(score: Score, case: Case):
    later = [min(delay + (i + 1) % 2, case.n_source) for i, delay in enumerate(case.delays)]
    later = list(accumulate(later, max))
    args = case.n_source, case.n_target
    assert score(later, *args) >= score(case.delays, *args) - WITHIN


def al_of_what_was_written(delays, n_source, n_target):
    """What AL becomes if the hypothesis' length is taken for the reference's."""
    return lt.average_lagging(delays, n_source, len(delays))


def al_to_the_end(delays, n_source, n_target):
    """AL that forgets to stop at the source's end."""
    pace = n_source / n_target
    return sum(d - i * pace for i, d in enumerate(delays)) / len(delays)


def dal_without_memory(delays, n_source, n_target):
    """DAL whose units take no time."""
    return al_to_the_end(delays, n_source, len(delays))


def dal_from_the_start(delays, n_source, n_target):
    """DAL counted from the first unit on."""
    return DAL(delays, n_source, n_target) - delays[0]


def sum_of_delays(delays, n_source, n_target):
    return sum(delays)


LAWS = [
    (never_below_al, [LAAL], al_of_what_was_written),
    (al_if_not_too_long, [LAAL], al_of_what_was_written),
    (a_share_of_the_source, [AP], sum_of_delays),
    (moves_with_all_delays, [AL, LAAL, DAL], AP),
    (knows_no_unit, [AL, LAAL, DAL], ATD),
    (wait_k_lags_by_k, [AL, LAAL, DAL, ATD], al_to_the_end),
    (not_below_the_first_delay, [DAL], dal_without_memory),
    (never_falls_with_a_later_unit, [AP, DAL], dal_from_the_start),
]


@pytest.mark.parametrize(
    ("law", "score"), [(law, score) for law, scores, _ in LAWS for score in scores]
)
def test_law(law, score):
    @given(cases())
    def holds(case):
        law(score, case)

    holds()


@pytest.mark.parametrize(("law", "broken"), [(law, broken) for law, _, broken in LAWS])
def test_law_rejects(law, broken):
    @settings(derandomize=True, database=None)
    @given(cases())
    def holds(case):
        law(broken, case)

    with pytest.raises(AssertionError):
        holds()


@given(cases(), st.floats(0.5, 500))
def test_atd_knows_its_unit(case, unit):
    """In milliseconds, a word being so many, ATD is as many times as large."""
    scaled = lt.average_token_delay([unit * delay for delay in case.delays], unit=unit)
    assert scaled == pytest.approx(unit * lt.average_token_delay(case.delays), rel=1e-9)


@given(cases())
def test_elapsed_equal_to_the_delays_changes_nothing(case):
    plain = lt.latency(case.delays, case.n_source, case.n_target)
    assert lt.latency(case.delays, case.n_source, case.n_target, case.delays) == plain


@given(cases(), st.floats(0, 5))
def test_computing_never_makes_ap_dal_or_atd_smaller(case, lag):
    plain = lt.latency(case.delays, case.n_source, case.n_target)
    elapsed = [delay + lag for delay in case.delays]
    aware = lt.latency(case.delays, case.n_source, case.n_target, elapsed)
    assert all(getattr(aware, m) >= getattr(plain, m) - WITHIN for m in ("ap", "dal", "atd"))
