// The microphone's button, and what the speaker sees while it is on.

import { byId, svg, setText } from "./dom.mjs";

const BARS = 32;
const BAR_PX = 4;
const HEIGHT_PX = 24;
const BEHIND_S = [30, 20, 10, 5]; // said in steps: a screen reader reads out every change

export class VoiceView {
  #levels = Array(BARS).fill(0);

  // toggle(): on or off. mute(isMuted).
  constructor({ toggle, mute }) {
    this.button = byId("microphone");
    this.name = byId("microphone-name");
    this.row = byId("voice");
    this.text = byId("voice-state");
    this.muteButton = byId("mute");
    this.bars = this.#levels.map((_, i) => svg("rect", { x: i * BAR_PX, width: BAR_PX - 2, rx: 1 }));
    byId("voice-level").append(...this.bars);
    this.isStill = matchMedia("(prefers-reduced-motion: reduce)");
    this.button.addEventListener("click", toggle);
    this.muteButton.addEventListener("click", () => mute(this.state !== "muted"));
  }

  draw({ state, isOffered, isOpen, isLive, behindS }) {
    this.state = state;
    const isOn = state === "listening" || state === "muted";
    this.button.hidden = !isOffered;
    this.button.disabled = !isOpen || state === "asking";
    this.button.classList.toggle("is-on", isOn);
    setText(this.name, isOn ? "Stop" : "Speak");
    this.row.hidden = state === "off";
    this.row.dataset.state = state;
    this.muteButton.hidden = !isOn;
    setText(this.muteButton, state === "muted" ? "Unmute" : "Mute");
    setText(this.text, sentence(state, isLive, behindS));
    if (state !== "listening") this.#show(Array(BARS).fill(0));
  }

  hear(level) {
    // Where motion is unwelcome the bars do not wander.
    if (this.isStill.matches) return this.#show(this.#levels.map((_, i) => (i < level * BARS ? 1 : 0)));
    this.#show([...this.#levels.slice(1), level]);
  }

  #show(levels) {
    this.#levels = levels;
    levels.forEach((level, i) => {
      const height = Math.max(2, level * HEIGHT_PX);
      this.bars[i].setAttribute("height", height);
      this.bars[i].setAttribute("y", (HEIGHT_PX - height) / 2);
    });
  }
}

function sentence(state, isLive, behindS) {
  if (state === "asking") return "The browser asks whether this page may use the microphone.";
  if (state === "muted") return "Muted";
  if (state !== "listening") return "";
  if (!isLive) return "Listening. The last 30 seconds are kept until the connection is back.";
  const step = BEHIND_S.find((seconds) => behindS >= seconds);
  if (step === undefined) return "Listening";
  return `Listening. The server is more than ${step} seconds behind in recognising speech.`;
}
