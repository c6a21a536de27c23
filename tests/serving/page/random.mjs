// Numbers from a seed, so that a failure can be repeated.

export function seeded(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (n) => Math.floor(next() * n);
  return { next, below, pick: (list) => list[below(list.length)] };
}

const PIECES = [
  ...["a", "word", " ", "  ", "\n", "\n\n", ".", "é", "e\u0301", "𝒳", "👩‍👩‍👧", "漢", "字", "ไท", "שלום"],
  ...["<img>", "\u200b", "\ud800", "x".repeat(300)],
];

export function randomText({ below, pick }, most = 12) {
  return Array.from({ length: below(most) }, () => pick(PIECES)).join("");
}
