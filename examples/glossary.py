"""Give the model what it needs to know: languages, context, and the translations of some terms.

python examples/glossary.py --model FOLDER_OR_REPOSITORY
"""

import argparse

from mlx_simul import Write, load, stream_generate

SOURCE = "The patient took two tablets of the beta blocker before the scan."

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True)
args = parser.parse_args()

model, tokenizer = load(args.model)
sessions = {
    "languages only": {},
    "with context and glossary": {
        "context": "A nurse reports to a cardiologist.",
        "glossary": {"beta blocker": "bêtabloquant", "scan": "scanner"},
    },
}
print(SOURCE)
for name, options in sessions.items():
    print(f"\n{name}: ", end="")
    for event in stream_generate(
        model,
        tokenizer,
        SOURCE,
        source_language="English",
        target_language="French",
        max_target_source_ratio=2,
        **options,
    ):
        if isinstance(event, Write):
            print(event.text, end="", flush=True)
print()
