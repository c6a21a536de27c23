"""Evaluations of this rank, one after another, under a clock that counts how often it is asked.

So records and figures hold times, and hold the same ones in every run.
"""

import mlx_simul  # noqa: F401  # before MLX, which then gets a fast BLAS

# isort: split
import json
import sys
from dataclasses import replace
from itertools import count
from unittest import mock

import mlx.core as mx

from mlx_simul.evaluation import translate
from mlx_simul.evaluation.run import evaluate

told = json.loads(sys.argv[1])
group = mx.distributed.init()
ticks = count()
# Exact in binary, so that differences do not depend on when they are taken.
translate.CLOCKS["wall"] = lambda: next(ticks) / 1024


class Stopped(Exception):
    pass


right = translate.Translator.__call__


def wrong(self, index, source, policy):
    record = right(self, index, source, policy)
    return replace(record, prediction=record.prediction + "x" * (index == 1))


for case in told:
    seen = []

    def report(policy, n_done, n_all, case=case, seen=seen):
        seen.append([policy, n_done, n_all])
        if len(seen) == case.get("until"):
            raise Stopped

    # As on machines with disks of their own, where the name asks for it.
    folder = case["options"]["folder"].format(rank=group.rank())
    is_wrong = case.get("wrong") and group.rank() == group.size() - 1
    with mock.patch.object(translate.Translator, "__call__", wrong if is_wrong else right):
        results = evaluate({**case["options"], "folder": folder}, report, group)
    print(json.dumps({"results": results, "seen": seen}))
