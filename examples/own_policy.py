"""Write your own policy: a subclass of Policy that answers READ or WRITE.

python examples/own_policy.py [--model FOLDER_OR_REPOSITORY]
"""

import argparse
from dataclasses import dataclass

from mlx_simul import Action, Policy, Read, WaitK, Write, load, stream_generate

SOURCE = "The bridge was closed for three days because the river had risen during the night."


@dataclass(frozen=True)
class Blocks(Policy):
    """Reads a block of words, then writes as many: later than wait-k, but with more context."""

    n_words: int

    def decide(self, progress):
        """WRITE until there are as many target words as words in complete blocks."""
        blocks = progress.source_words_read // self.n_words
        entitled = blocks * self.n_words
        return Action.WRITE if progress.target_words_generated < entitled else Action.READ


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", help="folder or repository id (default: the packaged model)")
args = parser.parse_args()

model, tokenizer = load(args.model)
for policy in (WaitK(2), Blocks(5)):
    print(f"\n{policy}  (source words are in brackets)")
    for event in stream_generate(
        model,
        tokenizer,
        SOURCE,
        policy=policy,
        source_language="English",
        target_language="French",
        max_target_source_ratio=2,
    ):
        if isinstance(event, Read) and event.source:
            print(f" [{event.source.strip()}]", end="", flush=True)
        elif isinstance(event, Write):
            print(event.text, end="", flush=True)
    print()
