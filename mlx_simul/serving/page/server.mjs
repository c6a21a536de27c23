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

  socket({ model, session, after, secret }) {
    const url = new URL("v1/realtime/translations", this.base);
    url.protocol = url.protocol.replace("http", "ws");
    if (model) url.searchParams.set("model", model);
    if (session) {
      url.searchParams.set("session", session);
      url.searchParams.set("after", after);
    }
    // A browser cannot set headers on a socket; subprotocols carry the key.
    const key = this.key ?? (session ? secret : null);
    return new WebSocket(url, key ? ["realtime", `openai-insecure-api-key.${key}`] : ["realtime"]);
  }

  events(id, after) {
    const url = new URL(`v1/streams/${encodeURIComponent(id)}/events`, this.base);
    if (after) url.searchParams.set("after", after);
    return new EventSource(url);
  }

  async models() {
    return (await this.#get("v1/models", this.key)).data ?? [];
  }

  // {last_seq, source_chars, …}, or null if it cannot be had.
  async streamOf(id, secret) {
    try {
      return await this.#get(`v1/streams/${encodeURIComponent(id)}`, this.key ?? secret);
    } catch {
      return null;
    }
  }

  // Why a socket could not be opened, which a browser does not say: null if the network is away
  // or the server busy, so that trying again may help; "key", "gone", or what the server says.
  async diagnose(id, secret) {
    try {
      if (id !== null) await this.#get(`v1/streams/${encodeURIComponent(id)}`, this.key ?? secret);
      else await this.#get("v1/models", this.key);
      return null;
    } catch (error) {
      if (!(error instanceof Refusal) || error.status >= 500 || error.status === 429) return null;
      if (error.status === 401) return "key";
      return error.status === 404 && id !== null ? "gone" : error.message;
    }
  }

  async transcript(id, secret, format, side) {
    const path = `v1/streams/${encodeURIComponent(id)}/transcript.${format}?side=${side}`;
    return (await this.#fetch(path, this.key ?? secret)).blob();
  }

  async #get(path, key) {
    return (await this.#fetch(path, key)).json();
  }

  async #fetch(path, key) {
    const response = await fetch(new URL(path, this.base), {
      headers: key ? { Authorization: `Bearer ${key}` } : {},
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
