// The staircase of a turn: source words across, target words down, and a line that says how many
// source words had been read when each target word was written. Geometry only; knows no DOM.

const CELL_WIDTH = 26;
const CELL_HEIGHT = 23;
const CHAR_WIDTH = 7; // of a label, about
const MAX_LABEL_CHARS = 18;
const SLANT = Math.PI / 3; // source labels, as in the picture that `mlx-simul inspect` draws
const MARGIN = 8;

// The drawing, in its own units:
// {width, height, cells: [{x, y, width, height}], line: [[x, y], …],
//  source: [{text, x, y}], target: [{text, x, y}], grid: {x, y, width, height}}
export function staircase(sourceWords, targetWords, delays) {
  const columns = Math.max(sourceWords.length, ...delays, 1);
  const rows = Math.max(targetWords.length, 1);
  const source = sourceWords.map(shortened);
  const target = targetWords.map(shortened);
  const left = MARGIN + CHAR_WIDTH * longest(target) + MARGIN;
  const below = MARGIN + CHAR_WIDTH * longest(source) * Math.sin(SLANT) + MARGIN;
  // A slanted label reaches to the left of its column; the first ones may reach beyond the grid.
  const overhang = CHAR_WIDTH * longest(source) * Math.cos(SLANT) - CELL_WIDTH / 2;
  const x = Math.max(left, overhang + MARGIN);
  const y = MARGIN;
  const grid = { x, y, width: columns * CELL_WIDTH, height: rows * CELL_HEIGHT };

  const cells = delays.slice(0, rows).map((delay, i) => ({
    x,
    y: y + i * CELL_HEIGHT,
    width: delay * CELL_WIDTH,
    height: CELL_HEIGHT,
  }));
  return {
    width: x + grid.width + MARGIN,
    height: y + grid.height + below,
    grid,
    cells,
    line: stairs(cells),
    columns: Array.from({ length: columns + 1 }, (_, i) => x + i * CELL_WIDTH),
    source: source.map((text, i) => ({
      text,
      x: x + (i + 0.5) * CELL_WIDTH,
      y: y + grid.height + MARGIN + 4,
    })),
    target: target.map((text, i) => ({
      text,
      x: x - MARGIN,
      y: y + (i + 0.5) * CELL_HEIGHT,
    })),
    slantDegrees: (-SLANT * 180) / Math.PI,
  };
}

// The right edge of the cells, from the top down, with horizontal treads.
function stairs(cells) {
  const points = [];
  for (const { x, y, width, height } of cells) {
    points.push([x + width, y], [x + width, y + height]);
  }
  return points;
}

const longest = (labels) => Math.max(...labels.map((label) => [...label].length), 1);

function shortened(word) {
  const chars = [...word];
  return chars.length > MAX_LABEL_CHARS ? `${chars.slice(0, MAX_LABEL_CHARS - 1).join("")}…` : word;
}

// The staircase in words, for a reader who cannot see the picture.
export function described(sourceWords, targetWords, delays) {
  const steps = targetWords.slice(0, delays.length).map((word, i) => {
    const seen = delays[i];
    return seen > 0 ? `${word}: after ${sourceWords[seen - 1] ?? `word ${seen}`} (${seen})` : word;
  });
  return `${sourceWords.length} source words, ${targetWords.length} target words. ${steps.join("; ")}.`;
}
