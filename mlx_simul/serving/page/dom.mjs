// A few helpers for the DOM. All text goes in as text, never as markup.

export const byId = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children); // strings become text nodes
  return node;
}

export function svg(tag, attributes = {}, text = null) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  return node;
}

// Only if the text differs: an unchanged node is neither laid out again nor read out.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setLang(node, language) {
  if (!language) node.removeAttribute("lang");
  else if (node.lang !== language) node.lang = language;
}

// Calls `draw` at most once a frame, however often it is asked for.
export function eachFrame(draw) {
  let isAsked = false;
  return () => {
    if (isAsked) return;
    isAsked = true;
    const go = () => {
      isAsked = false;
      draw();
    };
    // A hidden page gets no frames, but a screen reader may still listen to it.
    if (document.hidden) setTimeout(go, 250);
    else requestAnimationFrame(go);
  };
}
