// The text and the commits of one stream, in order, until the server has them. Knows no DOM.
//
// A position counts code points from the beginning of the stream. The page learns how much the
// server has only when words come back as read, or when a connection begins. Operations stay here
// until then, and those that a lost connection swallowed are sent again: nothing twice, nothing
// lost.

import { codePoints, indexAfter, wellFormed } from "./words.mjs";

const MAX_MESSAGE_CHARS = 1_000; // well below any limit on a message, even with 4 bytes each
const WINDOW_CHARS = 3_000; // sent and not yet read: the server's queues are bounded
const KEPT_CHARS = 400; // of the text that was read, in case a server comes back with less
const WHOLE_WORD = /\S\s/u;

export class Outbox {
  constructor(saved) {
    this.ops = []; // {at, text, chars, sentMs} or {at, commit, sentMs}
    this.next = 0; // the first operation that this connection has not carried
    this.end = 0; // position after all text
    this.commits = 0;
    this.readAt = 0; // position after the last word that was read
    Object.assign(this, saved, { next: 0 });
  }

  append(text) {
    for (let rest = wellFormed(text); rest; ) {
      const part = rest.slice(0, indexAfter(rest, MAX_MESSAGE_CHARS));
      const chars = codePoints(part);
      this.ops.push({ at: this.end, text: part, chars, sentMs: null });
      this.end += chars;
      rest = rest.slice(part.length);
    }
  }

  commit() {
    this.commits++;
    this.ops.push({ at: this.end, commit: this.commits, sentMs: null });
  }

  // A connection begins: the server has this much. Returns two numbers of characters, both 0
  // unless something went wrong: those that neither side has, and those that only the server has.
  resume(sourceChars, commits) {
    const first = this.ops.length ? this.ops[0].at : this.end;
    if (sourceChars > this.end || (sourceChars === this.end && commits > this.commits)) {
      const unknown = sourceChars - this.end;
      Object.assign(this, { ops: [], next: 0, end: sourceChars, commits, readAt: sourceChars });
      return { lost: 0, unknown };
    }
    const lost = Math.max(first - sourceChars, 0);
    if (lost) {
      for (const op of this.ops) op.at -= lost;
      this.end -= lost;
      this.readAt = Math.max(this.readAt - lost, 0);
    }
    this.next = this.ops.findIndex((op) =>
      op.text === undefined ? op.commit > commits : op.at + op.chars > sourceChars,
    );
    if (this.next < 0) this.next = this.ops.length;
    this.#split(sourceChars);
    return { lost, unknown: 0 };
  }

  // The next operation to send, or null if there is none, or if enough is under way.
  take(nowMs) {
    const op = this.ops[this.next];
    if (op === undefined || (op.text !== undefined && this.#isFull())) return null;
    this.next++;
    op.sentMs = nowMs;
    return op;
  }

  // A source word was read. Returns when it was sent, in the time of take(); null if unknown.
  read(word) {
    const wanted = word.trim();
    if (!wanted) return null;
    const at = this.readAt;
    const unread = this.#sentText();
    let from = unread.indexOf(wanted);
    // The server drops what does not show from the ends of a word: then skip a word.
    let length = wanted.length;
    if (from < 0) {
      const match = /\S+/u.exec(unread);
      if (match === null) return null;
      from = match.index;
      length = match[0].length;
    }
    this.readAt = at + codePoints(unread.slice(0, from + length));
    const op = this.ops.find((o) => o.text !== undefined && o.at + o.chars >= this.readAt);
    this.#prune();
    return op?.sentMs ?? null;
  }

  // All before the n-th commit has been read.
  committed(n) {
    const op = this.ops.find((o) => o.commit === n);
    if (op !== undefined) this.readAt = Math.max(this.readAt, op.at);
    this.#prune();
  }

  // When the first operation after the last word that was read was sent; null if it was not.
  nextSentMs() {
    const i = this.ops.findIndex((o) => o.at >= this.readAt && o.sentMs !== null);
    return i >= 0 && i < this.next ? this.ops[i].sentMs : null;
  }

  // The text that has not been read yet: [already sent, still to be sent].
  unread() {
    return [this.#sentText(), this.#textOf(this.next, this.ops.length)];
  }

  // Position after the text that this connection has carried, or the server had before it.
  get sentTo() {
    return this.next < this.ops.length ? this.ops[this.next].at : this.end;
  }

  get hasUnsent() {
    return this.next < this.ops.length;
  }

  toJSON() {
    const { ops, end, commits, readAt } = this;
    return { ops: ops.map((op) => ({ ...op, sentMs: null })), end, commits, readAt };
  }

  #sentText() {
    return this.#textOf(0, this.next);
  }

  #textOf(from, to) {
    let text = "";
    for (let i = from; i < to; i++) {
      const op = this.ops[i];
      if (op.text === undefined || op.at + op.chars <= this.readAt) continue;
      text += op.text.slice(indexAfter(op.text, Math.max(this.readAt - op.at, 0)));
    }
    return text;
  }

  #isFull() {
    let chars = 0;
    for (let i = this.next - 1; i >= 0 && this.ops[i].at >= this.readAt; i--) {
      chars += this.ops[i].chars ?? 0;
    }
    // Half a word alone is never read: more has to follow it.
    return chars > WINDOW_CHARS && WHOLE_WORD.test(this.#sentText());
  }

  #split(position) {
    const op = this.ops[this.next];
    if (op === undefined || op.text === undefined || op.at >= position) return;
    const cut = indexAfter(op.text, position - op.at);
    const chars = position - op.at;
    this.ops.splice(
      this.next,
      1,
      { ...op, text: op.text.slice(0, cut), chars },
      { ...op, at: position, text: op.text.slice(cut), chars: op.chars - chars },
    );
    this.next++;
  }

  #prune() {
    let n = 0;
    while (n < this.next && this.ops[n].at + (this.ops[n].chars ?? 0) < this.readAt - KEPT_CHARS) n++;
    this.ops.splice(0, n);
    this.next -= n;
  }
}
