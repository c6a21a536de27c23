"""The laws of a policy, on the policies there are and on broken ones."""

import random

import pytest

from mlx_simul import ValidationError, WaitK
from mlx_simul.policies import Action
from mlx_simul.testing import POLICY_LAWS


@pytest.mark.parametrize("policy", [WaitK(1), WaitK(3), WaitK(100)], ids=str)
@pytest.mark.parametrize("law", POLICY_LAWS)
def test_policy(law, policy):
    law(policy).require()


class CountsCalls:
    """Keeps a count of its own."""

    n_calls = 0

    def decide(self, progress):
        self.n_calls += 1
        return Action.WRITE if self.n_calls % 2 else Action.READ


class LooksAhead:
    """Decides by what has arrived, though it is not read."""

    def decide(self, progress):
        seen = len(progress.source_seg_len)
        return Action.WRITE if progress.source_words_read >= seen // 2 else Action.READ


class AnswersYes:
    def decide(self, progress):
        return True


class ThrowsDice:
    def decide(self, progress):
        return random.choice(list(Action))


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("any_chunking_gives_the_same_events", LooksAhead()),
        ("like_counts_give_like_decisions", CountsCalls()),
        ("like_counts_give_like_decisions", AnswersYes()),
        ("like_counts_give_like_decisions", ThrowsDice()),
    ],
)
def test_a_broken_policy_is_rejected(name, broken):
    law = next(law for law in POLICY_LAWS if law.name == name)
    with pytest.raises(ValidationError, match=name):
        law(broken).require()


def test_a_stream_that_never_ends_is_rejected(monkeypatch):
    """No policy can hold up a loop that knows the source has ended, so the loop is broken here."""
    from mlx_simul.loop import SimulLoop

    monkeypatch.setattr(SimulLoop, "close_source", lambda self, suffix: None)
    law = next(law for law in POLICY_LAWS if law.name == "always_ends")
    with pytest.raises(ValidationError, match="waits for more source"):
        law(WaitK(3)).require()


def test_every_law_is_tried_on_something_broken():
    tried = {"always_ends", "any_chunking_gives_the_same_events", "like_counts_give_like_decisions"}
    assert {law.name for law in POLICY_LAWS} == tried
