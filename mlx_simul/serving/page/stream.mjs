// What the messages of one stream add up to: its turns, and how far it has got. Knows no DOM.

import { wordsOf } from "./words.mjs";

const KEPT_TURNS = 120; // the server keeps the transcript; hours of text must not pile up here

export class Stream {
  constructor({ keptTurns = KEPT_TURNS, saved } = {}) {
    this.keptTurns = keptTurns;
    this.session = null;
    this.lastSeq = 0;
    this.turns = []; // finished ones, the newest last
    this.dropped = 0; // finished turns that are no longer here
    this.live = null; // the turn under way
    this.ends = null; // words of source and target up to the end of the last finished turn
    this.tail = ""; // what a recogniser may still change
    this.closed = null; // {reason, usage} once the stream has ended
    Object.assign(this, saved);
  }

  // Take a message. Returns what it was:
  // "new", "plain" (not numbered), "old" (seen before), or "gap" (one before it is missing).
  apply(message) {
    const { seq } = message;
    if (!Number.isInteger(seq)) {
      this.#plain(message);
      return "plain";
    }
    if (seq <= this.lastSeq) return "old";
    if (seq > this.lastSeq + 1) return "gap";
    this.lastSeq = seq;
    this.#numbered(message);
    return "new";
  }

  // Go on after a message, without those before it.
  skipTo(seq) {
    this.lastSeq = seq;
    this.live = null;
    this.ends = null;
  }

  #plain(message) {
    if (message.type === "session.created") this.session = message.session ?? this.session;
    if (message.type === "session.input_transcript.tail") this.tail = message.text ?? "";
  }

  #numbered(message) {
    switch (message.type) {
      case "session.input_transcript.delta":
        this.#turn(message).addSource(message);
        break;
      case "session.output_transcript.delta":
        this.#turn(message).addTarget(message);
        break;
      case "session.turn.done":
        this.#end(message);
        break;
      case "session.updated":
        this.session = message.session;
        break;
      case "session.closed":
        this.closed = { reason: message.reason ?? "", usage: message.usage ?? null };
        this.live = null;
        this.tail = "";
        break;
    }
  }

  #turn(message) {
    const number = message.turn ?? 0;
    if (this.live?.turn !== number) {
      // A listener who comes late does not know how many words came before.
      const [sourceBefore, targetBefore] = this.ends ?? (number === 0 ? [0, 0] : [null, null]);
      this.live = new LiveTurn({ turn: number, sourceBefore, targetBefore });
    }
    return this.live;
  }

  #end(message) {
    const heard = this.live?.turn === message.turn ? this.live : null;
    this.live = null;
    this.ends = [message.source_span_words?.[1] ?? null, message.target_span_words?.[1] ?? null];
    this.turns.push(finished(message, heard));
    if (this.turns.length > this.keptTurns) {
      this.dropped += this.turns.length - this.keptTurns;
      this.turns.splice(0, this.turns.length - this.keptTurns);
    }
  }

  toJSON() {
    const { session, lastSeq, turns, dropped, live, ends, closed } = this;
    return { session, lastSeq, turns, dropped, live, ends, closed };
  }

  static restored(saved, options = {}) {
    const live = saved.live && new LiveTurn(saved.live);
    return new Stream({ ...options, saved: { ...saved, live } });
  }
}

class LiveTurn {
  constructor(saved) {
    this.turn = 0;
    this.source = "";
    this.target = "";
    this.sourceWords = [];
    this.wordEnds = []; // where each of them ends in `source`
    this.targetWords = []; // complete ones
    this.begun = ""; // the target word under way
    this.delays = []; // for each target word, this turn's source words read when it was written
    this.seenWords = 0; // this turn's source words that the last piece of target had seen
    this.sourceBefore = null; // words of the stream before this turn
    this.targetBefore = null;
    Object.assign(this, saved);
  }

  addSource({ delta = "", source_words: sourceWords = 0 }) {
    if (!delta.trim()) return;
    this.sourceBefore ??= sourceWords - 1;
    this.source += delta;
    this.sourceWords.push(delta.trim());
    this.wordEnds.push(this.source.length);
  }

  // The source that the last piece of target had seen, and the rest of what was read.
  get sourceParts() {
    const end = this.seenWords ? this.wordEnds[Math.min(this.seenWords, this.wordEnds.length) - 1] : 0;
    return [this.source.slice(0, end ?? 0), this.source.slice(end ?? 0)];
  }

  addTarget({ delta = "", source_words: sourceWords = 0, target_words: targetWords = 0 }) {
    this.sourceBefore ??= sourceWords;
    this.targetBefore ??= targetWords;
    this.seenWords = Math.max(sourceWords - this.sourceBefore, 0);
    this.target += delta;
    this.begun += delta;
    const complete = targetWords - this.targetBefore - this.targetWords.length;
    if (complete > 0) {
      this.targetWords.push(...wordsOf(this.begun, complete));
      this.delays.push(...Array(complete).fill(this.seenWords));
      this.begun = "";
    }
  }
}

function finished(message, heard) {
  const [from, to] = message.source_span_words ?? [0, 0];
  const delays = (message.delays ?? []).map((delay) => Math.min(Math.max(delay - from, 0), to - from));
  const isWhole = heard !== null && heard.sourceWords.length === to - from;
  return {
    turn: message.turn,
    source: (message.source_text ?? "").trim(),
    target: (message.target_text ?? "").trim(),
    sourceWords: isWhole ? heard.sourceWords : wordsOf(message.source_text ?? "", to - from),
    targetWords: wordsOf(message.target_text ?? "", delays.length),
    delays,
    endedBy: message.ended_by ?? "",
    reason: message.reason ?? "",
  };
}
