import assert from "node:assert/strict";
import { test } from "node:test";

import { Stream } from "../../../mlx_simul/serving/page/stream.mjs";

// Two turns, as a server says them; the first is "He left. " -> "Il est parti."
const SAID = [
  { type: "session.input_transcript.delta", delta: "He", turn: 0, source_words: 1 },
  { type: "session.input_transcript.delta", delta: " left.", turn: 0, source_words: 2 },
  { type: "session.output_transcript.delta", delta: "Il", turn: 0, source_words: 2, target_words: 1 },
  { type: "session.output_transcript.delta", delta: " est", turn: 0, source_words: 2, target_words: 2 },
  { type: "session.output_transcript.delta", delta: " par", turn: 0, source_words: 2, target_words: 2 },
  { type: "session.output_transcript.delta", delta: "ti.", turn: 0, source_words: 2, target_words: 3 },
  {
    type: "session.turn.done",
    turn: 0,
    source_text: "He left.",
    target_text: "Il est parti.",
    source_span_words: [0, 2],
    target_span_words: [0, 3],
    delays: [2, 2, 2],
    ended_by: "sentence",
    reason: "end_of_turn",
  },
  { type: "session.input_transcript.delta", delta: " She", turn: 1, source_words: 3 },
  { type: "session.input_transcript.delta", delta: " came", turn: 1, source_words: 4 },
  { type: "session.output_transcript.delta", delta: "Elle", turn: 1, source_words: 3, target_words: 4 },
  { type: "session.output_transcript.delta", delta: " est", turn: 1, source_words: 4, target_words: 4 },
].map((message, i) => ({ ...message, seq: i + 1 }));

function heard(messages, stream = new Stream()) {
  for (const message of messages) stream.apply(message);
  return stream;
}

test("turns, words and delays are counted within a turn", () => {
  const { turns, live } = heard(SAID);
  assert.equal(turns.length, 1);
  assert.deepEqual(turns[0].sourceWords, ["He", "left."]);
  assert.deepEqual(turns[0].targetWords, ["Il", "est", "parti."]);
  assert.deepEqual(turns[0].delays, [2, 2, 2]);
  assert.deepEqual(live.sourceWords, ["She", "came"]);
  assert.deepEqual(live.targetWords, ["Elle"]);
  assert.deepEqual(live.delays, [1]);
  assert.equal(live.begun, " est");
  assert.equal(live.seenWords, 2);
  assert.deepEqual(live.sourceParts, [" She came", ""]);
});

test("the live turn shows what the target has seen", () => {
  const { live } = heard(SAID.slice(0, -1));
  assert.deepEqual(live.sourceParts, [" She", " came"]);
});

test("a message heard twice changes nothing; a missing one is noticed", () => {
  const twice = heard(SAID.flatMap((message) => [message, message]));
  assert.deepEqual(twice, heard(SAID));
  for (let i = 1; i < SAID.length; i++) {
    const stream = heard(SAID.slice(0, i - 1));
    assert.equal(stream.apply(SAID[i]), "gap");
    assert.deepEqual(stream, heard(SAID.slice(0, i - 1)));
  }
});

test("a stream that was saved and restored anywhere goes on as if it had not been", () => {
  for (let i = 0; i <= SAID.length; i++) {
    const saved = JSON.parse(JSON.stringify(heard(SAID.slice(0, i))));
    assert.deepEqual(heard(SAID.slice(i), Stream.restored(saved)), heard(SAID), `after ${i}`);
  }
});

test("who comes late sees what follows", () => {
  const stream = new Stream();
  stream.skipTo(8);
  heard(SAID.slice(8), stream);
  assert.deepEqual(stream.live.sourceWords, ["came"]);
  assert.equal(stream.live.target, "Elle est");
});

test("hours of turns do not pile up", () => {
  const stream = new Stream({ keptTurns: 5 });
  for (let turn = 0; turn < 1_000; turn++) stream.apply({ ...SAID[6], turn, seq: turn + 1 });
  assert.equal(stream.turns.length, 5);
  assert.equal(stream.dropped, 995);
  assert.equal(stream.turns.at(-1).turn, 999);
});

test("the end of a stream leaves nothing under way", () => {
  const stream = heard(SAID);
  stream.apply({ type: "session.input_transcript.tail", text: "perhaps" });
  assert.equal(stream.tail, "perhaps");
  stream.apply({ type: "session.closed", seq: SAID.length + 1, reason: "end_of_turn" });
  assert.deepEqual([stream.live, stream.tail, stream.closed.reason], [null, "", "end_of_turn"]);
});
