"""Keyboard, screen reader, contrast, and other scripts than Latin."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser_server import PHONE, WIDE, french
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

FAINT_TEXTS = Path(__file__).with_name("faint_texts.js").read_text("utf-8")

# The frame round the text field shows its focus, as an outline does elsewhere.
SHOWS_FOCUS = """() => {
  const { outlineStyle } = getComputedStyle(document.activeElement);
  const frame = document.activeElement.closest("#line");
  const hasShadow = frame !== null && getComputedStyle(frame).boxShadow !== "none";
  return hasShadow || outlineStyle !== "none";
}"""


def say(page, text: str) -> None:
    page.locator("#text").press_sequentially(text)
    page.keyboard.press("Enter")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_text_has_contrast(new_context, open_page, server, scheme, viewport):
    page = open_page(server, new_context(color_scheme=scheme, viewport=viewport))
    say(page, "Do you want coffee?")
    page.locator("#text").press_sequentially("My train leaves at seven ")
    expect(page.locator("#live-target")).not_to_be_empty()
    page.context.set_offline(True)
    expect(page.locator("#notice")).to_be_visible()
    page.locator("#text").press_sequentially("o'clock ")
    expect(page.locator("#live-waiting")).not_to_be_empty()
    assert page.evaluate(FAINT_TEXTS) == []
    if viewport == PHONE:
        page.locator("#show-panel").click()
        assert page.evaluate(FAINT_TEXTS) == []
    page.context.set_offline(False)
    page.wait_for_selector("body[data-state=live]")
    captions = page.context.new_page()
    captions.goto(page.locator("#captions").get_attribute("href"))
    captions.keyboard.press("s")
    expect(captions.locator("#live-target")).not_to_be_empty()
    assert captions.evaluate(FAINT_TEXTS) == []


def test_faint_text_would_be_found(open_page, server):
    page = open_page(server)
    page.evaluate("document.getElementById('hint').style.color = 'rgb(128 128 128 / 60%)'")
    assert [each.partition(":")[0] for each in page.evaluate(FAINT_TEXTS)] == ["hint"]


def test_all_is_done_by_keyboard(open_page, server):
    page = open_page(server)
    expect(page.locator("#text")).to_be_focused()
    page.locator(".skip").focus()
    expect(page.locator(".skip")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.type("Do you want coffee?")
    page.keyboard.press("Enter")
    expect(page.locator("#turns .target")).to_have_text([french("Do you want coffee?")])

    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement?.id || document.activeElement.className")
        if name in reached:
            break
        if name in ("", "skip"):  # the page's end and its beginning
            continue
        reached.append(name)
        assert page.evaluate(SHOWS_FOCUS), name
    controls = """() => [...document.querySelectorAll("a, button, input, select, textarea")]
      .filter((node) => node.checkVisibility() && !node.disabled && node.className !== "skip")
      .map((node) => node.id)"""
    missed = set(page.evaluate(controls)) - set(reached) - {"text"}
    assert missed == set()

    page.locator("#download-txt").focus()
    with page.expect_download():
        page.keyboard.press("Enter")


def test_on_a_phone_the_details_open_and_close_by_keyboard(new_context, open_page, server):
    page = open_page(server, new_context(viewport=PHONE))
    button, panel = page.locator("#show-panel"), page.locator("#panel")
    expect(panel).to_be_hidden()
    button.focus()
    page.keyboard.press("Enter")
    expect(panel).to_be_visible()
    expect(button).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#panel') !== null")
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(button).to_be_focused()


def test_long_words_wrap(new_context, open_page, server):
    page = open_page(server, new_context(viewport=PHONE))
    page.locator("#text").press_sequentially("a" * 200 + " ")
    expect(page.locator("#live .source")).to_contain_text("aaa")
    page.keyboard.press("Enter")
    expect(page.locator("#turns .turn")).to_have_count(1)
    page.locator("#show-panel").click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_text_runs_in_its_own_direction(open_page, server):
    page = open_page(server)
    texts = [("שלום עולם", "rtl"), ("Good day", "ltr"), ("مرحبا بالعالم", "rtl")]
    for n, (text, direction) in enumerate(texts, 1):
        page.locator("#text").press_sequentially(f"{text} ")
        expect(page.locator("#sent")).to_have_text(text)
        expect(page.locator("#live .source")).to_have_text(text)
        for place in ("#line", "#live .source"):
            assert direction_of(page.locator(place)) == direction, place
        page.keyboard.press("Enter")
        expect(page.locator("#turns .source")).to_have_count(n)
        assert direction_of(page.locator("#turns .source").last) == direction


def direction_of(node) -> str:
    return node.evaluate("(node) => getComputedStyle(node).direction")


def test_a_script_without_spaces_needs_none(open_page, server):
    page = open_page(server)
    page.locator("#text").press_sequentially("今日は")
    # Nothing shows that a character is the last of its word; after a pause it is sent.
    expect(page.locator("#text")).to_have_value("")
    expect(page.locator("#sent")).to_have_text("今日は")
    page.keyboard.press("Enter")
    expect(page.locator("#turns .source")).to_have_text("今日は")


def test_an_input_method_is_left_alone(open_page, server):
    page = open_page(server)
    client = page.context.new_cdp_session(page)
    client.send(
        "Input.imeSetComposition", {"text": "きょう は", "selectionStart": 5, "selectionEnd": 5}
    )
    expect(page.locator("#text")).to_have_value("きょう は")
    page.keyboard.insert_text("今日 ")
    expect(page.locator("#sent")).to_have_text("今日")


def test_reduced_motion_is_respected(new_context, open_page, server):
    page = open_page(server, new_context(reduced_motion="reduce"))
    moving = """() => [...document.querySelectorAll("*")].filter((node) => {
      const style = getComputedStyle(node);
      return style.animationName !== "none" || style.transitionDuration !== "0s";
    }).length"""
    assert page.evaluate(moving) == 0
    captions = page.context.new_page()
    captions.goto(page.locator("#captions").get_attribute("href"))
    assert captions.evaluate(moving) == 0
