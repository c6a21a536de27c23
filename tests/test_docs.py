"""The pages: links lead somewhere, commands parse, and the README's Python prints French."""

import argparse
import re
import shlex
from importlib import import_module

import pytest
from repository import ROOT

# What a page can name by its path from the root of the repository.
FOLDERS = ("benchmarks", "docs", "examples", "mlx_simul", "tests", "tools")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def targets(page):
    """The local files that a page links to, and those whose paths it shows as code."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)#\s]+)", text):
        if ":" not in link:
            yield page.parent / link
    for path in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`", text):
        yield ROOT / path


def dead(page):
    """Those of them that do not exist."""
    return [path for path in targets(page) if not path.exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_only_files_that_exist(page):
    assert dead(page) == []


def test_a_page_that_names_others_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("[one](one.md#part), `docs/two.md`, `docs/glossary.md`, `other/three.md`")
    assert dead(page) == [tmp_path / "one.md", ROOT / "docs" / "two.md"]


def test_the_pages_link_to_files_at_all():
    assert sum(len(list(targets(page))) for page in PAGES) > 50


def commands(text):
    """The arguments of each mlx-simul command with any, in a block or in a line."""
    blocks = "".join(re.findall(r"^```\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    shown = re.findall(r"^\s*mlx-simul ([a-z].*)$", blocks.replace("\\\n", " "), re.MULTILINE)
    shown += re.findall(r"`mlx-simul ([a-z-]+ [^`]+)`", text)
    return [shlex.split(line) for line in shown]


def parse(command):
    name, *args = command
    parser = argparse.ArgumentParser()
    import_module(f"mlx_simul.console.{name.replace('-', '_')}").add_arguments(parser)
    try:
        parser.parse_args(args)
    except SystemExit as end:
        assert end.code == 0, command  # of --help


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_command_line_takes_the_commands_of_a_page(page):
    for command in commands(page.read_text("utf-8")):
        parse(command)


def test_commands_are_found_and_can_be_wrong():
    page = "`mlx-simul bench F --wait-k 3`\n\n```\nmlx-simul translate \\\n    --no-such 3\n```\n"
    wrong, right = commands(page)
    parse(right)
    with pytest.raises(AssertionError, match="--no-such"):
        parse(wrong)
    assert sum(len(commands(page.read_text("utf-8"))) for page in PAGES) > 15


def test_the_readmes_python_prints_french(capsys):
    text = (ROOT / "README.md").read_text("utf-8")
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        exec(compile(block, "README.md", "exec"), names)
        words = set(re.findall(r"\w+", capsys.readouterr().out.lower()))
        assert words & {"elle", "mon"} and not words & {"she", "my"}, words
