import assert from "node:assert/strict";
import { test } from "node:test";

import { described, staircase } from "../../../mlx_simul/serving/page/staircase.mjs";
import { seeded } from "./random.mjs";

function someTurn(seed) {
  const random = seeded(seed);
  const word = () => "w".repeat(1 + random.below(30));
  const source = Array.from({ length: 1 + random.below(20) }, word);
  const target = Array.from({ length: 1 + random.below(20) }, word);
  let seen = 0;
  const delays = target.map(() => (seen = Math.min(seen + random.below(4), source.length)));
  return { source, target, delays };
}

test("a step reaches to the last source word that was read, and all of it is in the picture", () => {
  for (let seed = 0; seed < 200; seed++) {
    const { source, target, delays } = someTurn(seed);
    const { cells, grid, line, width, height, ...drawing } = staircase(source, target, delays);
    const column = grid.width / source.length;
    assert.equal(cells.length, target.length);
    for (const [i, cell] of cells.entries()) {
      assert.ok(Math.abs(cell.width - delays[i] * column) < 1e-9);
      assert.ok(Math.abs(cell.y - grid.y - (i * grid.height) / target.length) < 1e-9);
    }
    for (let i = 1; i < line.length; i++) {
      assert.ok(line[i][0] >= line[i - 1][0] && line[i][1] >= line[i - 1][1], "stairs go down");
      assert.ok(line[i][0] === line[i - 1][0] || line[i][1] === line[i - 1][1], "in right angles");
    }
    const points = [...line, ...[...drawing.source, ...drawing.target].map(({ x, y }) => [x, y])];
    for (const [x, y] of points) assert.ok(x >= 0 && x <= width && y >= 0 && y <= height);
    assert.ok(grid.x + grid.width <= width && grid.y + grid.height <= height);
    for (const { text } of [...drawing.source, ...drawing.target]) assert.ok(text.length <= 18);
  }
});

test("a turn without words is a picture, too", () => {
  const { width, height, line } = staircase([], [], []);
  assert.ok(width > 0 && height > 0);
  assert.deepEqual(line, []);
});

test("the picture is told in words", () => {
  assert.equal(
    described(["He", "left."], ["Il", "est", "parti."], [1, 2, 2]),
    "2 source words, 3 target words. Il: after He (1); est: after left. (2); parti.: after left. (2).",
  );
});
