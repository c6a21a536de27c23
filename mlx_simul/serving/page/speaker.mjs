// The speaker's side of one stream: text in, the stream's state out, across broken connections and
// reloads of the page. The browser's services are passed in, so it knows no DOM.

import { Connection } from "./connection.mjs";
import { averageLagging, Response } from "./lag.mjs";
import { Outbox } from "./outbox.mjs";
import { Stream } from "./stream.mjs";
import { Voice } from "./voice.mjs";

// Reasons for a connection to stop that do not cost the stream.
const RESUMABLE = ["closed", "key", "taken", "too-large"];

// Errors about a message that sending it again does not help.
const FINAL_CODES = ["session_closed", "recogniser_failed", "no_recogniser"];

const SAVE_MS = 1_000;
const OVERTAKEN_MS = 2_000; // of speech: a request may overtake a socket's messages
const SILENT_MS = 8_000; // with text under way, a connection that says nothing this long is asked about

export class Speaker {
  #event = 0;
  #asked = new Map(); // event_id of an update -> the options that it changes
  #isSaved = true;
  #heardMs = 0;
  #closing = false;
  #hasAskedToClose = false; // on this connection

  // `server` has socket(query), streamOf(id) and diagnose(query);
  // `storage` has load() and save(object or null).
  // onChange(): anything may have changed. onTurn(turn): one has ended.
  // onUpdated(names): options that were changed here have changed.
  // onProblem({message, options}): the server refused something; `options` are names of options.
  constructor({ server, storage, clock, onChange, onTurn, onUpdated, onProblem }) {
    Object.assign(this, { server, storage, clock, onChange, onTurn, onUpdated, onProblem });
    this.connection = new Connection({
      open: () => server.socket(this.#query()),
      diagnose: () => server.diagnose(this.#query()),
      onMessage: (message) => this.#receive(message),
      onState: (state, detail) => this.#stateIs(state, detail),
      clock,
    });
    this.#forget();
    this.model = null;
    const saved = storage.load();
    if (saved !== null) this.#restore(saved);
    clock.setInterval(() => this.#watch(), SILENT_MS / 2);
    clock.setInterval(() => this.save(), SAVE_MS);
  }

  start() {
    this.connection.start();
  }

  // Begin another stream, and close this one, so that its listeners see its end. If it is over and
  // some text was not translated, that text goes into the new stream.
  renew(model = this.model) {
    const left = this.takesText ? "" : (this.stream.live?.source ?? "") + this.outbox.unread().join("");
    this.connection.send({ type: "session.close" });
    this.connection.stop();
    this.#forget();
    this.model = model;
    if (left.trim()) this.outbox.append(left);
    this.start();
  }

  type(text) {
    if (!text || !this.takesText) return;
    this.outbox.append(text);
    this.#spoke();
  }

  endTurn() {
    if (!this.takesText) return;
    this.outbox.commit();
    this.#spoke();
  }

  // 16-bit samples of the microphone.
  hear(pcm) {
    if (!this.takesSpeech) return;
    this.voice.add(pcm, this.clock.now());
    const lostS = this.voice.takeLostS();
    if (lostS) this.onProblem({ message: lostSpeech(lostS) });
    this.#pump();
  }

  // No more speech for now.
  endSpeech() {
    if (!this.takesSpeech) return;
    this.voice.finish();
    this.#pump();
  }

  update(options) {
    Object.assign(this.wanted, options);
    this.#sendUpdate();
  }

  // The source has ended: what is left is translated, then the server closes the stream.
  close() {
    this.#closing = true;
    this.#spoke();
  }

  get takesText() {
    return this.stream.closed === null && !this.#closing && !this.isLost;
  }

  get takesSpeech() {
    return this.takesText && !this.hasNoRecogniser;
  }

  // The server cannot continue the stream. The text on the page stays.
  get isLost() {
    return this.state === "stopped" && !RESUMABLE.includes(this.detail.why);
  }

  // Save at once: the page may be about to go.
  save() {
    if (this.#isSaved) return;
    this.#isSaved = true;
    const { id, model, stream, outbox, wanted } = this;
    const closing = this.#closing;
    this.storage.save({ id, model, stream, outbox, wanted, closing });
  }

  #restore(saved) {
    const { id, model, wanted } = saved;
    Object.assign(this, { id, model, wanted });
    this.stream = Stream.restored(saved.stream);
    this.outbox = new Outbox(saved.outbox);
    this.#closing = saved.closing;
  }

  #forget() {
    this.id = null;
    this.stream = new Stream();
    this.outbox = new Outbox();
    this.voice = new Voice();
    this.hasNoRecogniser = false; // or it broke off in this stream
    this.response = new Response();
    this.responseMs = null; // of the target's last piece
    this.wanted = {}; // options that were changed here and not yet confirmed
    this.#closing = false;
    this.#asked.clear();
    this.state = "stopped";
    this.detail = { why: "closed" };
    this.#changed();
  }

  #query() {
    if (this.id === null) return { model: this.model };
    return { model: this.model, session: this.id, after: this.stream.lastSeq };
  }

  #stateIs(state, detail) {
    this.state = state;
    this.detail = detail;
    this.#changed();
  }

  #changed() {
    this.#isSaved = false;
    this.onChange();
  }

  #spoke() {
    this.#pump();
    this.#isSaved = false;
    this.save(); // what the server may not have yet survives the page
    this.onChange();
  }

  #pump() {
    let op;
    while (this.state === "live" && (op = this.outbox.take(this.clock.now())) !== null) {
      const type = op.text === undefined ? "commit" : "append";
      const message = { type: `session.input_text_buffer.${type}`, event_id: this.#eventId() };
      this.connection.send(op.text === undefined ? message : { ...message, text: op.text });
    }
    let message;
    while (this.state === "live" && (message = this.voice.take()) !== null) {
      this.connection.send({ ...message, event_id: this.#eventId() });
    }
    const hasUnsent = this.outbox.hasUnsent || (this.voice.hasUnsent && !this.hasNoRecogniser);
    if (this.#closing && !this.#hasAskedToClose && !hasUnsent) {
      this.#hasAskedToClose = this.connection.send({ type: "session.close" });
    }
  }

  #sendUpdate() {
    if (this.state !== "live" || Object.keys(this.wanted).length === 0) return;
    const event_id = this.#eventId();
    this.#asked.set(event_id, { ...this.wanted });
    this.connection.send({ type: "session.update", event_id, session: this.wanted });
  }

  #eventId() {
    return `page_${++this.#event}`;
  }

  #receive(message) {
    this.#heardMs = this.clock.now();
    if (message.type === "session.created") return this.#created(message);
    const kind = this.stream.apply(message);
    if (message.heard_ms !== undefined) {
      this.voice.listened(message.heard_ms);
      this.#pump();
    }
    if (kind === "gap") return this.connection.lose(); // resuming fills it
    if (message.type === "error" && kind !== "old") this.#refused(message.error ?? {});
    if (kind === "new") this.#numbered(message);
    this.#changed();
  }

  #created(message) {
    this.stream.apply(message);
    this.id = message.session.id;
    this.model = message.session.model;
    const { lost, unknown } = this.outbox.resume(message.source_chars ?? 0, message.commits ?? 0);
    if (lost) this.onProblem({ message: lostText(lost) });
    if (unknown) this.onProblem({ message: unknownText(unknown) });
    const lostS = this.voice.resume(message.audio_ms ?? 0);
    if (lostS) this.onProblem({ message: lostSpeech(lostS) });
    this.#asked.clear();
    this.#hasAskedToClose = false;
    this.#sendUpdate();
    this.#pump();
    this.#isSaved = false;
    this.save();
    this.onChange();
  }

  #numbered(message) {
    const now = this.clock.now();
    switch (message.type) {
      case "session.input_audio_buffer.recognised":
        this.voice.recognised(message);
        break;
      case "session.input_transcript.delta": {
        const word = message.delta ?? "";
        const spoken = this.voice.read(word);
        const sentMs = spoken === null ? this.outbox.read(word) : spoken.saidMs;
        this.response.read(message.source_words, sentMs, now);
        this.#pump();
        break;
      }
      case "session.output_transcript.delta": {
        const next = this.outbox.nextSentMs();
        this.responseMs = this.response.wrote(message.source_words, next, now) ?? this.responseMs;
        break;
      }
      case "session.turn.done": {
        const turn = this.stream.turns.at(-1);
        turn.lagWords = averageLagging(turn.delays, turn.sourceWords.length);
        turn.responseMs = this.response.endTurn();
        this.onTurn(turn);
        break;
      }
      case "session.input_text_buffer.committed":
        this.outbox.committed(message.commits);
        this.#pump();
        break;
      case "session.updated":
        this.#confirm();
        break;
      case "session.closed":
        this.connection.stop("closed");
        break;
    }
  }

  // Updates are answered in order, so this answers the oldest.
  #confirm() {
    const [event_id, asked] = this.#asked.entries().next().value ?? [];
    if (asked === undefined) return;
    this.#settle(event_id, asked);
    this.onUpdated(Object.keys(asked));
  }

  #settle(event_id, asked) {
    this.#asked.delete(event_id);
    for (const [name, value] of Object.entries(asked)) {
      if (this.wanted[name] === value) delete this.wanted[name];
    }
  }

  #refused(error) {
    const asked = this.#asked.get(error.event_id);
    if (asked !== undefined) this.#settle(error.event_id, asked);
    const options = asked === undefined ? [] : optionsOf(error.param, asked);
    if (error.code === "recogniser_failed") {
      if (this.hasNoRecogniser) return; // it was said already
      this.hasNoRecogniser = true;
    }
    this.onProblem({ message: error.message ?? error.code ?? "", options });
    // The server did not take some source. Resuming tells how much it has, and sends the rest again.
    const isSource = asked === undefined && error.event_id?.startsWith?.("page_");
    if (isSource && !FINAL_CODES.includes(error.code)) this.connection.lose();
  }

  // A dead network does not always close a socket. If source is under way and nothing comes back,
  // ask the server over HTTP how much it has.
  async #watch() {
    const { id, clock, voice } = this;
    const [sent] = this.outbox.unread();
    const isUnderWay = sent || voice.behindS > 0;
    if (this.state !== "live" || !isUnderWay || clock.now() - this.#heardMs < SILENT_MS) return;
    const { sentMs } = voice; // more may be on its way when the answer comes
    const seen = await this.server.streamOf(id);
    if (this.state !== "live" || this.id !== id) return;
    const hasText = seen !== null && seen.source_chars >= this.outbox.sentTo;
    const hasAll = hasText && (seen.audio_ms ?? 0) >= sentMs - OVERTAKEN_MS;
    if (hasAll && seen.last_seq <= this.stream.lastSeq) this.#heardMs = clock.now();
    else this.connection.lose();
  }
}

// The options that an error is about: the one that it names, or all that were asked for.
function optionsOf(param, asked) {
  const names = Object.keys(asked);
  const named = names.filter((name) => (param ?? "").split(".").includes(name));
  return named.length ? named : names;
}

const lostText = (n) =>
  `The server has lost ${n} characters of the source, and this page no longer has them: that part ` +
  "is not translated.";

const lostSpeech = (seconds) =>
  `${seconds.toFixed(1)} seconds of speech were lost: the server could not take them in time.`;

const unknownText = (n) =>
  `The server has ${n} characters more than this page remembers, perhaps from another window. ` +
  "They appear when they are read.";
