import assert from "node:assert/strict";
import { test } from "node:test";

import { averageLagging, median, Response } from "../../../mlx_simul/serving/page/lag.mjs";

test("wait-k lags k words behind, however long the target is", () => {
  for (const k of [1, 3, 5]) {
    const delays = Array.from({ length: 10 }, (_, i) => Math.min(k + i, 10));
    assert.ok(Math.abs(averageLagging(delays, 10) - k) < 1e-9);
    assert.ok(averageLagging([...delays, 10, 10, 10], 10) >= k);
  }
  assert.equal(averageLagging([], 4), null);
});

test("a median is in the middle", () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 2, 3]), 2.5);
  assert.equal(median([]), null);
});

test("a response is from sending a word to seeing what it allowed", () => {
  const response = new Response();
  response.read(1, 100, 105);
  assert.equal(response.wrote(1, null, 130), 30);
  // The next word was sent before this one was read, by a busy server: it allowed nothing.
  response.read(2, 200, 290);
  assert.equal(response.wrote(2, 250, 300), 100);
  // A pause; the commit behind it allowed the rest.
  response.read(3, 400, 405);
  assert.equal(response.wrote(3, 9_000, 9_020), 20);
  assert.equal(response.endTurn(), 30);
  assert.equal(response.endTurn(), null);
});

test("a word that was sent before the page was loaded has no time", () => {
  const response = new Response();
  response.read(1, null, 5);
  assert.equal(response.wrote(1, null, 10), null);
  assert.equal(response.wrote(7, null, 10), null);
});
