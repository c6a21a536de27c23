// Where the speaker types, pastes and drops text. Sent text cannot be edited, and looks so.

import { byId, setText } from "./dom.mjs";
import { Pacer } from "./pacer.mjs";
import { direction, sendable } from "./words.mjs";

const PAUSE_MS = 1_200;
const SENT_CHARS = 60; // the end of the sent text, shown before the cursor
const MAX_TEXT_CHARS = 200_000; // some twenty hours of speech
const STAYS_MS = 4_000;

export class Composer {
  #sent = "";
  #pause = null;
  #stays = null;

  // type(text), endTurn(): to the stream. isLive(): whether text reaches the server now.
  // onProblem(message).
  constructor({ type, endTurn, isLive, onProblem, clock }) {
    Object.assign(this, { type, endTurn, onProblem });
    this.form = byId("composer");
    this.line = byId("line");
    this.sentNode = byId("sent");
    this.text = byId("text");
    this.hint = byId("hint");
    this.hintText = this.hint.textContent;
    this.pace = byId("pace");
    this.file = byId("file");
    this.pasted = byId("pasted");
    this.pacer = new Pacer({
      say: (text) => this.#say(text),
      done: () => this.#end(),
      canSay: isLive,
      onChange: () => this.#drawPasted(),
      clock,
    });
    this.#listen();
  }

  // Text that was given before this page was loaded.
  restore(sent, rest) {
    this.#sent = sent.slice(-SENT_CHARS);
    this.#drawSent();
    if (rest) this.take(rest);
  }

  clear() {
    this.pacer.stop();
    this.#sent = "";
    this.#drawSent();
  }

  // Whether text is taken; a text that is being paced waits if `mayGoOn`.
  enable(isOpen, mayGoOn) {
    if (!isOpen && !mayGoOn && this.pacer.isBusy) {
      const { said, of } = this.pacer.progress;
      this.onProblem(`The session ended: the last ${of - said} words of this text were not sent.`);
      this.pacer.stop();
    }
    for (const control of this.form.elements) control.disabled = !isOpen;
    this.#drawPasted();
  }

  // A whole text: at the pace of speech, or at once.
  take(text) {
    if (text.length > MAX_TEXT_CHARS) {
      const size = text.length.toLocaleString("en");
      const most = MAX_TEXT_CHARS.toLocaleString("en");
      return this.onProblem(
        `This text has ${size} characters; the page takes ${most} at a time. Split it into parts.`,
      );
    }
    if (!text.trim()) return;
    this.#flush();
    this.pacer.start(text, Number(this.pace.value) || null);
  }

  #listen() {
    this.text.addEventListener("input", (event) => this.#typed(event));
    this.text.addEventListener("compositionend", (event) => this.#typed(event));
    this.text.addEventListener("keydown", (event) => this.#key(event));
    this.text.addEventListener("paste", (event) => this.#paste(event));
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#enter();
      this.text.focus();
    });
    this.line.addEventListener("click", () => this.text.focus());
    byId("open-file").addEventListener("click", () => this.file.click());
    this.file.addEventListener("change", () => {
      this.#read(this.file.files);
      this.file.value = "";
    });
    byId("paste-now").addEventListener("click", () => this.pacer.rush());
    byId("paste-stop").addEventListener("click", () => {
      this.pacer.stop();
      this.text.focus();
    });
    // A file dropped anywhere must not replace the page.
    window.addEventListener("dragover", (event) => {
      event.preventDefault();
      document.body.classList.add("dropping");
    });
    window.addEventListener("dragleave", (event) => {
      if (event.relatedTarget === null) document.body.classList.remove("dropping");
    });
    window.addEventListener("drop", (event) => this.#drop(event));
  }

  #typed(event) {
    clearTimeout(this.#pause);
    if (event.isComposing) return; // an input method is still at this word
    this.#send(false);
    this.#pause = setTimeout(() => this.#send(true), PAUSE_MS);
  }

  #send(hasPaused) {
    const [whole, rest] = sendable(this.text.value, hasPaused);
    if (!whole) return;
    this.text.value = rest;
    this.#say(whole);
  }

  #key(event) {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.#enter();
    }
    if (event.key === "Backspace" && this.text.value === "" && this.#sent) {
      event.preventDefault();
      this.#showThatItStays();
    }
  }

  #enter() {
    if (this.text.readOnly || this.text.disabled) return;
    this.#flush();
    this.#end();
  }

  #flush() {
    const rest = this.text.value;
    this.text.value = "";
    if (rest) this.#say(rest);
  }

  #say(text) {
    this.type(text);
    this.#sent = (this.#sent + text).slice(-SENT_CHARS).replace(/\s+/gu, " ");
    this.#drawSent();
  }

  #end() {
    this.#sent = "";
    this.#drawSent();
    this.endTurn();
  }

  #paste(event) {
    const text = event.clipboardData?.getData("text/plain") ?? "";
    if (!/\s/u.test(text.trim()) && text.length < 40) return; // a word: as if it were typed
    event.preventDefault();
    this.take(text);
  }

  #drop(event) {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (this.text.disabled) return;
    const { files } = event.dataTransfer;
    if (files.length) this.#read(files);
    else this.take(event.dataTransfer.getData("text/plain"));
  }

  async #read(files) {
    if (files.length > 1) {
      return this.onProblem(`You dropped ${files.length} files; drop one at a time.`);
    }
    const [file] = files;
    if (file === undefined) return;
    if (file.size > 4 * MAX_TEXT_CHARS) {
      const size = file.size.toLocaleString("en");
      return this.onProblem(`“${file.name}” is too large: ${size} bytes. Split it into parts.`);
    }
    try {
      const bytes = await file.arrayBuffer();
      const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
      if (text.includes("\0")) throw new TypeError("a null character");
      this.take(text);
    } catch (error) {
      this.onProblem(
        error instanceof TypeError
          ? `“${file.name}” is not plain text in UTF-8. Save it as UTF-8 text and open it again.`
          : `“${file.name}” could not be read: ${error.message}`,
      );
    }
  }

  #showThatItStays() {
    this.line.classList.add("stays");
    setText(this.hint, "Sent words stay. Write the correction as new words.");
    clearTimeout(this.#stays);
    this.#stays = setTimeout(() => {
      this.line.classList.remove("stays");
      setText(this.hint, this.hintText);
    }, STAYS_MS);
  }

  #drawSent() {
    setText(this.sentNode, this.#sent.trimStart());
    this.line.dir = direction(this.#sent + this.text.value);
  }

  #drawPasted() {
    const { isBusy, progress } = this.pacer;
    this.pasted.hidden = !isBusy;
    this.text.readOnly = isBusy;
    byId("paste-bar").max = progress.of || 1;
    byId("paste-bar").value = progress.said;
    setText(byId("paste-count"), `${progress.said} of ${progress.of} words`);
  }
}
