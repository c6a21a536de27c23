"""Feed a text in pieces as they arrive, and show what each piece makes the session read and write.

python examples/live_chunks.py [--model FOLDER_OR_REPOSITORY]
"""

import argparse

from mlx_simul import SimulSession, WaitK, load

# Pieces can end anywhere, like those of a speech recogniser or a keyboard.
PIECES = ["Good mor", "ning. The train to Par", "is leaves at ", "seven, from plat", "form two."]


def show(piece, events):
    """Prints one line: the piece that arrived, the words read, and the text written."""
    read = "".join(event.source for event in events)
    written = "".join(event.text for event in events)
    print(f"{piece!r:26} read {read.strip()!r:26} wrote {written!r}")
    return written


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", help="folder or repository id (default: the packaged model)")
args = parser.parse_args()

model, tokenizer = load(args.model)
session = SimulSession(
    model,
    tokenizer,
    policy=WaitK(3),
    source_language="English",
    target_language="French",
    max_target_source_ratio=2,
)
text = ""
for piece in PIECES:
    text += show(piece, session.feed(piece))
text += show("", session.finish())
print(f"\n{text.strip()}")
