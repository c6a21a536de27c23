// The turns of a stream in rows, source and target side by side, the one under way below them.

import { byId, el, setLang, setText } from "./dom.mjs";

const MAX_ROWS = 60; // earlier ones leave the page; the transcript has them
const MAX_UNREAD_CHARS = 600;
const NEAR_PX = 48;

const number = new Intl.NumberFormat("en");

export class TurnsView {
  #rows = []; // [{turn, row}] in the page
  #shown = -1; // number of the newest finished turn in the page
  #hasUnseen = false;

  constructor() {
    this.scroller = byId("translation");
    this.list = byId("turns");
    this.live = byId("live");
    this.parts = ["seen", "read", "unread", "waiting", "tail"].map((name) => byId(`live-${name}`));
    this.target = byId("live-target");
    this.earlier = byId("earlier");
    this.jump = byId("jump");
    this.heard = byId("heard");
    this.jump.addEventListener("click", () => this.#toEnd());
    this.scroller.addEventListener("scroll", () => this.#follow(), { passive: true });
  }

  draw(stream, [sent, waiting]) {
    const isAtEnd = this.#isAtEnd;
    const languages = languagesOf(stream.session);
    for (const turn of stream.turns) if (turn.turn > this.#shown) this.#add(turn, languages);
    this.#drawLive(stream, sent, waiting, languages);
    this.#drawEarlier(stream);
    if (isAtEnd) this.#toEnd();
    else this.#follow();
  }

  clear() {
    this.list.replaceChildren();
    this.heard.replaceChildren();
    this.#rows = [];
    this.#shown = -1;
  }

  // Read out by screen readers: whole turns, not every word.
  announce(turn, session) {
    const { target } = languagesOf(session);
    const line = el("p", {}, turn.target);
    setLang(line, target);
    this.heard.append(line);
    while (this.heard.childElementCount > 3) this.heard.firstChild.remove();
  }

  #add(turn, languages) {
    const source = el("p", { class: "source", dir: "auto" }, turn.source);
    const target = el("p", { class: "target", dir: "auto" }, turn.target);
    setLang(source, languages.source);
    setLang(target, languages.target);
    const row = el("li", { class: "turn" }, source, target);
    const note = noteOf(turn);
    if (note) row.append(el("p", { class: "note" }, note));
    this.list.append(row);
    this.#rows.push({ turn: turn.turn, row });
    this.#shown = turn.turn;
    while (this.#rows.length > MAX_ROWS) this.#rows.shift().row.remove();
  }

  #drawLive(stream, sent, waiting, languages) {
    const { live } = stream;
    const [seen, read] = live?.sourceParts ?? ["", ""];
    const texts = [seen.trimStart(), seen ? read : read.trimStart(), shortened(sent), shortened(waiting)];
    const gap = stream.tail && texts.some(Boolean) ? " " : "";
    [...texts, gap + stream.tail].forEach((text, i) => setText(this.parts[i], text));
    setText(this.target, live?.target.trimStart() ?? "");
    setLang(this.parts[0].parentElement, languages.source);
    setLang(this.target, languages.target);
    this.live.hidden = !(texts.some((text) => text.trim()) || stream.tail || live?.target);
    this.live.classList.toggle("has-target", Boolean(live?.target));
  }

  #drawEarlier(stream) {
    const n = stream.dropped + stream.turns.length - this.#rows.length;
    this.earlier.hidden = n <= 0;
    const sentences = n === 1 ? "1 earlier sentence is" : `${number.format(n)} earlier sentences are`;
    setText(this.earlier, `${sentences} in the transcript.`);
  }

  get #isAtEnd() {
    const { scrollTop, clientHeight, scrollHeight } = this.scroller;
    return scrollTop + clientHeight >= scrollHeight - NEAR_PX;
  }

  #toEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#follow();
  }

  #follow() {
    const isAway = !this.#isAtEnd;
    if (this.jump.hidden === isAway) this.jump.hidden = !isAway;
  }
}

export function languagesOf(session) {
  return { source: session?.audio?.input?.language, target: session?.audio?.output?.language };
}

function noteOf(turn) {
  const parts = [];
  if (Number.isFinite(turn.lagWords)) parts.push(`${turn.lagWords.toFixed(1)} words behind`);
  if (Number.isFinite(turn.responseMs)) parts.push(`${number.format(Math.round(turn.responseMs))} ms`);
  const cut = CUT[turn.reason];
  if (cut) parts.push(cut);
  return parts.join(" · ");
}

// Why a translation may end too soon; nothing is cut silently.
const CUT = {
  max_words: "cut: it reached the limit of words",
  max_tokens: "cut: it reached the limit of tokens",
  max_target_source_ratio: "cut: it grew much longer than its source",
  drought: "the model left much of the source untranslated",
  early_end_of_turn: "the model ended before the source did",
};

function shortened(text) {
  if (text.length <= MAX_UNREAD_CHARS) return text;
  const shown = text.slice(0, MAX_UNREAD_CHARS).replace(/\p{Surrogate}$/u, "");
  return `${shown} … and ${number.format(text.length - shown.length)} more characters`;
}
