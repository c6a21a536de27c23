import assert from "node:assert/strict";
import { test } from "node:test";

import { Voice } from "../../../mlx_simul/serving/page/voice.mjs";
import { seeded } from "./random.mjs";

const PER_MS = 24;
const second = (value = 0) => new Int16Array(24_000).fill(value);

// Samples that tell where they stand.
const samplesOf = ({ audio }) => {
  const bytes = Buffer.from(audio, "base64");
  return Array.from({ length: bytes.length / 2 }, (_, i) => bytes.readInt16LE(2 * i));
};
const sent = (voice) => {
  const messages = [];
  let message;
  while ((message = voice.take()) !== null) messages.push(message);
  return messages;
};

test("speech is sent in order, and its end once", () => {
  const voice = new Voice();
  voice.finish(); // nothing was said
  voice.add(Int16Array.from([1, 2]), 10);
  voice.add(new Int16Array(0), 11);
  voice.add(Int16Array.from([3]), 12);
  voice.finish();
  voice.finish();
  const messages = sent(voice);
  assert.deepEqual(
    messages.map(({ type }) => type.split(".").at(-1)),
    ["append", "append", "commit"],
  );
  assert.deepEqual(messages.slice(0, 2).flatMap(samplesOf), [1, 2, 3]);
  assert.equal(voice.take(), null);
});

test("over any cuts the server gets all speech once", () => {
  for (let seed = 0; seed < 200; seed++) {
    const random = seeded(seed);
    const voice = new Voice();
    const server = [];
    let value = 0;
    for (let step = 0; step < 60; step++) {
      if (random.below(3)) {
        const pcm = Int16Array.from({ length: PER_MS * (1 + random.below(40)) }, () => value++ % 30_000);
        voice.add(pcm, step);
      } else if (random.below(2)) {
        const n = random.below(3);
        for (let i = 0; i < n; i++) {
          const message = voice.take();
          if (message?.audio) server.push(...samplesOf(message));
        }
      } else {
        // The last messages were lost, and perhaps what a killed server had not recognised.
        server.length -= PER_MS * random.below(Math.floor(server.length / PER_MS) + 1);
        assert.equal(voice.resume(server.length / PER_MS), 0, `seed ${seed}`);
      }
    }
    for (const message of sent(voice)) if (message.audio) server.push(...samplesOf(message));
    assert.deepEqual(server, Array.from({ length: value }, (_, i) => i % 30_000), `seed ${seed}`);
  }
});

test("a server that does not keep up is sent no more than it takes", () => {
  const voice = new Voice();
  for (let i = 0; i < 25; i++) voice.add(second(), i);
  assert.equal(sent(voice).length, 21);
  assert.equal(voice.behindS, 25);
  voice.listened(2_000);
  assert.equal(sent(voice).length, 2);
  assert.equal(voice.behindS, 23);
});

test("what can no longer be kept is said to be lost", () => {
  const voice = new Voice();
  for (let i = 0; i < 35; i++) voice.add(second(i), i);
  assert.equal(voice.takeLostS(), 5);
  assert.equal(voice.takeLostS(), 0);
  assert.equal(samplesOf(voice.take())[0], 5); // the oldest were given up
  assert.equal(voice.end, 30 * 24_000);
});

test("a killed server that lost more than is kept is said so", () => {
  const voice = new Voice();
  for (let i = 0; i < 40; i++) {
    voice.add(second(i), i);
    voice.listened(1_000 * i);
    sent(voice);
  }
  assert.equal(voice.resume(4_000), 6);
  assert.equal(samplesOf(voice.take())[0], 10);
  assert.equal(voice.sentMs, 5_000); // the server counts on from what it has
});

test("speech behind that of another page comes behind it", () => {
  const voice = new Voice();
  voice.add(second(7), 1);
  assert.equal(voice.resume(60_000), 0);
  assert.equal(voice.behindS, 1);
  assert.equal(samplesOf(voice.take())[0], 7);
  assert.equal(voice.sentMs, 61_000);
});

test("words are read in their order, and it is known when each was said", () => {
  const voice = new Voice();
  voice.add(second(), 5_000);
  voice.add(second(), 6_000);
  const words = [["Good", 400], ["day", 1_500], ["…", 1_600], ["late", 99_000]];
  voice.recognised({
    words: words.map(([text, end_ms]) => ({ text: ` ${text}`, end_ms })),
    audio_ms: 1_600,
  });
  assert.equal(voice.unread, "Good day … late");
  assert.equal(voice.read("typed"), null);
  assert.equal(voice.read("Good").saidMs, 4_400);
  assert.equal(voice.read(" day").saidMs, 5_500);
  assert.equal(voice.read("late").saidMs, null); // the server dropped the one before
  assert.equal(voice.unread, "");
  assert.equal(Math.round(voice.behindS * 1_000), 400);
});
