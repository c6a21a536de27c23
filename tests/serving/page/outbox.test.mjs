import assert from "node:assert/strict";
import { test } from "node:test";

import { Outbox } from "../../../mlx_simul/serving/page/outbox.mjs";
import { randomText, seeded } from "./random.mjs";

// The far end: what it took, and the words that it read.
class Taker {
  text = "";
  commits = 0;
  log = ""; // texts and, for each commit, a mark between them
  #readTo = 0;

  take(op) {
    if (op.text === undefined) {
      this.commits++;
      this.log += "⏎";
    } else {
      this.text += op.text;
      this.log += op.text;
    }
  }

  get chars() {
    return Array.from(this.text).length;
  }

  // The next words that arrived whole.
  read(n) {
    const found = [...this.text.slice(this.#readTo).matchAll(/\S+(?=\s)/gu)].slice(0, n);
    const last = found.at(-1);
    if (last) this.#readTo += last.index + last[0].length;
    return found.map(([word]) => word);
  }
}

// Give texts and commits, over connections that swallow the end of what they were given.
function play(random, outbox = new Outbox()) {
  const taker = new Taker();
  let given = "";
  let isOpen = false;
  const open = () => {
    assert.deepEqual(outbox.resume(taker.chars, taker.commits), { lost: 0, unknown: 0 });
    isOpen = true;
  };
  const pump = (most) => {
    let op;
    while (isOpen && most-- > 0 && (op = outbox.take(0)) !== null) taker.take(op);
  };
  for (let step = 0; step < 60; step++) {
    switch (random.below(7)) {
      case 0:
      case 1: {
        const text = randomText(random, 6).toWellFormed();
        outbox.append(text);
        given += text;
        break;
      }
      case 2:
        outbox.commit();
        given += "⏎";
        break;
      case 3:
        pump(random.below(4));
        break;
      case 4:
        // What is sent now is swallowed: the connection is lost, and nobody says so.
        for (let n = random.below(3); isOpen && n > 0; n--) outbox.take(0);
        isOpen = false;
        break;
      case 5:
        for (const word of taker.read(random.below(5))) outbox.read(word);
        break;
      case 6:
        if (random.below(2)) outbox = new Outbox(JSON.parse(JSON.stringify(outbox)));
        open();
        break;
    }
  }
  open();
  for (let i = 0; i < 1000 && outbox.hasUnsent; i++) {
    pump(Infinity);
    for (const word of taker.read(Infinity)) outbox.read(word);
  }
  return { given, taker, outbox };
}

test("the server gets what was given, in order: nothing twice, nothing lost", () => {
  for (let seed = 0; seed < 120; seed++) {
    const { given, taker } = play(seeded(seed));
    assert.equal(taker.log, given, `seed ${seed}`);
  }
});

test("an outbox that forgets how much the server has would be found out", () => {
  class Forgetful extends Outbox {
    resume(sourceChars, commits) {
      const result = super.resume(sourceChars, commits);
      this.next = Math.max(this.next - 1, 0); // sends the last operation again
      return result;
    }
  }
  const outcomes = Array.from({ length: 20 }, (_, seed) => play(seeded(seed), new Forgetful()));
  assert.ok(outcomes.some(({ given, taker }) => taker.log !== given));
});

test("a connection may break inside an operation", () => {
  const outbox = new Outbox();
  outbox.append("one 𝒳wo three");
  outbox.resume(0, 0);
  outbox.take(0);
  outbox.resume(5, 0); // "one 𝒳"
  assert.equal(outbox.take(0).text, "wo three");
  assert.equal(outbox.take(0), null);
});

test("what was read is no longer unread, whatever words look like", () => {
  const outbox = new Outbox();
  outbox.resume(0, 0);
  outbox.append("The the theatre\u200b is\topen ");
  outbox.take(0);
  for (const word of ["The", " the", " theatre"]) outbox.read(word);
  assert.deepEqual(outbox.unread(), ["\u200b is\topen ", ""]);
  outbox.read(" other"); // a word that the server changed: one word is skipped
  outbox.append("more");
  assert.deepEqual(outbox.unread().map((text) => text.trim()), ["is\topen", "more"]);
});

test("the time of sending comes back with the word", () => {
  const outbox = new Outbox();
  outbox.resume(0, 0);
  for (const [ms, text] of [[10, "one "], [20, "two "], [30, "three "]]) {
    outbox.append(text);
    outbox.take(ms);
  }
  assert.equal(outbox.read("one"), 10);
  assert.equal(outbox.nextSentMs(), 20);
  assert.equal(outbox.read(" two"), 20);
  assert.equal(outbox.read(" three"), 30);
  assert.equal(outbox.nextSentMs(), null);
  outbox.commit();
  outbox.take(40);
  assert.equal(outbox.nextSentMs(), 40);
});

test("no more is under way than a window, unless only half a word is", () => {
  const outbox = new Outbox();
  outbox.resume(0, 0);
  outbox.append("word ".repeat(2_000));
  let chars = 0;
  for (let op; (op = outbox.take(0)) !== null; ) chars += op.chars;
  assert.ok(chars > 3_000 && chars < 4_500, String(chars));
  assert.ok(outbox.hasUnsent);
  for (let i = 0; i < 500; i++) outbox.read(" word");
  assert.notEqual(outbox.take(0), null);

  const long = new Outbox();
  long.resume(0, 0);
  long.append("x".repeat(20_000));
  while (long.take(0) !== null);
  assert.equal(long.hasUnsent, false);
});

test("memory does not grow with the stream", () => {
  const outbox = new Outbox();
  outbox.resume(0, 0);
  for (let i = 0; i < 20_000; i++) {
    outbox.append("word ");
    outbox.take(0);
    outbox.read(" word");
  }
  assert.ok(outbox.ops.length < 2_000, String(outbox.ops.length));
});

test("a server that knows less than it once read is told of", () => {
  const outbox = new Outbox();
  outbox.resume(0, 0);
  for (let i = 0; i < 5_000; i++) {
    outbox.append("word ");
    outbox.take(0);
    outbox.read(" word");
  }
  const first = outbox.ops[0].at;
  assert.ok(first > 100);
  assert.deepEqual(outbox.resume(100, 0), { lost: first - 100, unknown: 0 });
  const text = Array.from({ length: 3 }, () => outbox.take(0).text).join("");
  assert.equal(text, "word word word ");
});

test("a server that knows more is believed", () => {
  const outbox = new Outbox();
  outbox.append("one ");
  assert.deepEqual(outbox.resume(10, 1), { lost: 0, unknown: 6 });
  outbox.append("two ");
  assert.equal(outbox.take(0).text, "two ");
  assert.equal(outbox.end, 14);
  outbox.commit();
  assert.equal(outbox.take(0).commit, 2);
});
