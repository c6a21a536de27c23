"""Write docs/options.md from the fields of the options of a session; --check only compares."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from mlx_simul.machine.fields import NONE, described, flag_of, help_of, summary_of, type_of
from mlx_simul.options import GROUPS, SessionOptions

PAGE = Path(__file__).parents[1] / "docs" / "options.md"
HEAD = """\
# Options

`tools/options.py` writes this page from the fields in `mlx_simul/options/`, where each option is
defined.

For the arguments and flags of mlx-lm, see [coming from mlx-lm](mlx-lm.md).

An option has the same name and the same default everywhere:

| where | how |
|---|---|
| Python, flat | `generate(model, tokenizer, source, target_language="French", max_words=9)` |
| Python, in groups | `SessionOptions(limits=LimitOptions(max_words=9))`, from `mlx_simul.options` |
| the command line | `mlx-simul translate --to French --max-words 9` |
| a TOML file, for `--config` | `max_words = 9`, at the top or below `[limits]` |

Outside Python, `"none"` stands for `None`. An option without a flag is for Python programs only.
"""


def page() -> str:
    """The whole page."""
    groups = [item for item in fields(SessionOptions) if item.name in GROUPS]
    alone = [item for item in fields(SessionOptions) if item.name not in GROUPS]
    parts = [HEAD, _table(SessionOptions, alone)]
    for group in groups:
        kind: Any = type(group.default)
        parts.append(f"\n## {summary_of(kind)}: `{group.name}`\n\n{_table(kind, fields(kind))}")
    return "".join([*parts[:1], "\n", *parts[1:]])


def _table(kind: type, items: Any) -> str:
    rows = "".join(f"| {' | '.join(_row(kind, item))} |\n" for item in items)
    return f"| option | flag | value | default | meaning |\n|---|---|---|---|---|\n{rows}"


def _row(kind: type, item: Field[Any]) -> Iterator[str]:
    is_plain = not item.metadata.get("python_only")
    yield f"`{item.name}`"
    yield f"`{flag_of(item)}`" if is_plain else ""
    yield described(type_of(kind, item)).replace("'", '"') if is_plain else "a Python object"
    yield f"`{NONE if item.default is None else item.default}`"
    text = help_of(kind)[item.name].replace("|", "\\|")
    yield f"{text[0].upper()}{text[1:]}."


def main() -> int:
    """Parse the command line, write or compare; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if stale")
    if parser.parse_args().check:
        return page() != PAGE.read_text("utf-8")
    PAGE.write_text(page(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
