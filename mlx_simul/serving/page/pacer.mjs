// Says a long text piece by piece, at the pace of speech. Knows no DOM.

import { pieces, spokenMs } from "./words.mjs";

const TICK_MS = 100;

export class Pacer {
  #pieces = [];
  #at = 0;
  #dueMs = 0;
  #timer = null;

  // say(text); done(): all was said; canSay(): whether text goes anywhere now.
  constructor({ say, done, canSay, onChange, clock }) {
    Object.assign(this, { say, done, canSay, onChange, clock });
    this.wordsPerMinute = null;
  }

  // `wordsPerMinute` null says it all at once.
  start(text, wordsPerMinute) {
    this.#pieces = pieces(text);
    this.#at = 0;
    this.wordsPerMinute = wordsPerMinute;
    if (this.wordsPerMinute === null) return this.rush();
    this.#dueMs = this.clock.now();
    this.#timer ??= this.clock.setInterval(() => this.#tick(), TICK_MS);
    this.onChange();
  }

  rush() {
    const rest = this.rest;
    this.#finish();
    if (rest) this.say(rest);
    if (rest) this.done();
    this.onChange();
  }

  // Say no more of it.
  stop() {
    this.#finish();
    this.onChange();
  }

  get isBusy() {
    return this.#at < this.#pieces.length;
  }

  get rest() {
    return this.#pieces.slice(this.#at).join("");
  }

  get progress() {
    return { said: this.#at, of: this.#pieces.length };
  }

  #tick() {
    const now = this.clock.now();
    if (!this.canSay()) {
      this.#dueMs = now; // what could not be said is not made up for in a burst
      return;
    }
    let text = "";
    while (this.isBusy && this.#dueMs <= now) {
      const piece = this.#pieces[this.#at++];
      this.#dueMs += spokenMs(piece, this.wordsPerMinute);
      text += piece;
    }
    if (!text) return;
    const isOver = !this.isBusy;
    if (isOver) this.#finish();
    this.say(text);
    if (isOver) this.done();
    this.onChange();
  }

  #finish() {
    this.#pieces = [];
    this.#at = 0;
    if (this.#timer !== null) this.clock.clearInterval(this.#timer);
    this.#timer = null;
  }
}
