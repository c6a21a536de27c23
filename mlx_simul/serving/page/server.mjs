// The server as a browser reaches it: addresses, sockets and requests.

// The page may be served under a path: this file is BASE/page/server.mjs.
const BASE = new URL("../", import.meta.url);
const PATIENCE_MS = 5_000;

export class Server {
  constructor(base = BASE) {
    this.base = base;
    this.key = null; // where the server asks for one
  }

  captions(id) {
    return new URL(`captions/${encodeURIComponent(id)}`, this.base).href;
  }

  socket({ model, session, after }) {
    const url = new URL("v1/realtime/translations", this.base);
    url.protocol = url.protocol.replace("http", "ws");
    if (model) url.searchParams.set("model", model);
    if (session) {
      url.searchParams.set("session", session);
      url.searchParams.set("after", after);
    }
    // A browser cannot set headers on a socket; subprotocols carry the key.
    const { key } = this;
    return new WebSocket(url, key ? ["realtime", `openai-insecure-api-key.${key}`] : ["realtime"]);
  }

  events(id, after) {
    const url = new URL(`v1/streams/${encodeURIComponent(id)}/events`, this.base);
    if (after) url.searchParams.set("after", after);
    return new EventSource(url);
  }

  async models() {
    return (await this.#get("v1/models")).data ?? [];
  }

  // {last_seq, source_chars, …}, or null if it cannot be had.
  async streamOf(id) {
    try {
      return await this.#get(`v1/streams/${encodeURIComponent(id)}`);
    } catch {
      return null;
    }
  }

  // Why a connection could not be opened, which a browser does not say: "away", if the server
  // does not answer; "busy", if it does; "key" and "gone"; or what the server says.
  async diagnose({ model, session, after }) {
    try {
      if (session) await this.#listen(session, after);
      else if (model && !(await this.models()).some(({ id }) => id === model)) {
        return `The server does not have the model “${model}”.`;
      } else await this.models();
      return "busy";
    } catch (error) {
      if (!(error instanceof Refusal)) return "away";
      if (error.status >= 500 || error.status === 429) return "busy";
      if (error.status === 401) return "key";
      return session && [404, 410].includes(error.status) ? "gone" : error.message;
    }
  }

  // Whether what follows a message can still be heard.
  async #listen(id, after) {
    const path = `v1/streams/${encodeURIComponent(id)}/events?after=${after}`;
    const response = await this.#fetch(path);
    await response.body.cancel();
  }

  async transcript(id, format, side) {
    const path = `v1/streams/${encodeURIComponent(id)}/transcript.${format}?side=${side}`;
    return (await this.#fetch(path)).blob();
  }

  async #get(path) {
    return (await this.#fetch(path)).json();
  }

  async #fetch(path) {
    const response = await fetch(new URL(path, this.base), {
      headers: this.key ? { Authorization: `Bearer ${this.key}` } : {},
      signal: AbortSignal.timeout(PATIENCE_MS),
      cache: "no-store",
    });
    if (!response.ok) throw new Refusal(response.status, await reason(response));
    return response;
  }
}

export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered with ${response.status} ${response.statusText}.`;
  }
}
