"""One rank: it loads a tiny model in steps, shards it, and writes tokens with the others.

It says on standard output where it is, so that a test can kill it there. Rank 0 says the tokens.
"""

import argparse
import sys
import time

import mlx.core as mx
from mlx_lm.models.llama import Model, ModelArgs

from mlx_simul.machine.health import Limits
from mlx_simul.machine.liveness import join

N_LOADING = 10


def tiny_model():
    mx.random.seed(1)
    args = ModelArgs(
        model_type="llama", hidden_size=32, num_hidden_layers=2, intermediate_size=64,
        num_attention_heads=4, num_key_value_heads=4, rms_norm_eps=1e-5, vocab_size=97,
    )  # fmt: skip
    return Model(args)


def say(*words):
    print(*words, flush=True)


def load(watch):
    """A model, in steps, behind each of which all ranks meet."""
    with watch.busy("loading"):
        for step in range(N_LOADING):
            say("loading", step)
            mx.eval(mx.distributed.all_sum(mx.ones(4), group=watch.group))
            watch.progress()
        model = tiny_model()
        model.shard(watch.group)
        mx.eval(model.parameters())
    return model


def work(watch, args):
    model, cache = load(watch), None
    token = 1
    cache = model.make_cache() if hasattr(model, "make_cache") else None
    if cache is None:
        from mlx_lm.models.cache import make_prompt_cache

        cache = make_prompt_cache(model)
    for step in range(args.passes):
        if watch.group.rank() == args.rank and step == args.at:
            misbehave(args.how)
        say("pass", step)
        with watch.busy("a pass"):
            logits = model(mx.array([[token]]), cache=cache)
            token = int(mx.argmax(logits[0, -1]).item()) % 97
        say("between", step)
        if watch.group.rank() == 0:
            say("token", token)
        time.sleep(args.pause_s)


def misbehave(how):
    match how:
        case "raise":
            raise ValueError("this rank was told to fail\x1b[2J")
        case "hang":
            time.sleep(600)  # its heartbeats go on
        case "hold":
            mx.distributed.init  # noqa: B018
            import ctypes

            ctypes.PyDLL(None).sleep(600)  # holds Python's lock, unlike time.sleep


parser = argparse.ArgumentParser()
parser.add_argument("--passes", type=int, default=40)
parser.add_argument("--pause-s", type=float, default=0.0)
parser.add_argument("--silent-s", type=float, default=8.0)
parser.add_argument("--stalled-s", type=float, default=60.0)
parser.add_argument("--start-s", type=float, default=60.0)
parser.add_argument("--how", default="")
parser.add_argument("--rank", type=int)
parser.add_argument("--at", type=int)
args = parser.parse_args()
limits = Limits(args.silent_s, args.stalled_s, args.start_s)
with join(lambda: mx.distributed.init(strict=True, backend="ring"), limits) as watch:
    work(watch, args)
say("ended")
sys.exit(0)
