import assert from "node:assert/strict";
import { test } from "node:test";

import { base64, levelOf, pcm16, RATE_HZ, Resampler } from "../../../mlx_simul/serving/page/pcm.mjs";
import { seeded } from "./random.mjs";

const tone = (pitch, rate, seconds, volume = 0.5) =>
  Float32Array.from({ length: Math.round(rate * seconds) }, (_, i) =>
    volume * Math.sin((2 * Math.PI * pitch * i) / rate),
  );
const loudness = (samples) => Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length);
const inside = (samples) => samples.slice(1_000, -1_000);

for (const rate of [8_000, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000]) {
  test(`what a voice has passes from ${rate} Hz as it was`, () => {
    for (const pitch of [100, 1_000, 3_000]) {
      const found = new Resampler(rate).push(tone(pitch, rate, 1));
      const wanted = tone(pitch, RATE_HZ, 1);
      assert.ok(Math.abs(found.length - wanted.length) <= (100 * RATE_HZ) / rate);
      const worst = inside(found).reduce((m, x, i) => Math.max(m, Math.abs(x - wanted[1_000 + i])), 0);
      assert.ok(worst < 0.005, `${pitch} Hz differs by ${worst}`);
    }
  });
}

test("what the new rate cannot hold does not come back as another tone", () => {
  for (const rate of [44_100, 48_000]) {
    const found = new Resampler(rate).push(tone(14_000, rate, 1));
    assert.ok(loudness(inside(found)) < 0.5 * 10 ** (-50 / 20));
  }
});

test("leaving out every second sample would be heard", () => {
  const worse = tone(14_000, 48_000, 1).filter((_, i) => i % 2 === 0);
  assert.ok(loudness(inside(worse)) > 0.3);
});

test("the same samples in any blocks give the same", () => {
  const random = seeded(7);
  for (const rate of [16_000, 44_100, 48_000]) {
    const samples = tone(440, rate, 0.3);
    const whole = [...new Resampler(rate).push(samples)];
    const resampler = new Resampler(rate);
    const found = [];
    for (let at = 0; at < samples.length; ) {
      const size = random.below(900);
      found.push(...resampler.push(samples.subarray(at, at + size)));
      at += size;
    }
    assert.deepEqual(found, whole);
  }
});

test("samples become 16-bit integers, the lower byte first, and none wraps round", () => {
  const pcm = pcm16(Float32Array.from([0, 0.5, -0.5, 1, -1, 2, -2]));
  assert.deepEqual([...pcm], [0, 16_384, -16_384, 32_767, -32_768, 32_767, -32_768]);
  assert.deepEqual([...Buffer.from(base64(pcm.subarray(1, 4)), "base64")], [0, 0x40, 0, 0xc0, 0xff, 0x7f]);
});

test("a level is between silence and the loudest", () => {
  assert.equal(levelOf(new Float32Array(9)), 0);
  assert.equal(levelOf(new Float32Array(0)), 0);
  assert.equal(levelOf(Float32Array.from([1, -1])), 1);
  assert.ok(Math.abs(levelOf(Float32Array.from([0.1, -0.1])) - 2 / 3) < 1e-6); // -20 dB of -60
});
