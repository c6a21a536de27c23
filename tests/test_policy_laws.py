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


class StumblesAtTheEnd:
    """Looks for a word behind the last."""

    def decide(self, progress):
        progress.source_seg_len[progress.source_words_read + 2]
        return Action.READ


CONTROLS = [
    ("always_ends", StumblesAtTheEnd()),
    ("any_chunking_gives_the_same_events", LooksAhead()),
    ("like_counts_give_like_decisions", CountsCalls()),
    ("like_counts_give_like_decisions", AnswersYes()),
    ("like_counts_give_like_decisions", ThrowsDice()),
]


@pytest.mark.parametrize(("name", "broken"), CONTROLS)
def test_a_broken_policy_is_rejected(name, broken):
    law = next(law for law in POLICY_LAWS if law.name == name)
    with pytest.raises(ValidationError, match=name):
        law(broken).require()


def test_every_law_is_tried_on_something_broken():
    assert {name for name, _ in CONTROLS} == {law.name for law in POLICY_LAWS}
