// A clock that tests advance, and a server that speaks the protocol over sockets in memory.

export class Clock {
  #timers = [];
  #ms = 0;
  random = () => 0.5;
  now = () => this.#ms;
  setTimeout = (f, ms) => this.#add({ f, at: this.#ms + ms, every: null });
  setInterval = (f, ms) => this.#add({ f, at: this.#ms + ms, every: ms });
  clearTimeout = (timer) => {
    this.#timers = this.#timers.filter((each) => each !== timer);
  };
  clearInterval = this.clearTimeout;

  #add(timer) {
    this.#timers.push(timer);
    return timer;
  }

  // Let time pass, and what waits for a promise run in between.
  async pass(ms) {
    const end = this.#ms + ms;
    for (;;) {
      await settled();
      const due = this.#timers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (due === undefined) break;
      this.#ms = due.at;
      if (due.every === null) this.clearTimeout(due);
      else due.at += due.every;
      due.f();
    }
    this.#ms = end;
    // A message there, its answer, and what follows from that.
    for (let i = 0; i < 8; i++) await settled();
  }
}

export const settled = () => new Promise((resolve) => setImmediate(resolve));

// Takes text, reads each whole word, and writes it in capitals at once. A socket's `losesIn` and
// `losesOut` say how many messages still arrive, in each direction, before it breaks.
export class FakeServer {
  sockets = [];
  streams = new Map();
  isUp = true;
  refusal = null; // why sockets are refused, as diagnose() says it

  socket({ session, after }) {
    const socket = new FakeSocket(this, session, after);
    this.sockets.push(socket);
    return socket;
  }

  async diagnose() {
    return this.refusal ?? (this.isUp ? "busy" : "away");
  }

  async streamOf(id) {
    const stream = this.isUp ? this.streams.get(id) : undefined;
    if (!stream) return null;
    return { source_chars: stream.chars, last_seq: stream.said.length, audio_ms: stream.audioMs };
  }

  get stream() {
    return [...this.streams.values()].at(-1);
  }

  // The connection breaks, and neither side is told.
  cut() {
    this.sockets.at(-1).isCut = true;
  }

  // The connection breaks, and the browser notices.
  drop(code = 1006) {
    const socket = this.sockets.at(-1);
    socket.isCut = true;
    socket.onclose?.({ code });
  }
}

class FakeSocket {
  isCut = false;
  losesIn = Infinity;
  losesOut = Infinity;

  constructor(server, id, after) {
    this.server = server;
    setImmediate(() => this.#open(id, after));
  }

  send(data) {
    if (this.isCut || this.losesIn-- <= 0) return this.#break();
    setImmediate(() => this.isClosed || this.stream?.receive(JSON.parse(data)));
  }

  close() {
    this.isCut = true;
  }

  say(message) {
    if (this.isCut || this.losesOut-- <= 0) return this.#break();
    setImmediate(() => this.isCut || this.onmessage?.({ data: JSON.stringify(message) }));
  }

  #break() {
    if (this.isCut) return;
    this.isCut = true;
    setImmediate(() => this.onclose?.({ code: 1006 }));
  }

  #open(id, after) {
    if (this.isCut) return;
    const { server } = this;
    this.stream = id === undefined ? new FakeStream(`sess_${server.streams.size}`) : server.streams.get(id);
    if (!server.isUp || server.refusal || this.stream === undefined) {
      this.isCut = true;
      return this.onclose?.({ code: 1006 });
    }
    server.streams.set(this.stream.id, this.stream);
    this.stream.listen(this, id !== undefined, after ?? 0);
  }
}

class FakeStream {
  chars = 0;
  commits = 0;
  audio = []; // samples; each second of them is a word
  text = "";
  said = []; // numbered messages
  read = [];
  turn = 0;
  #rest = "";
  #turnBegan = 0;

  constructor(id) {
    this.id = id;
  }

  get session() {
    return { id: this.id, model: "shout", policy: this.policy ?? "wait-k:1", fixed: ["context"] };
  }

  listen(socket, resumed, after) {
    this.socket = socket;
    const { chars: source_chars, commits, session } = this;
    const audio_ms = this.audioMs;
    socket.say({ type: "session.created", session, resumed, source_chars, commits, audio_ms });
    for (const message of this.said.slice(after)) socket.say(message);
  }

  receive(message) {
    switch (message.type) {
      case "session.input_text_buffer.append":
        if (this.refuses) return this.#refuse(message);
        this.chars += [...message.text].length;
        this.text += message.text;
        this.#rest += message.text;
        this.#readWhole();
        break;
      case "session.input_text_buffer.commit":
        this.commits++;
        this.#rest += " ";
        this.#readWhole();
        this.#endTurn();
        this.number({ type: "session.input_text_buffer.committed", commits: this.commits });
        break;
      case "session.input_audio_buffer.append":
        if (this.refuses) return this.#refuse(message, undefined, this.refuses);
        this.#hear(Buffer.from(message.audio, "base64"));
        break;
      case "session.update":
        if (message.session.policy === "bad") return this.#refuse(message, "session.policy");
        this.policy = message.session.policy ?? this.policy;
        this.number({ type: "session.updated", session: this.session });
        break;
      case "session.close":
        this.number({ type: "session.closed", reason: "end_of_turn", usage: {} });
        break;
    }
  }

  number(message) {
    this.said.push({ ...message, seq: this.said.length + 1 });
    this.socket.say(this.said.at(-1));
  }

  get audioMs() {
    return this.audio.length / 24;
  }

  #hear(bytes) {
    for (let at = 0; at < bytes.length; at += 2) {
      this.audio.push(bytes.readInt16LE(at));
      if (this.audio.length % 24_000 || this.isBusy) continue;
      const text = `spoken${this.audioMs / 1_000} `;
      const words = [{ text: ` ${text.trim()}`, start_ms: this.audioMs - 900, end_ms: this.audioMs - 500 }];
      this.number({
        type: "session.input_audio_buffer.recognised",
        text,
        words,
        audio_ms: this.audioMs - 500,
      });
      this.text += text;
      this.#rest += text;
      this.#readWhole();
    }
    if (!this.isBusy) this.#sayHeard();
  }

  #sayHeard() {
    this.socket.say({ type: "session.input_transcript.tail", text: "", heard_ms: this.audioMs });
  }

  // A recogniser that was busy has listened to all that came.
  goOn() {
    this.isBusy = false;
    this.#sayHeard();
  }

  #refuse({ event_id }, param, code = "refused") {
    this.socket.say({ type: "error", error: { code, message: "not now", event_id, param } });
  }

  #readWhole() {
    const words = this.#rest.split(/\s+/u);
    this.#rest = words.pop();
    for (const word of words.filter(Boolean)) {
      this.read.push(word);
      const n = this.read.length;
      const delta = (n > 1 ? " " : "") + word;
      const { turn } = this;
      this.number({ type: "session.input_transcript.delta", delta, turn, source_words: n });
      this.number({
        type: "session.output_transcript.delta",
        delta: delta.toUpperCase(),
        turn,
        source_words: n,
        target_words: n,
      });
    }
  }

  #endTurn() {
    const [from, to] = [this.#turnBegan, this.read.length];
    if (from === to) return;
    const source_text = this.read.slice(from, to).join(" ");
    this.number({
      type: "session.turn.done",
      turn: this.turn++,
      source_text,
      target_text: source_text.toUpperCase(),
      source_span_words: [from, to],
      target_span_words: [from, to],
      delays: Array.from({ length: to - from }, (_, i) => from + i + 1),
      ended_by: "end_turn",
      reason: "end_of_turn",
    });
    this.#turnBegan = to;
  }
}

// Storage that a page load leaves behind, as the text that a browser would keep.
export class Storage {
  text = "null";
  load = () => JSON.parse(this.text);
  save = (value) => {
    this.text = JSON.stringify(value);
  };
}
