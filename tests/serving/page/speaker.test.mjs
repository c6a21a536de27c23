import assert from "node:assert/strict";
import { test } from "node:test";

import { Speaker } from "../../../mlx_simul/serving/page/speaker.mjs";
import { Clock, FakeServer, settled, Storage } from "./fakes.mjs";
import { seeded } from "./random.mjs";

// A page: a speaker over a server that may be lost, and a storage that outlives it.
function open(server = new FakeServer(), clock = new Clock(), storage = new Storage()) {
  const page = { server, clock, storage, problems: [], turns: [], updated: [] };
  page.speaker = new Speaker({
    server,
    storage,
    clock,
    onChange: () => {},
    onTurn: (turn) => page.turns.push(turn),
    onUpdated: (names) => page.updated.push(...names),
    onProblem: (problem) => page.problems.push(problem),
  });
  page.speaker.start();
  return page;
}

async function live(...args) {
  const page = open(...args);
  await page.clock.pass(50);
  assert.equal(page.speaker.state, "live");
  return page;
}

// Another load of the page: the old one is heard no more.
function reload({ server, speaker, storage }) {
  speaker.save();
  speaker.connection.stop();
  return open(server, new Clock(), storage);
}

const shownTarget = ({ speaker: { stream } }) =>
  [...stream.turns.map(({ target }) => target), stream.live?.target.trim()].filter(Boolean).join(" ");

test("what is typed is read, written, and shown by turns", async () => {
  const page = await live();
  page.speaker.type("good ");
  page.speaker.type("morning");
  page.speaker.endTurn();
  page.speaker.type("how are ");
  await page.clock.pass(50);
  assert.equal(page.server.stream.text, "good morninghow are ");
  assert.deepEqual(page.turns.map(({ target }) => target), ["GOOD MORNING"]);
  assert.deepEqual(page.turns[0].lagWords, 1);
  assert.equal(page.speaker.stream.live.target, " HOW ARE");
  assert.deepEqual(page.speaker.outbox.unread(), [" ", ""]);
  assert.deepEqual(page.problems, []);
});

test("over any cuts and reloads nothing is lost and nothing comes twice", async () => {
  let resumed = 0;
  for (let seed = 0; seed < 120; seed++) {
    const random = seeded(seed);
    let page = open();
    let given = "";
    for (let step = 0; step < 40; step++) {
      switch (random.below(8)) {
        case 0:
        case 1:
        case 2: {
          const begins = random.pick(["a", "longer", "wörd", "𝒳", "end."]);
          const word = `${begins}${step}${random.pick([" ", ""])}`;
          page.speaker.type(word);
          given += word;
          break;
        }
        case 3:
          page.speaker.endTurn();
          given += " "; // the fake server ends the word
          page.speaker.type(" ");
          break;
        case 4:
          await page.clock.pass(random.below(2_000));
          break;
        case 5: {
          // A few more messages arrive, and then none.
          const socket = page.server.sockets.at(-1);
          socket[random.pick(["losesIn", "losesOut"])] = random.below(4);
          break;
        }
        case 6:
          if (random.below(2)) page.server.drop();
          else page.server.isUp = !page.server.isUp;
          break;
        case 7:
          page = reload(page);
          resumed++;
          break;
      }
      if (random.below(3)) await settled();
    }
    page.server.isUp = true;
    page.speaker.type(" end ");
    page.speaker.endTurn();
    await page.clock.pass(120_000);
    const words = `${given} end`.split(/\s+/u).filter(Boolean);
    assert.deepEqual(page.server.stream.read, words, `seed ${seed}`);
    assert.equal(shownTarget(page), words.join(" ").toUpperCase(), `seed ${seed}`);
    assert.equal(page.speaker.stream.lastSeq, page.server.stream.said.length);
    // Of a stream whose greeting never came nothing is known, and it got nothing.
    const others = [...page.server.streams.values()].slice(0, -1);
    assert.ok(others.every(({ chars }) => chars === 0));
  }
  assert.ok(resumed > 100);
});

test("a reload shows what was there, and resumes", async () => {
  const page = await live();
  page.speaker.type("one two ");
  page.speaker.endTurn();
  page.speaker.type("three ");
  await page.clock.pass(50);
  page.server.isUp = false;
  page.server.drop();
  page.speaker.type("four ");
  const again = reload(page);
  assert.equal(shownTarget(again), "ONE TWO THREE");
  assert.deepEqual(again.speaker.outbox.unread().map((text) => text.trim()), ["", "four"]);
  await again.clock.pass(3_000);
  assert.equal(again.speaker.state, "waiting");
  again.server.isUp = true;
  await again.clock.pass(20_000);
  assert.equal(shownTarget(again), "ONE TWO THREE FOUR");
});

test("a server that forgot the stream is said so, and what is there stays", async () => {
  const page = await live();
  page.speaker.type("one two ");
  await page.clock.pass(50);
  page.server.refusal = "gone";
  page.server.drop();
  page.speaker.type("three ");
  await page.clock.pass(60_000);
  assert.deepEqual([page.speaker.state, page.speaker.detail.why], ["stopped", "gone"]);
  assert.equal(page.speaker.takesText, false);
  assert.equal(shownTarget(page), "ONE TWO");

  page.server.refusal = null;
  page.speaker.renew();
  await page.clock.pass(50);
  assert.equal(page.server.stream.text.trim(), "one two three", "what was not finished begins anew");
});

test("a server that has just started may not know a stream until it is resumed", async () => {
  const page = await live();
  page.server.refusal = "gone";
  page.server.drop();
  await page.clock.pass(600); // refused once
  assert.equal(page.speaker.state, "waiting");
  page.server.refusal = null;
  await page.clock.pass(10_000);
  assert.equal(page.speaker.state, "live");
});

test("close codes say whether to come back", async () => {
  for (const [code, why] of [[4001, "key"], [4002, "gone"], [4003, "taken"], [1009, "too-large"]]) {
    const page = await live();
    page.server.drop(code);
    await page.clock.pass(60_000);
    assert.deepEqual([page.speaker.state, page.speaker.detail.why], ["stopped", why]);
  }
  for (const code of [1006, 1011, 1012, 1013, 4008]) {
    const page = await live();
    page.server.drop(code);
    await page.clock.pass(60_000);
    assert.equal(page.speaker.state, "live");
  }
});

test("a dead network that closes no socket is found out while text is under way", async () => {
  const page = await live();
  page.server.cut();
  page.speaker.type("one two ");
  await page.clock.pass(60_000);
  assert.equal(page.speaker.state, "live");
  assert.equal(shownTarget(page), "ONE TWO");
  assert.equal(page.server.sockets.length, 2);
});

test("half a word under way does not make a live connection look dead", async () => {
  const page = await live();
  page.speaker.type("ha");
  await page.clock.pass(60_000);
  assert.equal(page.server.sockets.length, 1);
});

test("text that the server refuses is sent again", async () => {
  const page = await live();
  page.server.stream.refuses = true;
  page.speaker.type("one ");
  await page.clock.pass(5_000);
  assert.equal(page.problems[0].message, "not now");
  page.server.stream.refuses = false;
  await page.clock.pass(60_000);
  assert.equal(shownTarget(page), "ONE");
});

test("an option is changed, or refused where it was changed", async () => {
  const page = await live();
  page.speaker.update({ policy: "wait-k:5" });
  assert.deepEqual(page.speaker.wanted, { policy: "wait-k:5" });
  await page.clock.pass(50);
  assert.deepEqual([page.speaker.stream.session.policy, page.updated], ["wait-k:5", ["policy"]]);
  page.speaker.update({ policy: "bad" });
  await page.clock.pass(50);
  assert.deepEqual(page.problems, [{ message: "not now", options: ["policy"] }]);
  assert.deepEqual(page.speaker.wanted, {});
  assert.equal(page.server.sockets.length, 1);
});

test("an option that was changed without a connection is changed with the next one", async () => {
  const page = await live();
  page.server.isUp = false;
  page.server.drop();
  page.speaker.update({ policy: "wait-k:7" });
  const again = reload(page);
  again.server.isUp = true;
  await again.clock.pass(30_000);
  assert.equal(again.server.stream.policy, "wait-k:7");
  assert.deepEqual(again.speaker.wanted, {});
});

test("closing waits for what was typed, and a closed stream is not opened again", async () => {
  const page = await live();
  page.server.isUp = false;
  page.server.drop();
  page.speaker.type("last words ");
  page.speaker.close();
  assert.equal(page.speaker.takesText, false);
  page.server.isUp = true;
  await page.clock.pass(30_000);
  assert.equal(page.speaker.stream.closed.reason, "end_of_turn");
  assert.deepEqual([page.speaker.state, page.speaker.detail.why], ["stopped", "closed"]);
  assert.deepEqual(page.server.stream.read, ["last", "words"]);
  const n = page.server.sockets.length;
  await page.clock.pass(60_000);
  assert.equal(page.server.sockets.length, n);
});

test("a new session is another stream", async () => {
  const page = await live();
  page.speaker.type("one ");
  await page.clock.pass(50);
  page.speaker.renew();
  await page.clock.pass(50);
  page.speaker.type("two ");
  await page.clock.pass(50);
  assert.equal(page.server.streams.size, 2);
  assert.equal(shownTarget(page), "TWO");
  assert.deepEqual([...page.server.streams.values()][0].said.at(-1).type, "session.closed");
});

test("a message that is not one begins the connection anew", async () => {
  const page = await live();
  page.server.sockets.at(-1).onmessage({ data: '{"type": "sess' });
  await page.clock.pass(5_000);
  assert.equal(page.speaker.state, "live");
  assert.equal(page.server.sockets.length, 2);
});

// Speech, a tenth of a second at a time, whose samples count up.
async function speak(page, seconds) {
  page.spoken ??= [];
  for (let i = 0; i < 10 * seconds; i++) {
    await page.clock.pass(100);
    const first = page.spoken.length;
    const pcm = Int16Array.from({ length: 2_400 }, (_, j) => (first + j) % 30_000);
    page.spoken.push(...pcm);
    page.speaker.hear(pcm);
    await page.clock.pass(0); // the server answers at once
  }
  await page.clock.pass(50);
}

test("what is said is read and written, and its delay counts from the end of the word", async () => {
  const page = await live();
  await speak(page, 2.2);
  assert.equal(shownTarget(page), "SPOKEN1 SPOKEN2");
  assert.deepEqual(page.server.stream.audio, page.spoken);
  assert.equal(page.speaker.responseMs, 500); // the word ended so long before its last sample
  assert.equal(page.speaker.voice.unread, "");
  assert.deepEqual([page.speaker.outbox.unread(), page.problems], [["", ""], []]);
});

test("text and speech may be mixed, whatever words look like", async () => {
  const page = await live();
  page.speaker.type("typed spoken1 ");
  await speak(page, 1);
  page.speaker.type("typed spoken1 half");
  await speak(page, 1);
  page.server.drop();
  await page.clock.pass(5_000);
  page.speaker.endTurn();
  await page.clock.pass(50);
  assert.equal(page.server.stream.text, "typed spoken1 spoken1 typed spoken1 halfspoken2 ");
  assert.deepEqual([page.speaker.outbox.unread()[1], page.problems], ["", []]);
});

test("over any cuts what is said arrives once", async () => {
  for (let seed = 0; seed < 30; seed++) {
    const random = seeded(seed);
    const page = await live();
    for (let step = 0; step < 10; step++) {
      await speak(page, random.below(3) / 2);
      if (random.below(2)) page.server.drop();
      else page.server.sockets.at(-1)[random.pick(["losesIn", "losesOut"])] = random.below(9);
      await page.clock.pass(random.below(1_500));
    }
    await page.clock.pass(60_000);
    await speak(page, 0.1);
    await page.clock.pass(60_000);
    assert.deepEqual(page.server.stream.audio, page.spoken, `seed ${seed}`);
    assert.deepEqual(page.problems, []);
  }
});

test("closing waits for speech that the server has no room for yet", async () => {
  const page = await live();
  page.server.stream.isBusy = true; // it takes audio, and does not listen
  await speak(page, 25);
  assert.ok(page.speaker.voice.hasUnsent);
  page.speaker.close();
  await page.clock.pass(50);
  assert.equal(page.speaker.stream.closed, null);
  page.server.stream.goOn();
  await page.clock.pass(50);
  assert.notEqual(page.speaker.stream.closed, null);
  assert.deepEqual(page.server.stream.audio, page.spoken);
  assert.deepEqual(page.problems, []);
});

test("speech that the server refuses is sent again", async () => {
  const page = await live();
  page.server.stream.refuses = "audio_backlog_full";
  await speak(page, 1);
  assert.equal(page.problems[0].message, "not now");
  page.server.stream.refuses = false;
  await page.clock.pass(60_000);
  assert.deepEqual(page.server.stream.audio, page.spoken);
});

test("a recogniser that broke off is said once, and nothing more is said to it", async () => {
  const page = await live();
  page.server.stream.refuses = "recogniser_failed";
  await speak(page, 1);
  assert.equal(page.problems.length, 1);
  assert.deepEqual([page.speaker.takesSpeech, page.speaker.takesText], [false, true]);
  page.server.stream.refuses = false;
  await speak(page, 1);
  page.speaker.endSpeech();
  page.speaker.type("typed ");
  await page.clock.pass(60_000);
  assert.deepEqual([page.server.stream.audio, page.server.stream.text], [[], "typed "]);
  assert.equal(page.server.sockets.length, 1);
});

test("a dead network is found out by speech under way, and silence is no sign of one", async () => {
  const page = await live();
  await speak(page, 1);
  page.server.stream.socket.say = () => {}; // it hears, and says nothing
  await speak(page, 10);
  assert.equal(page.server.sockets.length, 1);
  page.server.cut();
  await speak(page, 20);
  await page.clock.pass(60_000);
  assert.deepEqual(page.server.stream.audio, page.spoken);
  assert.ok(page.server.sockets.length > 1);
});
