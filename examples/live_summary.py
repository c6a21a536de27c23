"""Summarise a talk that has not ended yet: a session can do more than translate.

python examples/live_summary.py --model FOLDER_OR_REPOSITORY
"""

import argparse

from mlx_simul import WaitK, Write, load, stream_generate

TALK = """\
Bees dance to tell each other where the flowers are. The angle of the dance gives the direction,
measured from the sun, and the length of it gives the distance. A bee that has found a rich meadow
dances longer, so more bees follow her. In this way the hive always sends most of its workers to the
best place, although no single bee knows all of them."""

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True)
args = parser.parse_args()

model, tokenizer = load(args.model)
# The source can be any iterable of text. The next line is taken only when the policy reads on.
for event in stream_generate(
    model,
    tokenizer,
    TALK.splitlines(keepends=True),
    instruction="Summarize the following talk in short sentences.",
    policy=WaitK(20),
    max_target_source_ratio=0.6,
):
    if isinstance(event, Write):
        print(event.text, end="", flush=True)
print()
