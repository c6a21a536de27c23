import assert from "node:assert/strict";
import { test } from "node:test";

import { Microphone } from "../../../mlx_simul/serving/page/microphone.mjs";
import { settled } from "./fakes.mjs";

// A browser whose steps to a microphone end when the test says so.
function browser() {
  const steps = {};
  const step = (name) => () => new Promise((resolve, reject) => (steps[name] = { resolve, reject }));
  const contexts = [];
  globalThis.AudioContext = class {
    sampleRate = 48_000;
    isClosed = false;
    audioWorklet = { addModule: step("module") };
    resume = step("resume");
    constructor() {
      contexts.push(this);
    }
    createMediaStreamSource = () => ({ connect() {} });
    close() {
      this.isClosed = true;
    }
  };
  globalThis.AudioWorkletNode = class {
    port = {};
  };
  const mediaDevices = { getUserMedia: step("permission") };
  Object.defineProperty(globalThis, "navigator", { value: { mediaDevices }, configurable: true });
  return { steps, contexts };
}

function capture() {
  const track = {
    isOn: true,
    stop() {
      this.isOn = false;
    },
  };
  return { track, getTracks: () => [track] };
}

function made() {
  const heard = { problems: [], pauses: 0 };
  const microphone = new Microphone({
    onSamples: () => {},
    onState: () => {},
    onPause: () => heard.pauses++,
    onProblem: (message) => heard.problems.push(message),
  });
  return { microphone, heard };
}

// Up to a step; the ones before it have ended.
async function upTo(last, steps, stream) {
  for (const name of ["permission", "module", "resume"]) {
    await settled();
    if (name === last) return;
    steps[name].resolve(name === "permission" ? stream : undefined);
  }
  await settled();
}

test("a microphone that is allowed listens until it is stopped", async () => {
  const { steps, contexts } = browser();
  const { microphone, heard } = made();
  const stream = capture();
  microphone.start();
  await upTo(null, steps, stream);
  assert.equal(microphone.state, "listening");
  assert.ok(stream.track.isOn && !contexts[0].isClosed);
  microphone.stop();
  assert.deepEqual([stream.track.isOn, contexts[0].isClosed, heard.pauses], [false, true, 1]);
});

for (const last of ["permission", "module", "resume"]) {
  for (const how of ["resolve", "reject"]) {
    test(`stopped before ${last} ends (${how}), it is off and lets the device go`, async () => {
      const { steps, contexts } = browser();
      const { microphone, heard } = made();
      const stream = capture();
      const begun = microphone.start();
      await upTo(last, steps, stream);
      microphone.stop();
      steps[last][how](how === "reject" ? new Error("gone") : last === "permission" ? stream : undefined);
      await begun;
      assert.equal(microphone.state, "off");
      const wasGiven = last !== "permission" || how === "resolve";
      if (wasGiven) assert.ok(!stream.track.isOn);
      assert.ok(contexts.every(({ isClosed }) => isClosed));
      assert.deepEqual([heard.problems, heard.pauses], [[], 0]);
    });
  }
}

test("a refusal is said", async () => {
  const { steps } = browser();
  const { microphone, heard } = made();
  const begun = microphone.start();
  await settled();
  steps.permission.reject(new DOMException("", "NotAllowedError"));
  await begun;
  assert.equal(microphone.state, "off");
  assert.match(heard.problems[0], /does not let this page use the microphone/);
});
