import assert from "node:assert/strict";
import { test } from "node:test";

import { glossaryOf, glossaryText } from "../../../mlx_simul/serving/page/glossary.mjs";

test("lines become terms and lines again", () => {
  const terms = { train: "train", "seven o'clock": "sept heures", __proto__x: "y" };
  assert.deepEqual({ ...glossaryOf(glossaryText(terms)).glossary }, terms);
  assert.deepEqual({ ...glossaryOf("\n a =  b = c \n\n").glossary }, { a: "b = c" });
  assert.deepEqual(Object.keys(glossaryOf("__proto__ = x").glossary), ["__proto__"]);
});

test("a line that is not a term is named", () => {
  for (const line of ["train", "= train", "train ="]) {
    assert.match(glossaryOf(`a = b\n${line}`).problem, /^Line 2/);
  }
});
