"""The page: its modules without a DOM run in Node, its files keep to what the CSP allows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_simul.serving
from mlx_simul.evaluation.latency import length_adaptive_average_lagging
from mlx_simul.text.speech import speech

HERE = Path(__file__).parent
PAGE = Path(mlx_simul.serving.__file__).parent / "page"
FILES = sorted(PAGE.iterdir())


def node() -> str:
    """Node.js, which the page itself does not need; browsers run these modules."""
    path = shutil.which("node")
    if path is None:
        pytest.skip("Node.js is not installed; it runs the page's own tests")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").partition(".")[0]) < 20:
        pytest.skip(f"Node.js 20 or later runs the page's own tests; this is {version.strip()}")
    return path


def in_node(module: str, expression: str, cases: list) -> list:
    """The value of an expression in ``m``, a module of the page, and ``x``, for each case."""
    code = (
        f"import * as m from {json.dumps((PAGE / module).as_uri())};"
        "import { readFileSync } from 'node:fs';"
        "const cases = JSON.parse(readFileSync(0, 'utf8'));"
        f"console.log(JSON.stringify(cases.map((x) => {expression})));"
    )
    done = subprocess.run(
        [node(), "--input-type=module", "--eval", code],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---- In Node ----


def test_the_modules_pass_their_own_tests():
    done = subprocess.run(
        [node(), "--test", str(HERE)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    assert int(re.search(r"pass (\d+)", done.stdout)[1]) > 40


def test_lagging_is_what_the_evaluation_calls_so():
    cases = [
        {"delays": [min(k + i // 2, n) for i in range(m)], "n": n}
        for k in (1, 3)
        for n in (2, 5, 9)
        for m in (1, 4, 12)
    ]
    found = in_node("lag.mjs", "m.averageLagging(x.delays, x.n)", cases)
    expected = [length_adaptive_average_lagging(x["delays"], x["n"], x["n"]) for x in cases]
    assert found == pytest.approx(expected)


TEXTS = st.lists(st.text(st.sampled_from("aé 漢かไ𝒳👩.\n")), min_size=20, max_size=40)


@settings(max_examples=5)
@given(TEXTS)
def test_text_is_counted_as_the_server_counts_it(texts):
    assert in_node("words.mjs", "m.codePoints(x)", texts) == list(map(len, texts))


def test_the_pace_is_that_of_speech():
    words = ["word ", " o'clock ", "漢", "か", "ก"]
    spoken_s = in_node("words.mjs", "m.spokenMs(x, 60) / 1000", words)
    assert spoken_s == pytest.approx([float(speech(word)) for word in words])


# ---- What the content security policy and the reader of a page rely on ----

MARKUP_FROM_TEXT = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|setHTML|DOMParser|createContextual"
    r"|\beval\(|new Function|srcdoc"
)
ELSEWHERE = re.compile(r"""(?:https?:)?//[\w.-]+\.[a-z]{2,}""")
NAMESPACE = "http://www.w3.org/2000/svg"


def risks(text: str) -> list[str]:
    """What in a file makes markup of text, or loads something from elsewhere."""
    text = text.replace(NAMESPACE, "")
    return MARKUP_FROM_TEXT.findall(text) + ELSEWHERE.findall(text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_text_stays_text_and_nothing_comes_from_elsewhere(path):
    assert risks(path.read_text("utf-8")) == []


def test_markup_and_other_sites_would_be_found():
    assert risks("node.innerHTML = text") and risks("import 'https://cdn.example.org/x.js'")


class Markup(HTMLParser):
    """Attributes of a page, by kind."""

    def __init__(self, text: str):
        super().__init__()
        self.inline, self.files, self.ids, self.named, self.labels = [], [], [], [], set()
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.inside = tag
        self.inline += [name for name in values if name == "style" or name.startswith("on")]
        if tag in ("script", "link"):
            self.files.append(values.get("src") or values.get("href"))
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "label" and "for" in values:
            self.labels.add(values["for"])
        if tag in ("input", "textarea", "select", "progress"):
            self.named.append(values)

    def handle_data(self, data):
        if self.inside in ("script", "style") and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag):
        self.inside = ""


PAGES = [path for path in FILES if path.suffix == ".html"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_has_nothing_inline_and_its_files_are_there(path):
    markup = Markup(path.read_text("utf-8"))
    assert markup.inline == []
    assert {Path(name).name for name in markup.files} <= {each.name for each in FILES}
    assert len(markup.ids) == len(set(markup.ids))


def test_something_inline_would_be_found():
    assert Markup('<p style="color: red" onclick="x()"><script>x()</script>').inline == [
        "style",
        "onclick",
        "x()",
    ]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_control_has_a_name(path):
    markup = Markup(path.read_text("utf-8"))
    wrapped = {"pace"}  # inside its label
    for values in markup.named:
        name = values.get("id")
        named = "aria-label" in values or name in markup.labels | wrapped or "hidden" in values
        assert named, f"{name} has no label"


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix == ".mjs"], ids=lambda p: p.name)
def test_what_a_module_looks_for_is_in_a_page(path):
    ids = {name for page in PAGES for name in Markup(page.read_text("utf-8")).ids}
    sought = set(re.findall(r'byId\("([\w-]+)"\)', path.read_text("utf-8")))
    assert sought <= ids, sorted(sought - ids)


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix == ".mjs"], ids=lambda p: p.name)
def test_what_a_module_imports_is_there(path):
    imported = re.findall(r'from "\./([\w.]+)"', path.read_text("utf-8"))
    assert set(imported) <= {each.name for each in FILES}
