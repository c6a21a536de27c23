"""The laws of a policy, on the policies there are and on broken ones."""

import random
from dataclasses import dataclass, replace

import pytest

from mlx_simul import WaitK
from mlx_simul.errors import ValidationError
from mlx_simul.policies import (
    Action,
    AlignAtt,
    Confidence,
    HoldN,
    LocalAgreement,
    Needs,
    Policy,
    ReadNWriteM,
    WaitKCatchUp,
    WaitToken,
    WholeSource,
    policy_names,
    spec_of,
)
from mlx_simul.testing import POLICY_LAWS
from mlx_simul.testing.scripted import ScriptedStream

POLICIES = [
    WaitK(1),
    WaitK(3),
    WaitK(100),
    WaitKCatchUp(2, catch_up=0.3),
    WaitKCatchUp(3, stride=3),
    WaitKCatchUp(1, catch_up=0.5, stride=2),
    ReadNWriteM(3, 2),
    ReadNWriteM(1, 4),
    WholeSource(),
    LocalAgreement(2),
    LocalAgreement(3, min_words=2),
    HoldN(0),
    HoldN(2),
    AlignAtt(0),
    AlignAtt(1),
    AlignAtt(3, min_words=2),
    Confidence(0.2),
    Confidence(0.9, min_words=2, max_lag=4),
    WaitToken(),
    WaitToken("pause", min_words=3),
]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("law", POLICY_LAWS)
def test_policy(law, policy):
    law(policy).require()


def test_every_registered_policy_is_tried():
    assert {spec_of(policy).partition(":")[0] for policy in POLICIES} == set(policy_names())


class CountsCalls(Policy):
    """Keeps a count of its own."""

    n_calls = 0

    def decide(self, progress):
        self.n_calls += 1
        return Action.WRITE if self.n_calls % 2 else Action.READ


class LooksAhead(Policy):
    """Decides by what has arrived, though it is not read."""

    def decide(self, progress):
        seen = len(progress.source_seg_len)
        return Action.WRITE if progress.source_words_read >= seen // 2 else Action.READ


class AnswersYes(Policy):
    def decide(self, progress):
        return True


class ThrowsDice(Policy):
    def decide(self, progress):
        return random.choice(list(Action))


class StumblesAtTheEnd(Policy):
    """Looks for a word behind the last."""

    def decide(self, progress):
        progress.source_seg_len[progress.source_words_read + 2]
        return Action.READ


class Judging(Policy):
    """Lets every word stand, from the first source word on."""

    needs = Needs(probabilities=True)

    def decide(self, progress):
        return Action.WRITE if progress.source_words_read else Action.READ

    def judge(self, progress, proposal, memory):
        return len(proposal.words), memory


class JudgesByWhatArrived(Judging):
    def judge(self, progress, proposal, memory):
        return int(progress.source_complete), memory


class JudgesMoreThanThereIs(Judging):
    def judge(self, progress, proposal, memory):
        return len(proposal.words) + 1, memory


class JudgesByDice(Judging):
    def judge(self, progress, proposal, memory):
        return random.randrange(2), memory


class Scribbles(Judging):
    """Writes into the memory it was handed."""

    def judge(self, progress, proposal, memory):
        memory = memory or []
        memory.append(proposal)
        return 0, memory


class LetsAllStand(Policy):
    """Decides as another policy does, and judges nothing."""

    def __init__(self, policy):
        self.policy = policy

    @property
    def needs(self):
        return self.policy.needs

    def decide(self, progress):
        return self.policy.decide(progress)


class Hasty(ScriptedStream):
    """A loop that writes from the first word on, whatever the policy says."""

    def make_loop(self, policy, limits, **settings):
        hasty = WaitK(1) if policy.needs == Needs(0) else LetsAllStand(policy)
        return super().make_loop(hasty, limits, **settings)


class Credulous(ScriptedStream):
    """An engine that takes the first draft for right."""

    def _answer(self, request):
        reply = super()._answer(request)
        if request.draft_ids and len(reply.token_ids) == 1:
            self.target.append(request.draft_ids[0])
            predicted = request.draft_ids[0], self.predict()
            return replace(reply, token_ids=predicted, evidence=reply.evidence * 2)
        return reply


@dataclass(frozen=True)
class Control:
    law: str
    policy: object
    stream: type[ScriptedStream] = ScriptedStream


CONTROLS = [
    Control("always_ends", StumblesAtTheEnd()),
    Control("always_ends", JudgesMoreThanThereIs()),
    Control("any_chunking_gives_the_same_events", LooksAhead()),
    Control("any_chunking_gives_the_same_events", JudgesByWhatArrived()),
    Control("any_chunking_gives_the_same_events", JudgesByDice()),
    Control("never_writes_before_it_may", WaitK(3), Hasty),
    Control("never_writes_before_it_may", LocalAgreement(2), Hasty),
    Control("never_writes_before_it_may", Confidence(0.9), Hasty),
    Control("what_is_written_stays", LocalAgreement(2), Credulous),
    Control("what_is_written_stays", AlignAtt(1), Credulous),
    Control("like_counts_give_like_decisions", CountsCalls()),
    Control("like_counts_give_like_decisions", AnswersYes()),
    Control("like_counts_give_like_decisions", ThrowsDice()),
    Control("judges_by_what_it_is_shown", JudgesMoreThanThereIs()),
    Control("judges_by_what_it_is_shown", JudgesByDice()),
    Control("judges_by_what_it_is_shown", Scribbles()),
]


@pytest.mark.parametrize(
    "control", CONTROLS, ids=lambda control: f"{control.law}-{type(control.policy).__name__}"
)
def test_what_is_broken_is_rejected(control):
    law = next(law for law in POLICY_LAWS if law.name == control.law)
    with pytest.raises(ValidationError, match=control.law):
        law(control.policy, control.stream).require()


@pytest.mark.parametrize("law", POLICY_LAWS)
def test_what_the_broken_ones_are_made_of_is_whole(law):
    law(Judging()).require()


def test_every_law_is_tried_on_something_broken():
    assert {control.law for control in CONTROLS} == {law.name for law in POLICY_LAWS}
