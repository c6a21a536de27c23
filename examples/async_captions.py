"""Print captions from an asynchronous source, such as a web socket; the event loop stays free.

python examples/async_captions.py [--model FOLDER_OR_REPOSITORY]
"""

import argparse
import asyncio

from mlx_simul import Finished, WaitK, Write, astream_generate, load

SPEECH = "Welcome to the museum. Today we will visit the old town and the harbour."


async def recogniser(pace_s):
    """Stands in for a speech recogniser: yields one word at a time, with pauses."""
    for word in SPEECH.split():
        await asyncio.sleep(pace_s)
        yield f"{word} "


async def captions(model, tokenizer, pace_s):
    """Prints a caption for every few words, with the time since the beginning."""
    line = ""
    async for event in astream_generate(
        model,
        tokenizer,
        recogniser(pace_s),
        policy=WaitK(3),
        source_language="English",
        target_language="French",
        max_target_source_ratio=2,
    ):
        if isinstance(event, Write):
            line += event.text
            if event.word_complete and len(line) > 30:
                print(f"{event.time_ms / 1000:6.2f} s  {' '.join(line.split())}")
                line = ""
        elif isinstance(event, Finished):
            print(f"{event.total_ms / 1000:6.2f} s  {' '.join(line.split())}")


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", help="folder or repository id (default: the packaged model)")
parser.add_argument("--pace", type=float, default=0.3, help="seconds between words")
args = parser.parse_args()

model, tokenizer = load(args.model)
asyncio.run(captions(model, tokenizer, args.pace))
