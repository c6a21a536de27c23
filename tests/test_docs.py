"""The pages: links and paths lead somewhere, and the README's Python prints a translation."""

import re

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


def test_the_readmes_python_prints_french(capsys):
    text = (ROOT / "README.md").read_text("utf-8")
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        exec(compile(block, "README.md", "exec"), names)
        words = set(re.findall(r"\w+", capsys.readouterr().out.lower()))
        assert words & {"elle", "mon"} and not words & {"she", "my"}, words
