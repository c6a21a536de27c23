// Every visible text whose contrast with what is behind it is below WCAG 2's AA, 4.5:1; controls
// that are disabled are exempt. Colours are drawn, so that any way to write them will do.
() => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const pen = canvas.getContext("2d", { willReadFrequently: true });

  function luminance(colours) {
    pen.clearRect(0, 0, 1, 1);
    for (const colour of colours) {
      pen.fillStyle = colour;
      pen.fillRect(0, 0, 1, 1);
    }
    const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }

  const faint = [];
  for (const node of document.querySelectorAll("body *")) {
    const isText = [...node.childNodes].some((each) => each.nodeType === 3 && each.data.trim());
    const isExempt = node.matches(":disabled, noscript, option, .heard *, .skip");
    if (!isText || isExempt || !node.checkVisibility()) continue;
    const behind = [];
    for (let at = node; at; at = at.parentElement) {
      behind.unshift(getComputedStyle(at).backgroundColor);
    }
    const style = getComputedStyle(node);
    const ground = luminance(behind);
    const ink = luminance([...behind, node instanceof SVGElement ? style.fill : style.color]);
    const contrast = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    const name = node.id || node.getAttribute("class") || node.tagName;
    if (contrast < 4.5) faint.push(`${name}: ${contrast.toFixed(2)}`);
  }
  return faint;
}
