import assert from "node:assert/strict";
import { test } from "node:test";

import * as words from "../../../mlx_simul/serving/page/words.mjs";
import { randomText, seeded } from "./random.mjs";

const TEXTS = Array.from({ length: 500 }, (_, seed) => randomText(seeded(seed)));

test("code points are counted, and cut, as Array.from does", () => {
  for (const text of TEXTS) {
    const chars = Array.from(text);
    assert.equal(words.codePoints(text), chars.length);
    for (const n of [0, 1, 3, chars.length, chars.length + 1]) {
      assert.equal(text.slice(0, words.indexAfter(text, n)), chars.slice(0, n).join(""));
    }
  }
  assert.ok(TEXTS.some((text) => text.length !== words.codePoints(text)));
});

test("well-formed text has no half of a surrogate pair", () => {
  for (const text of TEXTS) assert.ok(words.wellFormed(text).isWellFormed());
  assert.ok(TEXTS.some((text) => !text.isWellFormed()));
});

test("pieces are the text, and each has at most one word", () => {
  for (const text of TEXTS) {
    const pieces = words.pieces(text);
    assert.equal(pieces.join(""), text);
    for (const piece of pieces) {
      assert.ok(piece.trim().split(/\s+/u).length === 1, JSON.stringify(piece));
      assert.ok(words.codePoints(piece) <= 200);
    }
  }
});

test("what is typed is sent or stays, and nothing is added but a space after a pause", () => {
  for (const text of TEXTS) {
    const [whole, rest] = words.sendable(text, false);
    assert.equal(whole + rest, text);
    assert.doesNotMatch(rest, /\s/u);
    const [more, less] = words.sendable(text, true);
    assert.ok([text, `${text} `].includes(more + less));
    assert.ok(more.length >= whole.length);
  }
});

test("half a word waits, also after a pause", () => {
  assert.deepEqual(words.sendable("Good mor", false), ["Good ", "mor"]);
  assert.deepEqual(words.sendable("Good mor", true), ["Good ", "mor"]);
});

test("after a pause, the end of a sentence is whole", () => {
  for (const end of ["leaves.", "leaves?”", "(leaves.)", "走了。", "رحل؟"]) {
    assert.deepEqual(words.sendable(`He ${end}`, false), ["He ", end]);
    assert.deepEqual(words.sendable(`He ${end}`, true), [`He ${end} `, ""]);
  }
});

test("a script without spaces is sent after a pause", () => {
  assert.deepEqual(words.sendable("今日は", false), ["", "今日は"]);
  assert.deepEqual(words.sendable("今日は", true), ["今日は", ""]);
});

test("the words of a finished text are as many as were counted", () => {
  assert.deepEqual(words.wordsOf("two words", 2), ["two", "words"]);
  assert.deepEqual(words.wordsOf("今日 は", 3), ["今", "日", "は"]);
  assert.deepEqual(words.wordsOf("3.5 kilos", 3), ["1", "2", "3"]); // cut in a way not known here
});

test("the first letter says the direction", () => {
  assert.equal(words.direction("123, שלום world"), "rtl");
  assert.equal(words.direction("123, world שלום"), "ltr");
  assert.equal(words.direction(""), "ltr");
});
