"""Evaluations of this rank, one after another; prints what each gave, by name."""

import json
import sys

import mlx.core as mx

from mlx_simul.evaluation.run import evaluate


class Stopped(Exception):
    pass


told = json.loads(sys.argv[1])
group = mx.distributed.init()
results = {}
for name, case in told.items():
    seen = []

    def report(policy, n_done, n_all, case=case, seen=seen):
        seen.append([policy, n_done, n_all])
        if len(seen) == case.get("until"):
            raise Stopped

    options = dict(case["options"])
    # As on machines with disks of their own.
    options["folder"] = options["folder"].format(rank=group.rank())
    results[name] = {"results": evaluate(options, report, group), "seen": seen}
print(json.dumps(results))
