// Words of a text: what may be sent already, and pieces at the pace of speech. Knows no DOM.

// Scripts without spaces, in which every character may be a word (SPEC section 2).
const SPACELESS = new RegExp(
  "[\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}\\p{Script=Thai}\\p{Script=Lao}" +
    "\\p{Script=Khmer}\\p{Script=Myanmar}]",
  "u",
);
const PIECE = new RegExp(`\\s*(?:${SPACELESS.source}|(?:(?!${SPACELESS.source})\\S)+)\\s*`, "gu");
// A mark that ends a sentence, and quotes or brackets that may follow it.
const SENTENCE_END = /[.!?…。！？।؟][\p{Pe}\p{Pf}"']*$/u;
const MAX_PIECE_CHARS = 200;

// Text is counted in code points, as the server counts it; JavaScript counts UTF-16 units.
export function codePoints(text) {
  let pairs = 0;
  for (let i = 0; i < text.length; i++) {
    if (isHigh(text, i) && isLow(text, i + 1)) {
      pairs++;
      i++;
    }
  }
  return text.length - pairs;
}

// The index, in UTF-16 units, after the first n code points.
export function indexAfter(text, n) {
  let at = 0;
  for (; n > 0 && at < text.length; n--) {
    at += isHigh(text, at) && isLow(text, at + 1) ? 2 : 1;
  }
  return at;
}

const isHigh = (text, i) => (text.charCodeAt(i) & 0xfc00) === 0xd800;
const isLow = (text, i) => (text.charCodeAt(i) & 0xfc00) === 0xdc00;

// Half a surrogate pair cannot travel as UTF-8.
export function wellFormed(text) {
  return text.replace(/\p{Surrogate}/gu, "\ufffd");
}

// How much of the typed text can be sent: whole words, and more after a pause. A word may be
// corrected until the space after it is typed.
//
// Returns [text to send, text that stays]. After a pause, the end of a sentence is sent with the
// space that shows it is whole, and so is text in a script without spaces.
export function sendable(typed, hasPaused) {
  const last = typed.search(/\s\S*$/u);
  const end = last < 0 ? 0 : last + 1;
  const rest = typed.slice(end);
  if (hasPaused && rest) {
    if (SENTENCE_END.test(rest)) return [`${typed} `, ""];
    if (SPACELESS.test(rest)) return [typed, ""];
  }
  return [typed.slice(0, end), rest];
}

// The pieces of a text, a word each with the space around it; together they are the text.
export function pieces(text) {
  const found = text.match(PIECE) ?? (text ? [text] : []);
  return found.flatMap((piece) => {
    const parts = [];
    for (let rest = piece; rest; ) {
      const at = indexAfter(rest, MAX_PIECE_CHARS);
      parts.push(rest.slice(0, at));
      rest = rest.slice(at);
    }
    return parts;
  });
}

// How long a speaker takes for a piece: a character of a script without spaces is 2/3 of a word
// if it is Han, a quarter otherwise, as mlx_simul/text/speech.py counts.
export function spokenMs(piece, wordsPerMinute) {
  const words = /\p{Script=Han}/u.test(piece) ? 2 / 3 : SPACELESS.test(piece) ? 1 / 4 : 1;
  return (words * 60_000) / wordsPerMinute;
}

// The words of a finished text if there are as many as the server counted, else their numbers.
export function wordsOf(text, count) {
  const spaced = text.split(/\s+/u).filter(Boolean);
  if (spaced.length === count) return spaced;
  const cut = pieces(text).map((piece) => piece.trim());
  if (cut.length === count) return cut;
  return Array.from({ length: count }, (_, i) => String(i + 1));
}

const RIGHT_TO_LEFT =
  /[\p{Script=Arabic}\p{Script=Hebrew}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}\p{Script=Adlam}]/u;

// The direction of a text, by its first letter.
export function direction(text) {
  const letter = /\p{L}/u.exec(text);
  return letter !== null && RIGHT_TO_LEFT.test(letter[0]) ? "rtl" : "ltr";
}
