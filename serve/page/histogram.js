// Stacked histogram (SVG) of the val split's leads, with a mark at this brain's lead.

const WIDTH = 420;
const HEIGHT = 150;
const TOP = 22;
const BOTTOM = 128;
const SIDE = 14;

/** Return the SVG element; its text alternative gives the same facts in a sentence. */
export function histogram({ start, width, right, wrong }, lead) {
  const end = start + width * right.length;
  const most = Math.max(1, ...right.map((count, bin) => count + wrong[bin]));
  const across = (value) => SIDE + ((WIDTH - 2 * SIDE) * (value - start)) / (end - start || 1);
  const tall = (count) => ((BOTTOM - TOP) * count) / most;
  const sum = (counts) => counts.reduce((total, count) => total + count, 0).toLocaleString("en");
  const digits = end - start < 0.05 ? 3 : 2;
  const parts = [];
  right.forEach((count, bin) => {
    const left = across(start + width * bin) + 0.5;
    const size = Math.max(across(start + width * (bin + 1)) - left - 0.5, 0.5);
    const bar = (name, value, below) =>
      value && parts.push(shape("rect", { class: name, x: left, width: size, height: tall(value),
        y: BOTTOM - tall(below) - tall(value) }));
    bar("wrong", wrong[bin], 0);
    bar("right", count, wrong[bin]);
  });
  parts.push(shape("line", { class: "axis", x1: SIDE, x2: WIDTH - SIDE, y1: BOTTOM, y2: BOTTOM }));
  for (const [value, anchor] of [[start, "start"], [(start + end) / 2, "middle"], [end, "end"]]) {
    const place = { class: "tick", x: across(value), y: HEIGHT - 6, "text-anchor": anchor };
    parts.push(shape("text", place, value.toFixed(digits)));
  }
  const beyond = lead > end ? " →" : lead < start ? "← " : "";
  const here = across(Math.min(Math.max(lead, start), end));
  parts.push(shape("line", { class: "here", x1: here, x2: here, y1: TOP - 6, y2: BOTTOM }));
  const anchor = here < WIDTH / 4 ? "start" : here > (3 * WIDTH) / 4 ? "end" : "middle";
  const words = `this brain ${lead.toFixed(3)}`;
  const label = lead < start ? beyond + words : words + beyond;
  parts.push(shape("text", { x: here, y: TOP - 10, "text-anchor": anchor }, label));
  const alternative =
    `Histogram of the val split’s leads from ${start.toFixed(digits)} to ${end.toFixed(digits)}: ` +
    `${sum(right)} brains with the right picture first, ${sum(wrong)} with another one. ` +
    `The lead of this brain is ${lead.toFixed(3)}.`;
  const drawing = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": alternative };
  return shape("svg", drawing, ...parts);
}

function shape(name, attributes, ...content) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...content);
  return element;
}
