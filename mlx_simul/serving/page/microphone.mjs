// The microphone: asking the browser for it, and its samples at the rate of the server.

import { levelOf, pcm16, Resampler } from "./pcm.mjs";

const WORKLET = new URL("capture.mjs", import.meta.url);
// Nothing is played here, so there is no echo to cancel.
const WANTED = { channelCount: 1, echoCancellation: false, noiseSuppression: true, autoGainControl: true };

// States: "off"; "asking", for the user's permission; "listening"; "muted".
export class Microphone {
  #stream = null;
  #context = null;
  #attempt = 0; // counts up when one begins, and when it is stopped

  // onSamples(pcm, level): what was said, 16-bit samples; not while muted.
  // onState(): the state has changed. onPause(): no more comes for now.
  // onProblem(message): there is no microphone, or it has gone.
  constructor({ onSamples, onState, onPause, onProblem }) {
    Object.assign(this, { onSamples, onState, onPause, onProblem });
    this.state = "off";
  }

  async start() {
    if (this.state !== "off") return;
    const attempt = ++this.#attempt;
    this.#enter("asking");
    try {
      await this.#open(attempt);
    } catch (error) {
      if (this.#attempt !== attempt) return; // stopped meanwhile
      this.#close();
      this.#enter("off");
      this.onProblem(problemOf(error));
    }
  }

  mute(isMuted) {
    if (this.state !== (isMuted ? "listening" : "muted")) return;
    for (const track of this.#stream.getTracks()) track.enabled = !isMuted;
    this.#enter(isMuted ? "muted" : "listening");
    if (isMuted) this.onPause();
  }

  stop() {
    if (this.state === "off") return;
    const wasListening = this.state === "listening";
    this.#close();
    this.#enter("off");
    if (wasListening) this.onPause();
  }

  async #open(attempt) {
    // Only over TLS, or from this machine, does a browser offer one at all.
    if (!navigator.mediaDevices) throw new DOMException("", "SecurityError");
    const stream = await navigator.mediaDevices.getUserMedia({ audio: WANTED });
    if (this.#attempt !== attempt) {
      // Stopped meanwhile: nobody else would let go of it.
      for (const track of stream.getTracks()) track.stop();
      return;
    }
    this.#stream = stream;
    const context = new AudioContext();
    this.#context = context;
    await context.audioWorklet.addModule(WORKLET);
    if (this.#attempt !== attempt) return;
    const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
    const resampler = new Resampler(context.sampleRate);
    capture.port.onmessage = ({ data }) => {
      if (this.state !== "listening" || this.#attempt !== attempt) return;
      const samples = resampler.push(data);
      this.onSamples(pcm16(samples), levelOf(samples));
    };
    context.createMediaStreamSource(stream).connect(capture);
    const [track] = stream.getTracks();
    track.onended = () => {
      if (this.#stream !== stream) return;
      this.stop();
      this.onProblem("The microphone has gone. Connect it again, then press Speak.");
    };
    await context.resume();
    if (this.#attempt !== attempt) return;
    this.#enter("listening");
  }

  #close() {
    this.#attempt++;
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#context?.close();
    this.#stream = null;
    this.#context = null;
  }

  #enter(state) {
    this.state = state;
    this.onState();
  }
}

const PROBLEMS = {
  NotAllowedError:
    "The browser does not let this page use the microphone. Allow it in the browser's settings for " +
    "this page, then press Speak again.",
  NotFoundError: "This device has no microphone. Connect one, then press Speak again.",
  NotReadableError: "The microphone cannot be used now; another program may be using it.",
  SecurityError:
    "The browser gives the microphone only to pages over HTTPS, or from this machine. Open this page " +
    "that way, or type.",
};

const problemOf = (error) =>
  PROBLEMS[error.name] ?? `The microphone could not be opened: ${error.message || error.name}.`;
