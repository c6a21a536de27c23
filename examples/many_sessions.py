"""Translate into several languages at once, with sessions that share passes over one model.

python examples/many_sessions.py --model FOLDER_OR_REPOSITORY

This needs a chat model that takes instructions; the packaged model knows only two languages.
"""

import argparse

from mlx_simul import Sessions, TurnEnd, WaitK, load
from mlx_simul.errors import InvalidOptionError

# The text arrives in pieces. On a server, each session would have its own text.
PIECES = ["Good morning. The train to Par", "is leaves at seven, from plat", "form two."]
# Each language gets a session with its own policy.
LANGUAGES = {"French": WaitK(3), "German": WaitK(5), "Spanish": WaitK(1)}

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True)
args = parser.parse_args()

model, tokenizer = load(args.model)
batch = Sessions(model, tokenizer, source_language="English", max_target_source_ratio=2)
try:
    sessions = {
        batch.add(target_language=language, policy=policy): language
        for language, policy in LANGUAGES.items()
    }
except InvalidOptionError as error:
    parser.error(str(error))
for piece in [*PIECES, None]:
    for session in sessions:
        if piece is None:
            session.close()
        else:
            session.push(piece)
    print(f"\n{piece or 'the end'}")
    for session, event in batch.events():
        if isinstance(event, TurnEnd):
            print(f"  {sessions[session]}: {event.source_text} -> {event.target_text}")
        elif event.text or event.source:
            said = event.text or event.source
            print(f"  {sessions[session]:8} {type(event).__name__:5} {said!r}")
