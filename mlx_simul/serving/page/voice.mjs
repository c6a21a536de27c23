// The speech of one stream, in order, until the server has it, and the words recognised in it.
// Knows no DOM.
//
// A position counts samples from the beginning of the stream's audio. Audio stays here for a while
// after it was sent: what a lost connection or a killed server swallowed is sent again.

import { base64, RATE_HZ } from "./pcm.mjs";

const PER_MS = RATE_HZ / 1_000;
const KEPT = 30 * RATE_HZ;
const WINDOW = 20 * RATE_HZ; // sent and not yet listened to; the server takes 30 seconds
const AHEAD = 3; // words: where the server dropped one that shows nothing

export class Voice {
  ops = []; // {at, pcm, endMs} or {at, ends: true}
  next = 0; // the first operation that this connection has not carried
  end = 0; // position after all audio
  heard = 0; // position up to which the server has listened
  words = []; // recognised and not yet read: {text, saidMs}
  #lost = 0; // samples that were never sent

  add(pcm, nowMs) {
    if (pcm.length === 0) return;
    this.ops.push({ at: this.end, pcm, endMs: nowMs });
    this.end += pcm.length;
    this.#prune();
  }

  // The speaker stops for a while: what was said is recognised to its end.
  finish() {
    const last = this.ops.at(-1);
    if (last !== undefined && !last.ends) this.ops.push({ at: this.end, ends: true });
  }

  // A connection begins: the server has this much. Returns the seconds of speech that neither side
  // has any more.
  resume(audioMs) {
    const has = Math.round(audioMs * PER_MS);
    const first = this.ops.length ? this.ops[0].at : this.end;
    const lost = Math.max(first - has, 0);
    // The server counts on from what it has: after a gap, or where another page spoke.
    let shift = -lost;
    if (has > this.end) {
      this.ops.splice(0, this.next); // what was not sent yet comes after that
      shift = has - (this.ops[0]?.at ?? this.end);
      this.heard = has;
    }
    for (const op of this.ops) op.at += shift;
    this.end += shift;
    this.heard = Math.min(this.heard, has);
    this.next = this.ops.findIndex((op) => (op.ends ? op.at >= has : op.at + op.pcm.length > has));
    if (this.next < 0) this.next = this.ops.length;
    this.#split(has);
    return lost / RATE_HZ;
  }

  // The next message to send, or null if there is none, or if enough is under way.
  take() {
    const op = this.ops[this.next];
    if (op === undefined || op.at - this.heard > WINDOW) return null;
    this.next++;
    if (op.ends) return { type: "session.input_audio_buffer.commit" };
    return { type: "session.input_audio_buffer.append", audio: base64(op.pcm) };
  }

  // The server has listened to this much.
  listened(heardMs) {
    this.heard = Math.max(this.heard, Math.round(heardMs * PER_MS));
  }

  // Words were recognised.
  recognised({ words = [], audio_ms: audioMs = 0 }) {
    for (const { text, end_ms } of words) this.words.push({ text: text.trim(), saidMs: this.#saidMs(end_ms) });
    this.listened(audioMs);
  }

  // A source word was read. Returns {saidMs}, when it was said; null if it was not.
  read(word) {
    const i = this.words.slice(0, AHEAD).findIndex(({ text }) => text === word.trim());
    return i < 0 ? null : this.words.splice(0, i + 1).at(-1);
  }

  get unread() {
    return this.words.map(({ text }) => text).join(" ");
  }

  // Seconds of speech that the server has not listened to.
  get behindS() {
    return Math.max(this.end - this.heard, 0) / RATE_HZ;
  }

  get hasUnsent() {
    return this.next < this.ops.length;
  }

  get sentMs() {
    return (this.ops[this.next]?.at ?? this.end) / PER_MS;
  }

  // Seconds of speech that were given up unsent since this was last asked.
  takeLostS() {
    const lost = this.#lost;
    this.#lost = 0;
    return lost / RATE_HZ;
  }

  // When a position was said, in the time of add(); null if its audio is no longer here.
  #saidMs(ms) {
    const at = ms * PER_MS;
    const op = this.ops.find(({ at: from, pcm }) => pcm !== undefined && from + pcm.length >= at);
    if (op === undefined || op.at > at) return null;
    return op.endMs - (op.at + op.pcm.length - at) / PER_MS;
  }

  #split(position) {
    const op = this.ops[this.next];
    if (op === undefined || op.ends || op.at >= position) return;
    const cut = position - op.at;
    const first = { ...op, pcm: op.pcm.slice(0, cut), endMs: op.endMs - (op.pcm.length - cut) / PER_MS };
    this.ops.splice(this.next, 1, first, { ...op, at: position, pcm: op.pcm.slice(cut) });
    this.next++;
  }

  #prune() {
    while (this.ops.length > 1 && this.end - this.ops[0].at > KEPT) {
      const [op] = this.ops.splice(0, 1);
      if (this.next > 0) this.next--;
      else if (!op.ends) this.#giveUp(op.pcm.length);
    }
  }

  // What was never sent has no place in the server's count.
  #giveUp(n) {
    this.#lost += n;
    for (const op of this.ops) op.at -= n;
    this.end -= n;
  }
}
