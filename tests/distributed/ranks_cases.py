"""What must be the same on several ranks as on one: run by every rank, decided by rank 0.

``python ranks_cases.py FILE [NAME ...]`` writes for each case whether a model that is spread over
the ranks gave what the same model gives whole, and what differs.
"""

from __future__ import annotations

import mlx_simul  # before MLX, which then gets a fast BLAS

# isort: split
import gc
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
from golden_cases import GOLDEN
from mlx_lm.tokenizer_utils import TokenizerWrapper
from streams import TEXT
from tiny_configs.base import TINY
from tiny_models import fresh_model
from transformers import PreTrainedTokenizerFast

from mlx_simul import SimulSession
from mlx_simul.cache.positions import FollowStart
from mlx_simul.checkpoints.sharding import load_shard
from mlx_simul.engine.ranks import ranks_of
from mlx_simul.engine.shard import sharded
from mlx_simul.policies import Shown, WaitK
from mlx_simul.serving.sessions import Sessions

TALK = "Good morning, how are you? I would like a ticket to Paris. Does the train stop in Lyon?"
CONFIG = TINY | {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
}
HEADS = "heads=0-0+1-3+1-7+0-4"
SHORT = {"max_tokens": 16}

Case = Callable[[Any, Any, Any], Any]
CASES: dict[str, Case] = {}


def case(**models: Any) -> Callable[[Case], Case]:
    """Declare a case, and the model for it if that is another one."""

    def declare(function: Case) -> Case:
        CASES[function.__name__] = function
        vars(function)["model"] = {"model_type": "llama", **models}
        return function

    return declare


def tiny_llama(
    model_type: str = "llama", pipeline: bool = False, seed: int = 7, **more: Any
) -> Any:
    """The same weights on every rank."""
    mx.random.seed(seed)
    return fresh_model(model_type, CONFIG | more)


def stream(model: Any, tokenizer: Any, source: str = TEXT, **options: Any) -> list[Any]:
    return list(mlx_simul.stream_generate(model, tokenizer, source, **(SHORT | options)))


def policy_case(name: str, policy: str, **options: Any) -> None:
    """A case that differs in options alone."""

    def run(model: Any, tokenizer: Any, _: Any) -> Any:
        return stream(model, tokenizer, policy=policy, **options)

    run.__name__ = name
    case()(run)


policy_case("wait_k", "wait-k:2")
policy_case("whole_source", "whole")
policy_case("confidence", "confidence:0.0015")
policy_case("local_agreement", "local-agreement")
policy_case("align_att", f"align-att:4,{HEADS}")
policy_case("follows_closely", "wait-k:1", target_start=FollowStart(margin_tokens=1))
policy_case("fixed_start", "wait-k:3", target_start=64)
policy_case("drafts", "wait-k:2", draft="ngram")
policy_case("beams", "wait-k:2", num_beams=3)
policy_case("beams_in_turns", "wait-k:1", num_beams=2, turns="sentence")
policy_case("kv_bits", "wait-k:2", kv_bits=8, kv_group_size=32, turns="sentence")
policy_case("turns", "wait-k:2", turns="sentence")
policy_case("history", "wait-k:2", turns="sentence", history=1)
policy_case("sampled", "wait-k:2", temp=0.7, seed=3)
policy_case("reencode", "wait-k:2", mode="reencode")
policy_case("interleaved", "wait-k:2", mode="interleaved")
policy_case("reencode_in_turns", "wait-k:2", mode="reencode", turns="sentence")


@case()
def evidence(model: Any, tokenizer: Any, _: Any) -> Any:
    """What judging policies are shown, attention included, to 1e-5."""
    seen: list[Any] = []
    shown = Shown(WaitK(2), heads=((0, 0), (1, 3), (1, 7), (0, 4)))
    session = SimulSession(model, tokenizer, policy=shown, **SHORT)
    session.observe(seen.append)
    events = [*session.feed(TEXT), *session.finish()]
    assert sum(sum(word.attention) > 0.01 for word in seen) > 3
    return [events, [(word.tokens, word.probabilities, word.attention) for word in seen]]


@case()
def batch(model: Any, tokenizer: Any, _: Any) -> Any:
    """Sessions that join late, differ in all they can, share prefixes and leave."""
    sessions = Sessions(model, tokenizer, max_tokens=16)
    policies = ("wait-k:1", "wait-k:3", "confidence:0.0015", f"align-att:4,{HEADS}", "whole")
    said: dict[int, list[Any]] = {}
    numbers: dict[Any, int] = {}
    waiting = list(enumerate(policies))
    steps = 0
    while waiting or len(sessions):
        if waiting and steps % 3 == 0:
            i, policy = waiting.pop(0)
            turns = "sentence" if i % 2 else None
            session = sessions.add(policy=policy, turns=turns, draft="ngram" if i % 3 else None)
            numbers[session] = i
            session.push(TALK[9 * i :])
            session.close()
        for session, event in sessions.step() or ():
            said.setdefault(numbers[session], []).append(event)
        steps += 1
        if steps == 20:
            gone = next(session for session in numbers if session in sessions)
            sessions.remove(gone)
    return said


@case()
def draft_model(model: Any, tokenizer: Any, drafter: Any) -> Any:
    """A smaller model that rank 0 runs alone."""
    return stream(model, tokenizer, policy=WaitK(2), draft=(drafter, tokenizer))


@case()
def draft_model_spread(model: Any, tokenizer: Any, drafter: Any) -> Any:
    """The model guesses for itself: two streams over one model that take turns."""
    return stream(model, tokenizer, policy=WaitK(2), draft=(model, tokenizer))


@case()
def saved_prefix(model: Any, tokenizer: Any, _: Any) -> Any:
    """A prefix that is encoded once, and begun from again after another stream."""
    prefix = SimulSession(model, tokenizer, policy="wait-k:2", **SHORT).encode_prefix()
    told = []
    for text in (TEXT, "A ticket to Paris.", TEXT):
        session = SimulSession(model, tokenizer, policy="wait-k:2", prefix=prefix, **SHORT)
        told.append([*session.feed(text), *session.finish()])
    assert told[0] == told[2]
    return told


@case()
def refused(model: Any, tokenizer: Any, _: Any) -> Any:
    """What every rank refuses is an error like any other, and all go on."""
    messages = []
    for policy in ("align-att:1,heads=9-0", "align-att:1,heads=0-9"):
        try:
            stream(model, tokenizer, policy=policy)
        except mlx_simul.errors.SimulError as error:
            messages.append(str(error))
    assert len(messages) == 2
    return [messages, stream(model, tokenizer, policy="wait-k:2")]


@case()
def saved_to_a_file(model: Any, tokenizer: Any, _: Any) -> Any:
    """It would hold rank 0's part alone, so it is refused, and the session goes on."""
    session = SimulSession(model, tokenizer, policy="wait-k:2", **SHORT)
    events = session.feed(TEXT[:30])
    path = Path(sys.argv[1]).with_suffix(".session")
    try:
        session.save(path)
        was_saved = True
    except mlx_simul.errors.SavedSessionError as error:
        was_saved = "several ranks" not in str(error)
    assert was_saved == (sharded(model) is None)
    return [*events, *session.feed(TEXT[30:]), *session.finish()]


@case(dtype="bfloat16")
def half_precision_moves(model: Any, tokenizer: Any, _: Any) -> Any:
    """What rounding takes from moved keys stays with each rank; sums differ, so this only runs."""
    events = stream(model, tokenizer, policy="wait-k:1", target_start=FollowStart(margin_tokens=1))
    return len(events) > 10


@case(model_type="qwen2", hidden_size=256, pipeline=True)
def pipeline(model: Any, tokenizer: Any, _: Any) -> Any:
    """Each rank has some of the layers."""
    options = {"policy": "wait-k:2", "turns": "sentence", "source": TALK}
    told = [stream(model, tokenizer, **options)]
    told.append(stream(model, tokenizer, **options, kv_bits=8, kv_group_size=32))
    told.append(stream(model, tokenizer, policy="wait-k:1", num_beams=2, draft=None))
    told.append(stream(model, tokenizer, policy="wait-k:2", mode="reencode"))
    return told


def near(a: Any, b: Any) -> bool:
    """Equal, numbers to 1e-5."""
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-5
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(near, a, b))
    return a == b


def spread(group: Any, options: dict[str, Any], tokenizer: Any) -> Any:
    def load_whole() -> Any:
        return made(options), tokenizer

    return load_shard(load_whole, group, pipeline=options.get("pipeline", False))[0]


def made(options: dict[str, Any]) -> Any:
    dtype = options.get("dtype")
    model = tiny_llama(**{name: value for name, value in options.items() if name != "dtype"})
    if dtype:
        model.set_dtype(getattr(mx, dtype))
    return model


def read_tokenizer() -> TokenizerWrapper:
    """The golden cases' own."""
    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(GOLDEN / "tokenizer.json"), eos_token="<|im_end|>"
    )
    return TokenizerWrapper(fast, eos_token_ids=[2])


def main() -> None:
    file, *names = sys.argv[1:]
    group = mx.distributed.init(strict=True, backend="ring")
    ranks = ranks_of(group)
    tokenizer = read_tokenizer()
    wanted = {name: run for name, run in CASES.items() if not names or name in names}
    kinds: dict[str, Any] = {}
    for run in wanted.values():
        key = json.dumps(run.model)
        n_layers = CONFIG["num_hidden_layers"]
        if key not in kinds and not (run.model.get("pipeline") and n_layers < group.size()):
            kinds[key] = spread(group, run.model, tokenizer)
    if ranks.rank:
        sys.exit(ranks.follow())
    results: dict[str, Any] = {}
    with ranks.leading():
        drafter = tiny_llama(num_hidden_layers=1)
        for name, run in wanted.items():
            model = kinds.get(json.dumps(run.model))
            if model is None:
                continue
            try:
                whole = run(made(run.model), tokenizer, drafter)
                parts = run(model, tokenizer, drafter)
                same = near(whole, parts)
                results[name] = {"same": same, "why": "" if same else f"{whole}\n\n{parts}"[:4000]}
            except Exception:
                results[name] = {"same": False, "why": traceback.format_exc()}
            Path(file).write_text(json.dumps(results))
        gc.collect()
        ranks.lead(ranks, "drop", ((),))
        results["nothing is kept"] = {"same": not ranks.kept, "why": str(list(ranks.kept))}
        Path(file).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
