// Runs on the browser's audio thread: hands the microphone's samples over in blocks, as they come.

const BLOCK_S = 0.1;

class Capture extends AudioWorkletProcessor {
  #block = new Float32Array(Math.round(sampleRate * BLOCK_S));
  #filled = 0;

  process([channels]) {
    // An input that has just ended has no channels; of several the first one is enough.
    for (const sample of channels[0] ?? []) {
      this.#block[this.#filled++] = sample;
      if (this.#filled === this.#block.length) this.#hand();
    }
    return true;
  }

  #hand() {
    this.port.postMessage(this.#block.slice());
    this.#filled = 0;
  }
}

registerProcessor("capture", Capture);
