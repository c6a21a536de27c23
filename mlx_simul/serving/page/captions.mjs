// The listeners' view of one stream, over server-sent events.

import { clock } from "./clock.mjs";
import { backoffMs } from "./connection.mjs";
import { byId, eachFrame, el, setLang, setText } from "./dom.mjs";
import { Server } from "./server.mjs";
import { Kept } from "./storage.mjs";
import { Stream } from "./stream.mjs";
import { languagesOf } from "./turns_view.mjs";

const SHOWN_TURNS = 12; // more than fit on a screen
const MAX_BEHIND = 500; // messages
const SMALLEST = 1.2;
const LARGEST = 12;
const STEP = 1.15;
const STILL_MS = 4_000;

const VIEW = new Kept("localStorage", "mlx-simul.captions");
const view = { size: 3.2, source: false, dark: null, ...VIEW.load() };
const id = decodeURIComponent(location.pathname.split("/").at(-1));
const server = new Server();
const stream = new Stream({ keptTurns: SHOWN_TURNS });
let events = null;
let attempt = 0;
let state = "Connecting";
let shown = -1;

// The stream

// A listener who comes in the middle of a talk needs its last lines; and the server keeps only the
// newest messages.
async function listen() {
  const seen = await server.streamOf(id);
  if (seen !== null && seen.last_seq > stream.lastSeq + MAX_BEHIND) {
    stream.skipTo(seen.last_seq - MAX_BEHIND);
  }
  const source = server.events(id, stream.lastSeq);
  events = source;
  source.onmessage = ({ data }) => events === source && receive(JSON.parse(data));
  // The browser's own retries stop at the first answer that is not a stream of events.
  source.onerror = () => events === source && retry();
}

function receive(message) {
  attempt = 0;
  state = "";
  const kind = stream.apply(message);
  if (kind === "gap") return retry();
  if (kind === "new" && message.type === "session.turn.done") announce(stream.turns.at(-1));
  if (stream.closed !== null) {
    hangUp();
    state = "The talk has ended.";
  }
  draw();
}

function hangUp() {
  events.close();
  events = null;
}

async function retry() {
  hangUp();
  state = stream.session === null ? "Connecting." : "Connection lost. Trying again.";
  draw();
  const why = await server.diagnose({ session: id, after: stream.lastSeq });
  if (why === "gone") state = "The server does not have this talk: it has ended, or the address is wrong.";
  draw();
  setTimeout(listen, backoffMs(attempt++, clock.random));
}

// What is shown

const draw = eachFrame(() => {
  const languages = languagesOf(stream.session);
  for (const turn of stream.turns) {
    if (turn.turn <= shown) continue;
    shown = turn.turn;
    const source = el("p", { class: "source", dir: "auto" }, turn.source);
    const target = el("p", { class: "target", dir: "auto" }, turn.target);
    setLang(source, languages.source);
    setLang(target, languages.target);
    byId("lines").append(el("div", { class: "turn" }, source, target));
  }
  while (byId("lines").childElementCount > SHOWN_TURNS) byId("lines").firstChild.remove();
  const source = stream.live?.source.trimStart() ?? "";
  const target = stream.live?.target.trimStart() ?? "";
  setText(byId("live-source"), source);
  setText(byId("live-tail"), stream.tail && source ? ` ${stream.tail}` : stream.tail);
  setText(byId("live-target"), target);
  setLang(byId("live-source").parentElement, languages.source);
  setLang(byId("live-target"), languages.target);
  byId("live").hidden = !(target || (view.source && (source || stream.tail)));
  const isWaiting = state === "" && shown < 0 && !stream.live;
  setText(byId("status"), isWaiting ? "Waiting for the speaker." : state);
});

function announce(turn) {
  const line = el("p", {}, turn.target);
  setLang(line, languagesOf(stream.session).target);
  byId("heard").append(line);
  while (byId("heard").childElementCount > 3) byId("heard").firstChild.remove();
}

// How it is shown

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => view.dark ?? prefersDark.matches;

function arrange() {
  const root = document.documentElement;
  root.style.setProperty("--size", `${view.size}vmax`);
  root.dataset.theme = isDark() ? "dark" : "light";
  document.body.classList.toggle("with-source", view.source);
  byId("source").setAttribute("aria-pressed", String(view.source));
  byId("dark").setAttribute("aria-pressed", String(isDark()));
  byId("full").setAttribute("aria-pressed", String(document.fullscreenElement !== null));
  draw();
}

function change(changes) {
  Object.assign(view, changes);
  VIEW.save(view);
  arrange();
}

const resize = (by) => change({ size: Math.min(Math.max(view.size * by, SMALLEST), LARGEST) });

function toggleFull() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen?.().catch(() => {}); // the browser may forbid it
}

const ACTIONS = {
  smaller: () => resize(1 / STEP),
  larger: () => resize(STEP),
  source: () => change({ source: !view.source }),
  dark: () => change({ dark: !isDark() }),
  full: toggleFull,
};
const KEYS = { "-": "smaller", "+": "larger", "=": "larger", s: "source", d: "dark", f: "full" };

for (const [name, act] of Object.entries(ACTIONS)) byId(name).addEventListener("click", act);
window.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  ACTIONS[KEYS[event.key.toLowerCase()]]?.();
});
document.addEventListener("fullscreenchange", arrange);
prefersDark.addEventListener("change", arrange);

let stillness = null;
function stir() {
  document.body.classList.remove("still");
  clearTimeout(stillness);
  stillness = setTimeout(() => document.body.classList.add("still"), STILL_MS);
}
for (const kind of ["pointermove", "pointerdown", "keydown"]) window.addEventListener(kind, stir);

if (!document.documentElement.requestFullscreen) byId("full").hidden = true;
arrange();
stir();
listen();
