// One stream over sockets that come and go: opening, sending, retrying, resuming. The socket and
// the clock are passed in, so it knows no DOM.

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;
const STEADY_MS = 10_000; // a connection that lasted this long starts the waits from the beginning

// Why the server ended a connection for good (close codes of the protocol).
const FINAL = { 4001: "key", 4002: "gone", 4003: "taken", 1009: "too-large" };

export function backoffMs(attempt, random) {
  const longest = Math.min(FIRST_WAIT_MS * 2 ** attempt, LONGEST_WAIT_MS);
  return longest / 2 + (random() * longest) / 2;
}

// States: "connecting"; "live"; "waiting" {isBusy}, to try again; "stopped" {why}, where `why` is
// "closed", "key", "gone", "taken", "too-large", or a text from the server.
export class Connection {
  #socket = null;
  #timer = null;
  #attempt = 0;
  #beganMs = 0;
  #greeted = false;
  #isGone = false; // the last diagnosis was that the server does not know the stream

  // open(): a new socket, to the stream that is to be resumed or to a new one.
  // onMessage(message); onState(state, detail).
  // diagnose(): called when a socket closed before the server greeted; resolves to "away" or
  // "busy" (try again), or to the reason why trying again is no use.
  constructor({ open, onMessage, onState, diagnose, clock }) {
    Object.assign(this, { open, onMessage, onState, diagnose, clock });
    this.state = "stopped";
  }

  start() {
    this.stop();
    this.#attempt = 0;
    this.#connect();
  }

  // Drop the socket, and leave the stream as it is; start() begins again.
  stop(why = "closed") {
    this.#cancel();
    this.#drop();
    if (this.state !== "stopped") this.#enter("stopped", { why });
  }

  // The network has gone, or the socket no longer answers: do not wait for it to close.
  lose() {
    if (this.state !== "connecting" && this.state !== "live") return;
    this.#drop();
    this.#retry();
  }

  // The network may be back: do not wait any longer.
  hurry() {
    if (this.state !== "waiting") return;
    this.#attempt = 0;
    this.#cancel();
    this.#connect();
  }

  send(message) {
    if (this.state !== "live") return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  #connect() {
    this.#enter("connecting");
    this.#greeted = false;
    this.#beganMs = this.clock.now();
    const socket = this.open();
    this.#socket = socket;
    // A socket that was dropped may still call; it is no longer ours.
    const ours = (handler) => (event) => {
      if (this.#socket === socket) handler(event);
    };
    socket.onmessage = ours((event) => this.#receive(event.data));
    socket.onclose = ours((event) => this.#closed(event.code));
    socket.onerror = () => {}; // a close follows
  }

  #receive(data) {
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return this.lose(); // half a message: what is missing comes again after resuming
    }
    if (message?.type === "session.created" && !this.#greeted) {
      this.#greeted = true;
      this.#isGone = false;
      this.#enter("live");
    }
    this.onMessage(message);
  }

  async #closed(code) {
    const greeted = this.#greeted;
    this.#drop();
    if (code in FINAL) return this.#enter("stopped", { why: FINAL[code] });
    if (greeted) return this.#retry();
    this.#enter("waiting");
    const why = await this.diagnose();
    if (this.state !== "waiting" || this.#timer !== null) return; // stopped or hurried meanwhile
    // A server that has just started knows a stream of its journal only once it is resumed.
    const isGone = why === "gone";
    const mayHelp = why === "away" || why === "busy" || (isGone && !this.#isGone);
    if (isGone && !this.#isGone) this.#attempt = 0; // it answers: ask again soon
    this.#isGone = isGone;
    if (mayHelp) this.#retry(why === "busy");
    else this.#enter("stopped", { why });
  }

  #retry(isBusy = false) {
    if (this.#greeted && this.clock.now() - this.#beganMs > STEADY_MS) this.#attempt = 0;
    const waitMs = backoffMs(this.#attempt++, this.clock.random);
    this.#cancel();
    this.#timer = this.clock.setTimeout(() => {
      this.#timer = null;
      this.#connect();
    }, waitMs);
    this.#enter("waiting", { isBusy });
  }

  #cancel() {
    if (this.#timer !== null) this.clock.clearTimeout(this.#timer);
    this.#timer = null;
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #enter(state, detail = {}) {
    this.state = state;
    this.onState(state, detail);
  }
}
