// How far the target lags behind the source, in words and in milliseconds. Knows no DOM.

// Length-adaptive average lagging (Papi et al. 2022), with the longer of source and target in
// place of a reference: the mean of d_i - (i - 1)·|X| / max(|X|, |Y|) up to the first word that
// was written after the whole source.
export function averageLagging(delays, sourceWords) {
  if (!delays.length || !sourceWords) return null;
  const pace = sourceWords / Math.max(sourceWords, delays.length);
  let sum = 0;
  let n = 0;
  for (const [i, delay] of delays.entries()) {
    sum += delay - i * pace;
    n++;
    if (delay >= sourceWords) break;
  }
  return sum / n;
}

export function median(numbers) {
  if (!numbers.length) return null;
  const sorted = [...numbers].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

const KEPT_WORDS = 1_000;

// Milliseconds from sending a source word to seeing what it allowed to be written, on one clock:
// the page's. The network counts, and so does waiting for a busy model.
export class Response {
  #words = new Map(); // source words read -> {sentMs, readMs}
  #ofTurn = [];

  read(sourceWords, sentMs, nowMs) {
    this.#words.set(sourceWords, { sentMs, readMs: nowMs });
    if (this.#words.size > KEPT_WORDS) this.#words.delete(this.#words.keys().next().value);
  }

  // Target text came that had seen this many source words. `nextSentMs` is when something was sent
  // after them: if that was after they were read, then it, not they, allowed the text (the end of
  // a turn, which only the next word or a commit shows).
  wrote(sourceWords, nextSentMs, nowMs) {
    const word = this.#words.get(sourceWords);
    if (word === undefined || word.sentMs === null) return null;
    const from = nextSentMs !== null && nextSentMs > word.readMs ? nextSentMs : word.sentMs;
    const ms = Math.max(nowMs - from, 0);
    this.#ofTurn.push(ms);
    return ms;
  }

  // The median of the turn that has ended.
  endTurn() {
    const ms = median(this.#ofTurn);
    this.#ofTurn = [];
    return ms;
  }
}
