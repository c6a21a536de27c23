// A glossary as lines of text, "source = target", and back. Knows no DOM.

export function glossaryText(glossary) {
  return Object.entries(glossary ?? {})
    .map(([source, target]) => `${source} = ${target}`)
    .join("\n");
}

// Returns {glossary, problem}: the terms, or which line is not "source = target".
export function glossaryOf(text) {
  const glossary = Object.create(null);
  for (const [i, line] of text.split("\n").entries()) {
    if (!line.trim()) continue;
    const at = line.indexOf("=");
    const source = line.slice(0, at).trim();
    const target = line.slice(at + 1).trim();
    if (at < 0 || !source || !target) {
      return { problem: `Line ${i + 1}, “${line.trim()}”, is not of the form: source = target.` };
    }
    glossary[source] = target;
  }
  return { glossary };
}
