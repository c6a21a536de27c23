"""The page as its users see it: typing, reading, losing the network, listening."""

from __future__ import annotations

import json
import re

import pytest
from browser_server import PHONE, french
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

FIRST, SECOND = (
    (source, french(source))
    for source in ("My train leaves at seven o'clock tomorrow morning.", "Do you want coffee?")
)
THIRD = "She bought a new car last week."
MARKUP = "<img src=x onerror=alert(1)>"


def say(page, text: str, end: str = "Enter") -> None:
    """Type a text as a speaker does, and end the sentence."""
    page.locator("#text").press_sequentially(text)
    page.keyboard.press(end)


def targets(page) -> list[str]:
    return page.locator("#turns .target").all_inner_texts()


def expect_turns(page, n: int) -> None:
    expect(page.locator("#turns .turn")).to_have_count(n)


def stream_of(page) -> str:
    return page.locator("#captions").get_attribute("href").rpartition("/")[2]


def transcript(server, page) -> list[dict]:
    return json.loads(server.get(f"v1/streams/{stream_of(page)}/transcript.json"))["turns"]


def paste(page, text: str) -> None:
    page.evaluate(
        """(text) => {
          const data = new DataTransfer();
          data.setData("text/plain", text);
          const how = { clipboardData: data, bubbles: true, cancelable: true };
          document.getElementById("text").dispatchEvent(new ClipboardEvent("paste", how));
        }""",
        text,
    )


# ---- Typing and reading ----


def test_what_is_typed_is_translated_beside_it(open_page, server):
    page = open_page(server)
    say(page, FIRST[0])
    expect_turns(page, 1)
    assert page.locator("#turns .source").inner_text() == FIRST[0]
    assert targets(page) == [FIRST[1]]
    assert re.fullmatch(r"\d\.\d words behind · [\d,]+ ms", page.locator(".note").inner_text())
    # The staircase has a step for each target word, and tells it in words.
    picture = page.locator("#staircase svg")
    expect(picture.locator("rect")).to_have_count(8)
    assert "Mon: after leaves (3)" in picture.get_attribute("aria-label")
    # A screen reader hears whole sentences.
    assert page.locator("#heard p").all_text_contents() == [FIRST[1]]
    assert page.locator("#heard p").get_attribute("lang") == "fr"


def test_the_translation_begins_before_the_sentence_ends(open_page, server):
    page = open_page(server)
    page.locator("#text").press_sequentially("My train leaves at seven o'cl")
    expect(page.locator("#live-target")).to_have_text(" ".join(FIRST[1].split()[:3]))
    expect(page.locator("#live .source")).to_have_text("My train leaves at seven")
    assert page.locator("#text").input_value() == "o'cl"
    assert page.locator("#seen-words").inner_text() == "5 of 5"


def test_what_was_sent_stays_and_says_so(open_page, server):
    page = open_page(server)
    page.locator("#text").press_sequentially("My trian")
    for _ in range(4):
        page.keyboard.press("Backspace")
    page.locator("#text").press_sequentially("rain ")
    expect(page.locator("#sent")).to_have_text("My train")
    page.keyboard.press("Backspace")
    expect(page.locator("#hint")).to_contain_text("stay")
    page.keyboard.press("Enter")
    expect_turns(page, 1)
    assert page.locator("#turns .source").inner_text() == "My train"


def test_a_pasted_text_is_sent_at_once_or_at_the_pace_of_speech(open_page, server):
    page = open_page(server)
    page.locator("#pace").select_option("")
    paste(page, f"{FIRST[0]} {SECOND[0]}")
    expect_turns(page, 2)
    assert targets(page) == [FIRST[1], SECOND[1]]
    page.locator("#pace").select_option("150")
    paste(page, " ".join([THIRD, SECOND[0]] * 5))  # takes 22 s
    expect(page.locator("#pasted")).to_be_visible()
    expect(page.locator("#live-target")).not_to_be_empty()
    assert "of 55 words" in page.locator("#paste-count").inner_text()
    page.locator("#paste-now").click()
    expect(page.locator("#pasted")).to_be_hidden()
    expect_turns(page, 12)


def test_a_text_file_is_sent_and_another_file_is_refused(open_page, server):
    page = open_page(server)
    page.locator("#pace").select_option("")
    file = {"name": "talk.txt", "mimeType": "text/plain", "buffer": SECOND[0].encode()}
    page.locator("#file").set_input_files([file])
    expect_turns(page, 1)
    assert targets(page) == [SECOND[1]]
    page.locator("#file").set_input_files([file | {"name": "talk.pdf", "buffer": b"%PDF\xff\x00"}])
    expect(page.locator("#problems")).to_contain_text("“talk.pdf” is not plain text")


# ---- Losing things ----


def test_without_a_network_what_is_typed_is_kept_and_sent_later(open_page, server):
    page = open_page(server)
    say(page, FIRST[0])
    expect_turns(page, 1)
    page.locator("#text").press_sequentially("Do you ")
    expect(page.locator("#live-read")).to_have_text("Do you")
    page.context.set_offline(True)
    expect(page.locator("#notice-text")).to_contain_text("Connection lost")
    say(page, "want coffee?")
    expect(page.locator("#live-waiting")).to_have_text("want coffee?")
    page.context.set_offline(False)
    expect_turns(page, 2)
    expect(page.locator("#notice")).to_be_hidden()
    assert targets(page) == [FIRST[1], SECOND[1]]
    assert [turn["source_text"] for turn in transcript(server, page)] == [FIRST[0], SECOND[0]]


def test_a_server_that_is_killed_and_started_again_goes_on(
    open_page, start_server, context, tmp_path
):
    server = start_server("--journal", str(tmp_path / "journal"))
    page = open_page(server)
    say(page, FIRST[0])
    expect_turns(page, 1)
    listener = context.new_page()
    listener.goto(page.locator("#captions").get_attribute("href"))
    expect(listener.locator("#lines .target")).to_have_text([FIRST[1]])
    page.bring_to_front()
    page.locator("#text").press_sequentially("Do you ")
    expect(page.locator("#live-read")).to_have_text("Do you")
    server.kill()
    expect(page.locator("#notice-text")).to_contain_text("Connection lost")
    expect(listener.locator("#status")).not_to_be_empty()
    page.locator("#text").press_sequentially("want ")
    server.start()
    page.wait_for_selector("body[data-state=live]")
    say(page, "coffee?")
    expect_turns(page, 2)
    assert targets(page) == [FIRST[1], SECOND[1]]
    assert [turn["source_text"] for turn in transcript(server, page)] == [FIRST[0], SECOND[0]]
    expect(listener.locator("#lines .target")).to_have_text([FIRST[1], SECOND[1]])


def test_a_page_that_is_loaded_again_goes_on(open_page, server):
    page = open_page(server)
    say(page, FIRST[0])
    page.locator("#text").press_sequentially("Do you ")
    expect(page.locator("#live-read")).to_have_text("Do you")
    stream = stream_of(page)
    page.reload()
    page.wait_for_selector("body[data-state=live]")
    expect(page.locator("#live-read")).to_have_text("Do you")
    expect(page.locator("#sent")).to_have_text("Do you")
    say(page, "want coffee?")
    expect_turns(page, 2)
    assert targets(page) == [FIRST[1], SECOND[1]]
    assert stream_of(page) == stream


def test_a_server_that_forgot_is_said_and_the_text_stays(open_page, start_server):
    server = start_server()
    page = open_page(server)
    say(page, FIRST[0])
    expect_turns(page, 1)
    server.kill()
    expect(page.locator("#notice-text")).to_contain_text("Connection lost")
    page.locator("#text").press_sequentially("Do you want ")
    server.start()
    expect(page.locator("#notice-text")).to_contain_text("no longer has this session")
    assert targets(page) == [FIRST[1]]
    expect(page.locator("#text")).to_be_disabled()
    page.locator("#begin-anew").click()
    page.wait_for_selector("body[data-state=live]")
    say(page, "coffee?")
    expect_turns(page, 1)
    assert targets(page) == [SECOND[1]]


def test_one_window_speaks_at_a_time(context, open_page, server):
    page = open_page(server)
    say(page, FIRST[0])
    expect_turns(page, 1)
    saved = page.evaluate("JSON.stringify({ ...sessionStorage })")
    other = context.new_page()
    other.add_init_script(f"Object.assign(sessionStorage, JSON.parse({json.dumps(saved)}))")
    other.goto(server.url)
    expect(page.locator("#notice-text")).to_contain_text("another window")
    expect_turns(other, 1)
    assert targets(other) == [FIRST[1]]
    page.locator("#take-over").click()
    page.wait_for_selector("body[data-state=live]")
    say(page, SECOND[0])
    expect_turns(page, 2)


def test_a_server_with_keys_asks_for_one(context, start_server, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("anna a-key-that-is-long-enough\n", "utf-8")
    server = start_server("--keys", str(keys))
    page = context.new_page()
    page.goto(server.url)
    for key in ("another-key-that-is-wrong", "a-key-that-is-long-enough"):
        expect(page.locator("#notice-text")).to_have_text("This server asks for a key.")
        page.locator("#key").fill(key)
        page.keyboard.press("Enter")
        page.evaluate("() => new Promise(requestAnimationFrame)")  # until it is drawn
    page.wait_for_selector("body[data-state=live]")
    say(page, SECOND[0])
    expect_turns(page, 1)
    page.reload()
    page.wait_for_selector("body[data-state=live]")
    expect_turns(page, 1)
    assert targets(page) == [SECOND[1]]


# ---- Options ----


def test_options_change_while_live_and_a_wrong_one_is_said_at_its_field(open_page, server):
    page = open_page(server)
    expect(page.locator("#option-target_language")).to_be_disabled()
    expect(page.locator("#fixed")).to_contain_text("target language")
    policy = page.locator("#option-policy")
    policy.fill("wait-k:1")
    policy.press("Enter")
    policy.blur()
    expect(policy).to_have_attribute("aria-invalid", "false")
    say(page, SECOND[0])
    expect_turns(page, 1)
    expect(page.locator(".note")).to_have_text(re.compile(r"^1\.\d words behind"))
    policy.fill("wait-q:1")
    policy.blur()
    expect(page.locator("#problem-policy")).to_contain_text("wait-q")
    expect(policy).to_have_attribute("aria-invalid", "true")
    say(page, SECOND[0])
    expect_turns(page, 2)


# ---- Keeping and listening ----


def test_the_transcript_is_downloaded(open_page, server, tmp_path):
    import pysubs2

    page = open_page(server)
    say(page, FIRST[0])
    expect_turns(page, 1)
    for form in ("txt", "srt", "vtt", "json"):
        with page.expect_download() as download:
            page.locator(f"#download-{form}").click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        assert path.suffix == f".{form}"
        if form in ("srt", "vtt"):
            text = " ".join(line.plaintext for line in pysubs2.load(str(path)))
            assert " ".join(text.split()) == FIRST[1]
        else:
            assert FIRST[1] in path.read_text("utf-8")
    page.locator("#side").select_option("source")
    with page.expect_download() as download:
        page.locator("#download-txt").click()
    assert FIRST[0] in download.value.path().read_text("utf-8")


def test_any_number_may_listen(context, new_context, open_page, server):
    page = open_page(server)
    say(page, FIRST[0])
    expect_turns(page, 1)
    href = page.locator("#captions").get_attribute("href")
    early = new_context(viewport=PHONE).new_page()
    early.goto(href)
    expect(early.locator("#lines .target")).to_have_text([FIRST[1]])
    page.locator("#text").press_sequentially("Do you want ")
    expect(early.locator("#live-target")).to_contain_text(SECOND[1].split()[0])
    late = context.new_page()
    late.goto(href)
    page.bring_to_front()
    page.locator("#text").press_sequentially("coffee?")
    page.keyboard.press("Enter")
    for listener in (early, late):
        expect(listener.locator("#lines .target")).to_have_text([FIRST[1], SECOND[1]])
        assert listener.locator("#heard p").last.text_content() == SECOND[1]
    page.locator("#end").click()
    expect(late.locator("#status")).to_have_text("The talk has ended.")
    expect(page.locator("#notice-text")).to_contain_text("has ended")


def test_captions_obey_keys(new_context, open_page, server):
    page = open_page(server)
    say(page, FIRST[0])
    expect_turns(page, 1)
    captions = new_context().new_page()
    captions.goto(page.locator("#captions").get_attribute("href"))
    line = captions.locator("#lines .target")
    expect(line).to_be_visible()

    def size() -> float:
        return float(line.evaluate("(node) => parseFloat(getComputedStyle(node).fontSize)"))

    before = size()
    captions.keyboard.press("+")
    assert size() > before
    captions.keyboard.press("-")
    assert size() == pytest.approx(before)
    expect(captions.locator("#lines .source")).to_be_hidden()
    captions.keyboard.press("s")
    expect(captions.locator("#lines .source")).to_have_text(FIRST[0])
    captions.keyboard.press("d")
    assert captions.evaluate("document.documentElement.dataset.theme") == "dark"
    captions.keyboard.press("f")
    expect(captions.locator(":fullscreen")).to_be_attached()
    captions.reload()
    expect(captions.locator("#lines .source")).to_be_visible()


# ---- Text is only ever text ----


def test_markup_is_shown_as_text_everywhere(context, open_page, server):
    page = open_page(server)
    page.locator("#pace").select_option("")
    # `new_context` fails a test in which a page opens a dialog.
    page.locator("#text").press_sequentially(f"{MARKUP} <b")
    expect(page.locator("#live .source")).to_contain_text(MARKUP)
    page.keyboard.press("Enter")
    expect_turns(page, 1)
    paste(page, f"{MARKUP} {MARKUP}")
    expect_turns(page, 2)
    for name in ("policy", "history"):
        page.locator(f"#option-{name}").fill(MARKUP)
        page.locator(f"#option-{name}").blur()
        expect(page.locator(f"#problem-{name}")).to_be_visible()
    file = {"name": f"{MARKUP}.txt", "mimeType": "text/plain", "buffer": b"\xff"}
    page.locator("#file").set_input_files([file])
    expect(page.locator("#problems")).to_contain_text(MARKUP)
    captions = context.new_page()
    captions.goto(page.locator("#captions").get_attribute("href"))
    captions.keyboard.press("s")
    expect(captions.locator("#lines .source").first).to_contain_text(MARKUP)
    for each in (page, captions):
        assert each.locator("img").count() == 0
        assert each.locator("#turns b, #lines b").count() == 0


def test_markup_in_whatever_a_server_says_is_text(context, server):
    """A server that fills every field with markup."""
    page = context.new_page()
    session = {
        "id": MARKUP, "model": MARKUP, "source_language": MARKUP, "target_language": MARKUP,
        "policy": MARKUP, "history": 0, "instruction": MARKUP, "context": MARKUP,
        "glossary": {MARKUP: MARKUP}, "fixed": [MARKUP],
        "audio": {"input": {"language": MARKUP}, "output": {"language": MARKUP}},
    }  # fmt: skip
    turn = {
        "source_text": MARKUP, "target_text": MARKUP, "source_span_words": [0, 1],
        "target_span_words": [0, 1], "delays": [1], "ended_by": MARKUP, "reason": MARKUP,
    }  # fmt: skip
    delta = {"turn": 1, "delta": MARKUP, "source_words": 2, "target_words": 2}
    said = [
        {"type": "session.created", "session": session, "source_chars": 0, "commits": 0},
        {"type": "session.input_transcript.tail", "text": MARKUP},
        {"type": "session.turn.done", "seq": 1, "turn": 0, **turn},
        {"type": "session.input_transcript.delta", "seq": 2, **delta},
        {"type": "session.output_transcript.delta", "seq": 3, **delta},
        {"type": "error", "error": {"message": MARKUP, "code": MARKUP}},
    ]
    page.route_web_socket(
        re.compile("realtime"), lambda socket: [socket.send(json.dumps(each)) for each in said]
    )
    page.goto(server.url)
    expect(page.locator("#problems")).to_contain_text(MARKUP)
    for place in ("#turns .target", "#live-target", "#live-tail", "#target-name", "#model"):
        expect(page.locator(place)).to_contain_text(MARKUP)
    expect(page.locator("#option-glossary")).to_have_value(f"{MARKUP} = {MARKUP}")
    assert page.locator("img").count() == 0


# ---- Hours ----


def test_hours_of_text_leave_the_page_small(context, server):
    page = context.new_page()
    session = {"id": "sess_x", "model": "m", "fixed": [], "policy": "wait-k:3"}
    created = {"type": "session.created", "session": session, "source_chars": 0, "commits": 0}
    sockets = []

    def connected(socket):
        sockets.append(socket)
        socket.send(json.dumps(created))

    page.route_web_socket(re.compile("realtime"), connected)
    page.goto(server.url)
    page.wait_for_selector("body[data-state=live]")

    def turns(first: int, last: int) -> int:
        for n in range(first, last):
            turn = {
                "type": "session.turn.done", "seq": n + 1, "turn": n, "source_text": f"source {n}",
                "target_text": f"target {n}", "source_span_words": [2 * n, 2 * n + 2],
                "target_span_words": [2 * n, 2 * n + 2], "delays": [2 * n + 1, 2 * n + 2],
                "ended_by": "sentence", "reason": "end_of_turn",
            }  # fmt: skip
            sockets[0].send(json.dumps(turn))
        expect(page.locator("#turns .turn").last).to_contain_text(f"target {last - 1}")
        return page.evaluate("document.getElementsByTagName('*').length")

    some = turns(0, 300)
    many = turns(300, 3000)
    assert many <= some
    shown = page.locator("#turns .turn").count()
    expect(page.locator("#earlier")).to_contain_text(f"{3000 - shown:,} earlier sentences")
    assert page.evaluate("JSON.stringify({ ...sessionStorage }).length") < 200_000
    # The newest stands in view.
    assert page.locator("#turns .turn").last.evaluate(
        "(node) => node.getBoundingClientRect().bottom <= innerHeight"
    )
