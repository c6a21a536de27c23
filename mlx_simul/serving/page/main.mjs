// The page: one speaker's stream, and the controls around it.

import { clock } from "./clock.mjs";
import { Composer } from "./composer.mjs";
import { byId, eachFrame, el, setText } from "./dom.mjs";
import { averageLagging } from "./lag.mjs";
import { Microphone } from "./microphone.mjs";
import { Server } from "./server.mjs";
import { SettingsView } from "./settings_view.mjs";
import { Speaker } from "./speaker.mjs";
import { StaircaseView } from "./staircase_view.mjs";
import { Kept } from "./storage.mjs";
import { chooseTheme } from "./theme.mjs";
import { TurnsView } from "./turns_view.mjs";
import { VoiceView } from "./voice_view.mjs";

const MAX_PROBLEMS = 3;
const KEY = new Kept("sessionStorage", "mlx-simul.key");
const STREAM = new Kept("sessionStorage", "mlx-simul.stream.1");
const PASTED = new Kept("sessionStorage", "mlx-simul.pasted");

const server = new Server();
server.key = KEY.load();
const turns = new TurnsView();
const draw = eachFrame(() => drawAll());
const staircase = new StaircaseView(draw);
const speaker = new Speaker({
  server,
  storage: STREAM,
  clock,
  onChange: draw,
  onTurn: (turn) => turns.announce(turn, speaker.stream.session),
  onUpdated: (options) => settings.settle(options),
  onProblem: ({ message, options = [] }) => {
    if (!settings.refuse(options, message)) complain(message);
  },
});
const settings = new SettingsView((options) => speaker.update(options));
const composer = new Composer({
  type: (text) => speaker.type(text),
  endTurn: () => speaker.endTurn(),
  isLive: () => speaker.state === "live",
  onProblem: complain,
  clock,
});

const voice = new VoiceView({
  toggle: () => (microphone.state === "off" ? microphone.start() : microphone.stop()),
  mute: (isMuted) => microphone.mute(isMuted),
});
const microphone = new Microphone({
  onSamples: (pcm, level) => {
    speaker.hear(pcm);
    voice.hear(level);
    draw();
  },
  onState: draw,
  onPause: () => speaker.endSpeech(),
  onProblem: complain,
});

function drawAll() {
  const { stream, outbox, state } = speaker;
  const { session } = stream;
  const [sent, waiting] = outbox.unread();
  const spoken = speaker.voice.unread;
  turns.draw(stream, [spoken ? ` ${spoken}${sent}` : sent, waiting]);
  staircase.draw(stream);
  settings.draw(session, speaker.wanted, speaker.takesText);
  drawPair(session);
  drawProgress(stream);
  drawState(state, speaker.detail);
  composer.enable(speaker.takesText, speaker.isLost);
  drawVoice(session, state);
  byId("share").hidden = session === null;
  if (session !== null) byId("captions").href = server.captions(speaker.id);
  byId("end").disabled = !speaker.takesText || session === null;
}

function drawPair(session) {
  setText(byId("source-name"), session?.source_language || "Source");
  setText(byId("target-name"), session?.target_language || "Target");
  setText(byId("model"), session === null ? "" : session.model);
  byId("text").lang = session?.audio?.input?.language ?? "";
}

function drawVoice(session, state) {
  const isOffered = session?.input_modalities?.includes("audio") ?? false;
  // A connection that is lost comes back; a stream that has ended does not.
  if (!speaker.takesSpeech) microphone.stop();
  voice.draw({
    state: microphone.state,
    isOffered,
    isOpen: speaker.takesSpeech,
    isLive: state === "live",
    behindS: speaker.voice.behindS,
  });
  setText(byId("how-to-begin"), isOffered ? "Speak, or type below." : "Type below.");
}

// How far the target has got in the turn under way, or had in the last one.
function drawProgress({ live, turns: finished }) {
  const turn = live ?? finished.at(-1);
  byId("progress").hidden = !turn?.delays.length;
  if (!turn?.delays.length) return;
  const seen = live ? live.seenWords : turn.delays.at(-1);
  setText(byId("seen-words"), `${seen} of ${turn.sourceWords.length}`);
  const lag = averageLagging(turn.delays, turn.sourceWords.length);
  setText(byId("lag-words"), lag === null ? "–" : lag.toFixed(1));
  const ms = speaker.responseMs;
  setText(byId("lag-ms"), ms === null ? "–" : Math.round(ms).toLocaleString("en"));
}

const STATES = {
  connecting: "Connecting",
  live: "Live",
  waiting: "Connection lost",
  stopped: "Ended",
};

const NOTICES = {
  waiting:
    "Connection lost. The page keeps trying; what you type is kept, and sent when the connection " +
    "is back.",
  busy: "The server answers, but does not open a session; it may be full. The page keeps trying.",
  closed:
    "This session has ended. Its text stays on this page. Download the transcript soon: the server " +
    "does not keep it for long.",
  gone:
    "The server no longer has this session: it was disconnected for too long, or it has ended. " +
    "Its text stays on this page until you begin a new one.",
  taken: "This session is now open in another window. Only one window can speak at a time.",
  "too-large":
    "The server refused a message because it was too large. Try again, with less text at a time.",
  key: "This server asks for a key.",
};

function drawState(state, detail) {
  const isBeginning = state === "stopped" && speaker.id === null && detail.why === "closed";
  document.body.dataset.state = isBeginning ? "connecting" : state;
  setText(byId("status"), STATES[isBeginning ? "connecting" : state]);
  const why = state === "stopped" && !isBeginning ? detail.why : null;
  const key = state === "waiting" ? (detail.isBusy ? "busy" : "waiting") : why;
  const text = key === null ? "" : (NOTICES[key] ?? key);
  byId("notice").hidden = text === "";
  setText(byId("notice-text"), text);
  byId("try-now").hidden = state !== "waiting";
  byId("take-over").hidden = !["taken", "too-large"].includes(why);
  byId("begin-anew").hidden = !(why === "closed" || speaker.isLost);
  byId("key-form").hidden = why !== "key";
}

function complain(message) {
  const dismiss = el("button", { type: "button", class: "quiet", "aria-label": "Dismiss" }, "×");
  const line = el("p", { class: "problem" }, message, " ", dismiss);
  dismiss.addEventListener("click", () => {
    line.remove();
    byId("text").focus();
  });
  const problems = byId("problems");
  problems.append(line);
  while (problems.childElementCount > MAX_PROBLEMS) problems.firstChild.remove();
}

function renew(model) {
  // If the server has lost the session, its untranslated text goes into the next one.
  if (!speaker.isLost) {
    PASTED.save(null);
    composer.clear();
  }
  turns.clear();
  staircase.clear();
  settings.clear();
  byId("problems").replaceChildren();
  speaker.renew(model);
  byId("text").focus();
}

async function download(format) {
  try {
    const blob = await server.transcript(speaker.id, format, byId("side").value);
    const link = el("a", { href: URL.createObjectURL(blob), download: `${speaker.id}.${format}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    complain(`The transcript could not be downloaded. ${error.message}`);
  }
}

async function copyCaptions() {
  const button = byId("copy-captions");
  const { href } = byId("captions");
  try {
    await navigator.clipboard.writeText(href);
    setText(button, "Copied");
  } catch {
    // Without TLS a browser lets no page write to its clipboard.
    window.prompt("Copy this address:", href);
  }
  setTimeout(() => setText(button, "Copy the link"), 2_000);
}

// On a narrow screen the details cover the main part, which then takes no focus.
const isWide = matchMedia("(min-width: 64.01rem)");

function togglePanel(isOpen) {
  byId("panel").hidden = !isOpen;
  byId("show-panel").setAttribute("aria-expanded", String(isOpen));
  document.querySelector("main").inert = isOpen && !isWide.matches;
  draw();
}

async function offerModels() {
  const models = await server.models().catch(() => []); // the connection says what is wrong
  const choice = byId("models");
  byId("model-field").hidden = models.length < 2;
  choice.replaceChildren(...models.map(({ id }) => el("option", { value: id }, id)));
  choice.value = speaker.model ?? models[0]?.id ?? "";
}

function listen() {
  const on = (id, what, event = "click") => byId(id).addEventListener(event, what);
  on("try-now", () => speaker.connection.hurry());
  on("take-over", () => speaker.start());
  on("begin-anew", () => renew(speaker.id === null ? null : speaker.model));
  on("renew", () => renew());
  on("end", () => speaker.close());
  on("copy-captions", copyCaptions);
  on("models", (event) => renew(event.target.value), "change");
  on("show-panel", () => togglePanel(byId("panel").hidden));
  for (const format of ["txt", "srt", "vtt", "json"]) on(`download-${format}`, () => download(format));
  on(
    "key-form",
    (event) => {
      event.preventDefault();
      server.key = byId("key").value.trim() || null;
      KEY.save(server.key);
      offerModels();
      speaker.start();
      byId("text").focus();
    },
    "submit",
  );
  window.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || byId("panel").hidden || isWide.matches) return;
    togglePanel(false);
    byId("show-panel").focus();
  });
  window.addEventListener("offline", () => speaker.connection.lose());
  window.addEventListener("online", () => speaker.connection.hurry());
  window.addEventListener("pagehide", () => {
    PASTED.save(composer.pacer.rest || null);
    speaker.save();
  });
  // A page that comes back from the browser's cache of pages has lost its socket.
  window.addEventListener("pageshow", (event) => event.persisted && speaker.connection.hurry());
}

chooseTheme(byId("theme"));
togglePanel(isWide.matches);
isWide.addEventListener("change", () => togglePanel(isWide.matches));
listen();
const { live } = speaker.stream;
composer.restore((live?.source ?? "") + speaker.outbox.unread().join(""), PASTED.load());
offerModels();
if (speaker.stream.closed === null) speaker.start();
draw();
