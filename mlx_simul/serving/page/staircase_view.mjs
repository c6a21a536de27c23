// The staircase of a sentence as a picture, and the same as words.

import { byId, setText, svg } from "./dom.mjs";
import { described, staircase } from "./staircase.mjs";

const LEAST_SCALE = 0.85;

export class StaircaseView {
  #selected = null; // a turn's number; null follows the stream
  #drawn = "";

  constructor(onSelect) {
    this.figure = byId("staircase");
    this.picture = byId("staircase-picture");
    this.caption = byId("staircase-caption");
    this.older = byId("staircase-older");
    this.newer = byId("staircase-newer");
    this.older.addEventListener("click", () => this.#step(-1, onSelect));
    this.newer.addEventListener("click", () => this.#step(1, onSelect));
  }

  draw(stream) {
    this.stream = stream;
    const turn = this.#turn();
    this.figure.hidden = turn === null;
    if (turn === null || this.figure.offsetParent === null) return; // its panel may be shut
    const { turns } = stream;
    const at = turns.indexOf(turn);
    this.older.disabled = turns.length === 0 || at === 0;
    this.newer.disabled = at < 0;
    const key = `${turn.turn} ${turn.source.length} ${turn.target.length} ${at < 0}`;
    if (key === this.#drawn) return;
    this.#drawn = key;
    this.#paint(turn);
  }

  clear() {
    this.#selected = null;
    this.#drawn = "";
  }

  #turn() {
    const { turns, live } = this.stream;
    const chosen = turns.find((turn) => turn.turn === this.#selected);
    if (chosen) return chosen;
    if (live?.delays.length) return live;
    return turns.findLast((turn) => turn.delays.length) ?? null;
  }

  #step(by, onSelect) {
    const { turns } = this.stream;
    const at = turns.indexOf(this.#turn());
    const to = at < 0 ? turns.length - 1 : at + by;
    this.#selected = turns[to]?.turn ?? null;
    onSelect();
  }

  #paint({ turn, sourceWords, targetWords, delays }) {
    const drawing = staircase(sourceWords, targetWords, delays);
    const { width, height, grid } = drawing;
    const picture = svg("svg", {
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      role: "img",
      "aria-label": described(sourceWords, targetWords, delays),
    });
    // A long sentence is scrolled rather than made too small to read.
    picture.style.minInlineSize = `${width * LEAST_SCALE}px`;
    for (const cell of drawing.cells) picture.append(svg("rect", { class: "read", ...cell }));
    for (const x of drawing.columns) {
      picture.append(svg("line", { class: "rule", x1: x, x2: x, y1: grid.y, y2: grid.y + grid.height }));
    }
    for (let i = 0; i <= targetWords.length; i++) {
      const y = grid.y + (i * grid.height) / Math.max(targetWords.length, 1);
      picture.append(svg("line", { class: "rule", x1: grid.x, x2: grid.x + grid.width, y1: y, y2: y }));
    }
    picture.append(svg("polyline", { class: "stairs", points: drawing.line.join(" ") }));
    for (const { text, x, y } of drawing.target) {
      picture.append(svg("text", { class: "label", x, y, "text-anchor": "end", dy: "0.35em" }, text));
    }
    for (const { text, x, y } of drawing.source) {
      const transform = `rotate(${drawing.slantDegrees} ${x} ${y})`;
      picture.append(svg("text", { class: "label", x, y, "text-anchor": "end", transform }, text));
    }
    this.picture.replaceChildren(picture);
    setText(
      this.caption,
      `Sentence ${turn + 1}: the line shows how many source words had been read when each target ` +
        "word was written.",
    );
  }
}
