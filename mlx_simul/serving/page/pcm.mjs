// Samples as the server takes them: 24 kHz, 16 bits, base64. Knows no DOM.

export const RATE_HZ = 24_000;

const ZEROS = 16; // of the filter on each side: three quarters of what a rate can hold pass as they are
const PASSED = 0.92;

// From one rate to another, by a windowed sinc in as many phases as the two rates need. The same
// samples in any blocks give the same output.
export class Resampler {
  #rest = new Float32Array(0);
  #at = 0; // in #rest: the newest sample at or before the next output
  #phase = 0; // of the next output after it, in parts of `up`

  constructor(from, to = RATE_HZ) {
    const common = gcd(from, to);
    this.up = to / common;
    this.down = from / common;
    const cutoff = PASSED * Math.min(1, to / from);
    this.half = Math.ceil(ZEROS / cutoff);
    this.filters = Array.from({ length: this.up }, (_, phase) => this.#filter(phase, cutoff));
    this.#rest = new Float32Array(this.half); // silence before the beginning
    this.#at = this.half;
  }

  push(samples) {
    const { up, down, half } = this;
    const all = new Float32Array(this.#rest.length + samples.length);
    all.set(this.#rest);
    all.set(samples, this.#rest.length);
    const out = [];
    let at = this.#at;
    while (at + half < all.length) {
      const filter = this.filters[this.#phase];
      let sum = 0;
      for (let i = 0; i < filter.length; i++) sum += filter[i] * all[at - half + 1 + i];
      out.push(sum);
      this.#phase += down;
      at += Math.floor(this.#phase / up);
      this.#phase %= up;
    }
    const first = Math.max(0, Math.min(at - half + 1, all.length));
    this.#rest = all.slice(first);
    this.#at = at - first;
    return Float32Array.from(out);
  }

  #filter(phase, cutoff) {
    const taps = Array.from({ length: 2 * this.half }, (_, i) => {
      const x = i - this.half + 1 - phase / this.up;
      return sinc(cutoff * x) * window(x / this.half);
    });
    const sum = taps.reduce((a, b) => a + b, 0);
    return Float64Array.from(taps, (tap) => tap / sum);
  }
}

const gcd = (a, b) => (b === 0 ? a : gcd(b, a % b));
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
// Blackman's.
const window = (x) =>
  Math.abs(x) >= 1 ? 0 : 0.42 + 0.5 * Math.cos(Math.PI * x) + 0.08 * Math.cos(2 * Math.PI * x);

export function pcm16(samples) {
  return Int16Array.from(samples, (x) => Math.round(Math.max(-1, Math.min(x, 32767 / 32768)) * 32768));
}

// The lower byte of each sample first, on any machine.
export function base64(pcm) {
  const bytes = new DataView(new ArrayBuffer(2 * pcm.length));
  pcm.forEach((sample, i) => bytes.setInt16(2 * i, sample, true));
  return btoa(String.fromCharCode(...new Uint8Array(bytes.buffer)));
}

// How loud samples are, from 0 (-60 dB, or less) to 1 (as loud as they can be).
export function levelOf(samples) {
  if (samples.length === 0) return 0;
  const power = samples.reduce((sum, x) => sum + x * x, 0) / samples.length;
  return Math.max(0, Math.min(1, 1 + Math.log10(power) / 6));
}
