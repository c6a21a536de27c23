"""The page's microphone: Chromium hears a file, the server recognises it, the page shows it."""

from __future__ import annotations

import re
import wave
from pathlib import Path

import pytest
import tone_recogniser
from browser_server import PHONE, WIDE, Server, french
from chromium import find
from conftest import FLAGS, PATIENCE_MS, contexts_of
from playwright.sync_api import expect
from tone_recogniser import PAUSE, tones

pytestmark = pytest.mark.browser

FAINT_TEXTS = Path(__file__).with_name("faint_texts.js").read_text("utf-8")

FIRST = ("Do", "you", "want", "coffee?")
SECOND = ("My", "train", "leaves", "at", "seven", "o'clock", "tomorrow", "morning.")
FRENCH = [french(" ".join(words)) for words in (FIRST, SECOND)]
RATE_HZ = 44_100
TALLEST = """() => Math.max(...[...document.querySelectorAll("#voice-level rect")]
  .map((bar) => Number(bar.getAttribute("height"))))"""
# Looks each frame. `wait_for_function` would call eval in each, which the page's policy forbids.
SEES = """([id, text, patienceMs]) => new Promise((resolve, reject) => {
  const look = () => {
    if (document.getElementById(id).textContent.includes(text)) resolve();
    else requestAnimationFrame(look);
  };
  look();
  setTimeout(() => reject(new Error(`no ${text} in ${id}`)), patienceMs);
})"""
TALK = [PAUSE, *FIRST, PAUSE, PAUSE, *SECOND, PAUSE, PAUSE]


@pytest.fixture(scope="module")
def path_of_tones(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", tone_recogniser.install(tmp_path_factory.mktemp("tones")))
        yield


@pytest.fixture(scope="module")
def hearing(path_of_tones, tmp_path_factory):
    """A server that knows the language of tones."""
    server = Server("--recogniser", "tones", log=tmp_path_factory.mktemp("hearing") / "log")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def hearing_browser(browser, tmp_path_factory):
    """Chromium with a microphone that hears a talk once."""
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(tones(TALK, RATE_HZ).tobytes())
    flags = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={path}%noloop",
    ]
    browser = browser.browser_type.launch(executable_path=find(), args=[*FLAGS, *flags])
    yield browser
    browser.close()


@pytest.fixture
def hearing_context(hearing_browser):
    with contexts_of(hearing_browser) as make:
        yield make


def speak(page):
    page.locator("#microphone").click()
    expect(page.locator("#voice-state")).to_have_text("Listening")


def expect_briefly(page, name, text):
    """Wait for a text that is soon gone; `expect` looks ever more rarely, and may miss it."""
    page.evaluate(SEES, [name, text, PATIENCE_MS])


def test_what_is_said_is_translated(hearing_context, open_page, hearing):
    page = open_page(hearing, hearing_context())
    expect(page.locator(".empty")).to_contain_text("Speak, or type below.")
    expect(page.locator("#voice")).to_be_hidden()
    speak(page)
    expect(page.locator("#microphone")).to_have_text("Stop")
    expect_briefly(page, "live-tail", "perhaps")
    expect(page.locator("#turns .target")).to_have_text(FRENCH)
    assert page.locator("#turns .source").all_inner_texts() == [" ".join(FIRST), " ".join(SECOND)]
    # From the end of a word to its translation, by one clock.
    note = page.locator(".note").last.inner_text()
    assert 10 < int(re.search(r"([\d,]+) ms", note)[1].replace(",", "")) < 20_000
    page.locator("#microphone").click()
    expect(page.locator("#voice")).to_be_hidden()
    expect(page.locator("#microphone")).to_have_text("Speak")


def test_the_level_moves_with_the_voice(hearing_context, open_page, hearing):
    page = open_page(hearing, hearing_context())
    speak(page)
    while page.evaluate(TALLEST) < 12:  # at the latest when the test's time is up
        page.wait_for_timeout(20)
    page.locator("#mute").click()
    expect(page.locator("#voice-state")).to_have_text("Muted")  # drawn a frame later
    assert page.evaluate(TALLEST) == 2


def test_a_muted_microphone_ends_the_sentence_and_says_nothing_more(
    hearing_context, open_page, hearing
):
    page = open_page(hearing, hearing_context())
    page.locator("#microphone").click()
    expect_briefly(page, "live", "Do")
    page.locator("#mute").click()
    expect(page.locator("#voice-state")).to_have_text("Muted")
    expect(page.locator("#mute")).to_have_text("Unmute")
    expect(page.locator("#turns .turn")).to_have_count(1)  # recognised to its end
    page.locator("#text").press_sequentially("I like cats.")
    page.keyboard.press("Enter")
    expect(page.locator("#turns .source").last).to_have_text("I like cats.")
    expect(page.locator("#live-tail")).to_be_empty()
    page.locator("#mute").click()
    expect(page.locator("#voice-state")).to_have_text("Listening")


def test_speech_that_a_lost_connection_held_up_is_heard_later(hearing_context, open_page, hearing):
    page = open_page(hearing, hearing_context())
    speak(page)
    expect_briefly(page, "live-tail", "perhaps")
    page.context.set_offline(True)
    expect(page.locator("#voice-state")).to_contain_text("until the connection is back")
    page.wait_for_timeout(1_000)
    page.context.set_offline(False)
    expect(page.locator("#turns .target")).to_have_text(FRENCH)
    expect(page.locator("#problems")).to_be_empty()


def test_a_microphone_is_used_by_keyboard_and_has_names(hearing_context, open_page, hearing):
    page = open_page(hearing, hearing_context())
    page.locator("#text").focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Speak")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").filter(has_text="Listening")).to_be_visible()
    page.get_by_role("button", name="Mute").press("Space")
    expect(page.get_by_role("status").filter(has_text="Muted")).to_be_visible()
    page.get_by_role("button", name="Stop").press("Enter")
    expect(page.locator("#voice")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_text_has_contrast_while_it_listens(hearing_context, open_page, hearing, scheme, viewport):
    page = open_page(hearing, hearing_context(color_scheme=scheme, viewport=viewport))
    speak(page)
    expect_briefly(page, "live-tail", "perhaps")
    assert page.evaluate(FAINT_TEXTS) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_session_that_ends_lets_the_microphone_go(hearing_context, open_page, hearing):
    page = open_page(hearing, hearing_context(viewport=PHONE))
    speak(page)
    page.locator("#show-panel").click()
    page.locator("#end").click()
    expect(page.locator("#notice-text")).to_contain_text("has ended")
    expect(page.locator("#voice")).to_be_hidden()
    expect(page.locator("#microphone")).to_be_disabled()


def test_a_browser_that_refuses_the_microphone_is_said(context, open_page, hearing):
    page = open_page(hearing)
    page.locator("#microphone").click()
    expect(page.locator("#problems")).to_contain_text(
        re.compile("does not let this page use the microphone|has no microphone")
    )
    expect(page.locator("#voice")).to_be_hidden()
    expect(page.locator("#microphone")).to_be_enabled()


def test_a_recogniser_that_breaks_off_is_said_and_typing_goes_on(
    path_of_tones, hearing_context, open_page, tmp_path
):
    server = Server("--recogniser", "tones:broken", log=tmp_path / "log")
    try:
        page = open_page(server, hearing_context())
        page.locator("#microphone").click()
        expect(page.locator("#problems")).to_contain_text("speech recognition broke off")
        expect(page.locator("#problems .problem")).to_have_count(1)
        expect(page.locator("#voice")).to_be_hidden()
        expect(page.locator("#microphone")).to_be_disabled()
        page.locator("#text").press_sequentially("Do you want coffee?")
        page.keyboard.press("Enter")
        expect(page.locator("#turns .target")).to_have_text(FRENCH[:1])
    finally:
        server.kill()


def test_a_server_without_a_recogniser_shows_no_microphone(open_page, server):
    page = open_page(server)
    expect(page.locator("#microphone")).to_be_hidden()
    expect(page.locator(".empty")).to_contain_text("Type below.")
