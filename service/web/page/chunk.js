// A chunk of actions: one small chart per dimension, over the time for which each action is held.

import { html, svg } from "./dom.js";
import { figure, ms } from "./format.js";

const WIDTH = 150;
const HEIGHT = 44;

/** A figure for `chunk`, actions (h, d) in environment units. */
export function chunkCharts(model, chunk) {
  return html("div", { class: "chunk", id: "chunk" },
    model.action_low.map((low, j) => chart(chunk.map((action) => action[j]), low, model.action_high[j], `action ${j + 1}`)),
    html("p", { class: "hint" }, `${chunk.length} actions, each for ${ms(1000 / model.control_hz)}; the lines are the limits`));
}

function chart(values, low, high, name) {
  const x = (i) => (i / values.length) * WIDTH;
  const y = (value) => HEIGHT - 3 - ((value - low) / (high - low)) * (HEIGHT - 6);
  const steps = values.map((value, i) => `${i ? "V" : "M0 "}${y(value)}H${x(i + 1)}`).join("");
  return html("figure", {},
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${name}: ${values.map(figure).join(", ")}` },
      [low, high].map((limit) => svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: y(limit), y2: y(limit) })),
      svg("path", { class: "steps", d: steps })),
    html("figcaption", {}, `${name}, ${figure(low)} to ${figure(high)}`));
}
