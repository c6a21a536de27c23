"""When to read and when to write: one policy in each file, on the base class of :mod:`base`.

Policies that go by counts: :class:`WaitK`, :class:`WaitKCatchUp`, :class:`ReadNWriteM`,
:class:`WholeSource`. Policies that judge what the model would write: :class:`LocalAgreement`,
:class:`HoldN`, :class:`AlignAtt`, :class:`Confidence`, :class:`WaitToken`.
"""

from mlx_simul.policies.align_att import AlignAtt
from mlx_simul.policies.base import (
    Action,
    Needs,
    Policy,
    Progress,
    Proposal,
    ProposedWord,
)
from mlx_simul.policies.confidence import Confidence
from mlx_simul.policies.hold_n import HoldN
from mlx_simul.policies.local_agreement import LocalAgreement
from mlx_simul.policies.read_write import ReadNWriteM
from mlx_simul.policies.registry import (
    WHOLE,
    as_policy,
    name_in,
    parse_policy,
    policy_names,
    spec_of,
    usage,
)
from mlx_simul.policies.shown import Shown
from mlx_simul.policies.wait_k import WaitK, calculate_wait_words
from mlx_simul.policies.wait_k_catch_up import WaitKCatchUp
from mlx_simul.policies.wait_token import WaitToken
from mlx_simul.policies.whole_source import WholeSource

__all__ = [
    "WHOLE",
    "Action",
    "AlignAtt",
    "Confidence",
    "HoldN",
    "LocalAgreement",
    "Needs",
    "Policy",
    "Progress",
    "Proposal",
    "ProposedWord",
    "ReadNWriteM",
    "Shown",
    "WaitK",
    "WaitKCatchUp",
    "WaitToken",
    "WholeSource",
    "as_policy",
    "calculate_wait_words",
    "name_in",
    "parse_policy",
    "policy_names",
    "spec_of",
    "usage",
]
