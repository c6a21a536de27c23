"""One rank: it loads a tiny model in steps, shards it, and runs passes with the others.

It says on standard output where it is, so that a test can disturb it there.
"""

import mlx_simul  # noqa: F401  # before MLX, which then gets a fast BLAS

# isort: split
import argparse
import ctypes
import os
import signal
import time

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.llama import Model, ModelArgs

from mlx_simul.machine.health import Limits
from mlx_simul.machine.liveness import join
from mlx_simul.machine.terminal import ending_tidily

N_LOADING = 4
N_WORDS = 97


def say(*words):
    print(*words, flush=True)


def loaded(watch):
    with watch.busy("loading"):
        for step in range(N_LOADING):
            say("loading", step)
            mx.eval(mx.distributed.all_sum(mx.ones(4), group=watch.group))
            watch.progress()
        mx.random.seed(1)
        args = ModelArgs(
            model_type="llama", hidden_size=48, num_hidden_layers=1, intermediate_size=48,
            num_attention_heads=12, num_key_value_heads=12, rms_norm_eps=1e-5, vocab_size=N_WORDS,
        )  # fmt: skip
        model = Model(args)
        mx.eval(model.parameters())  # before they are cut, so that all ranks draw the same
        model.shard(watch.group)
        mx.eval(model.parameters())
    return model


def work(watch, args):
    model = loaded(watch)
    cache, token = make_prompt_cache(model), 1
    for step in range(args.passes):
        if watch.group.rank() == args.rank and step == args.at:
            misbehave(args.how)
        say("pass", step)
        with watch.busy("a pass"):
            logits = model(mx.array([[token]]), cache=cache)[0, -1]
            token = (int(mx.argmax(logits).item()) + step) % N_WORDS
            shown = round(float(mx.sum(mx.abs(logits)).item()), 3)
        say("token", step, token, shown)
        time.sleep(args.pause_s)


def misbehave(how):
    match how:
        case "raise":
            raise ValueError("this rank has been told to fail\x1b[2J")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(600)  # its heartbeats go on
        case "hold":
            ctypes.PyDLL(None).sleep(600)  # it keeps Python's lock, so they do not


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--passes", type=int, default=8)
    parser.add_argument("--pause-s", type=float, default=0.0)
    parser.add_argument("--limits", type=float, nargs=3, default=(8.0, 60.0, 60.0))
    parser.add_argument("--how", default="")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--at", type=int)
    args = parser.parse_args()
    begun = join(lambda: mx.distributed.init(strict=True, backend="ring"), Limits(*args.limits))
    with ending_tidily(), begun as watch:  # as the command line does
        work(watch, args)
    say("ended")


if __name__ == "__main__":
    main()
