import assert from "node:assert/strict";
import { test } from "node:test";

import { Pacer } from "../../../mlx_simul/serving/page/pacer.mjs";
import { Clock } from "./fakes.mjs";

const TEXT = "one two three four five six seven eight nine ten";

function pacing() {
  const clock = new Clock();
  const seen = { said: "", done: 0, isLive: true };
  const pacer = new Pacer({
    say: (text) => (seen.said += text),
    done: () => seen.done++,
    canSay: () => seen.isLive,
    onChange: () => {},
    clock,
  });
  return { clock, pacer, seen };
}

test("a text is said at the pace of speech, then it is done", async () => {
  const { clock, pacer, seen } = pacing();
  pacer.start(TEXT, 150); // a word each 400 ms
  await clock.pass(1_000);
  assert.equal(seen.said, "one two three ");
  assert.deepEqual(pacer.progress, { said: 3, of: 10 });
  assert.equal(pacer.rest, "four five six seven eight nine ten");
  await clock.pass(10_000);
  assert.deepEqual([seen.said, seen.done, pacer.isBusy], [TEXT, 1, false]);
});

test("the rest may be said at once, or not at all", async () => {
  for (const [end, said, done] of [["rush", TEXT, 1], ["stop", "one two ", 0]]) {
    const { clock, pacer, seen } = pacing();
    pacer.start(TEXT, 150);
    await clock.pass(500);
    pacer[end]();
    await clock.pass(10_000);
    assert.deepEqual([seen.said, seen.done, pacer.isBusy], [said, done, false]);
  }
});

test("without a pace it is said whole", () => {
  const { pacer, seen } = pacing();
  pacer.start(TEXT, null);
  assert.deepEqual([seen.said, seen.done], [TEXT, 1]);
});

test("while the connection is lost it waits, and makes nothing up in a burst", async () => {
  const { clock, pacer, seen } = pacing();
  pacer.start(TEXT, 150);
  await clock.pass(500);
  seen.isLive = false;
  await clock.pass(60_000);
  assert.equal(seen.said, "one two ");
  seen.isLive = true;
  await clock.pass(500);
  assert.ok(["one two three ", "one two three four "].includes(seen.said), seen.said);
});

test("timers that a hidden page gets late do not slow the pace", async () => {
  const { clock, pacer, seen } = pacing();
  const { setInterval } = clock;
  clock.setInterval = (f) => setInterval(f, 1_000);
  pacer.start(TEXT, 150);
  await clock.pass(2_000);
  assert.equal(seen.said, "one two three four five six ");
});
