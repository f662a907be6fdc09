// The candidates of one reply in two dimensions, coloured by Q, the chosen one ringed.

import { html, svg } from "./dom.js";
import { figure, percent } from "./format.js";
import { axes, canvas, frame, linear } from "./plot.js";
import { principalComponents } from "./principal.js";

const HEIGHT = 360;

/** A figure for `candidates`, (N, d) or chunks (N, h, d), with `q` (N,), of which `chosen` was executed. */
export function candidatePlot(candidates, q, chosen) {
  const views = viewsOf(candidates, q);
  const selects = [0, Math.min(1, views.length - 1)].map((selected, i) =>
    html("select", { change: () => redraw(), id: `axis-${i}` }, views.map(({ name }, at) => html("option", { value: at, selected: at === selected }, name))));
  const plot = html("div", { class: "plot" });
  const low = Math.min(...q);
  const high = Math.max(...q);
  const shade = (value) => `color-mix(in oklab, var(--accent) ${high > low ? (100 * (value - low)) / (high - low) : 100}%, var(--faint))`;
  const order = q.map((_, i) => i).sort((a, b) => q[a] - q[b]); // the best on top

  const redraw = frame(plot, (width) => {
    const box = { left: 52, right: width - 12, top: 34, bottom: HEIGHT - 44 };
    const [across, up] = selects.map((select) => views[select.value]);
    const x = linear(around(across.values), [box.left, box.right], Math.max(width / 110, 4));
    const y = linear(around(up.values), [box.bottom, box.top]);
    const at = (i) => ({ cx: x(across.values[i]), cy: y(up.values[i]) });
    const { cx, cy } = at(chosen);
    const near = cx > width - 90;
    return canvas(width, HEIGHT, { role: "img", "aria-label": `${q.length} candidates, Q from ${figure(low)} to ${figure(high)}; chosen: number ${chosen}, the highest` },
      axes(box, { x, y, xTitle: across.title, yTitle: up.title, xText: figure, yText: figure }),
      order.map((i) => svg("circle", { class: "candidate", r: q.length > 500 ? 3 : 5, style: { fill: shade(q[i]) }, ...at(i) },
        svg("title", {}, `candidate ${i}, Q ${figure(q[i])}`))),
      svg("circle", { class: "chosen", r: 9, cx, cy }),
      svg("text", { class: "chosen-name", x: cx + (near ? -15 : 15), y: cy + 4, "text-anchor": near ? "end" : "start" }, "chosen"));
  });
  return html("div", {}, plot,
    html("div", { class: "axes" },
      html("label", {}, "Across", selects[0]), html("label", {}, "Up", selects[1]),
      html("span", { class: "legend" }, `Q ${figure(low)}`, html("i", { "aria-hidden": "true" }), figure(high))));
}

function viewsOf(candidates, q) {
  const names = namesOf(candidates[0]);
  const rows = candidates.map((candidate) => candidate.flat());
  const dimensions = names.map((name, j) => ({ name, title: name, values: rows.map((row) => row[j]) }));
  const value = { name: "Q", title: "Q", values: q };
  if (dimensions.length < 2) return [...dimensions, value];
  const { mean, axes: components, shares } = principalComponents(rows);
  const principal = components.slice(0, 2).map((axis, k) => ({
    name: `principal component ${k + 1}`,
    title: `principal component ${k + 1}, ${percent(shares[k])} of the variance`,
    values: rows.map((row) => row.reduce((sum, item, j) => sum + (item - mean[j]) * axis[j], 0)),
  }));
  return [...principal, ...dimensions, value];
}

const namesOf = (candidate) =>
  Array.isArray(candidate[0]) ? candidate.flatMap((action, i) => action.map((_, j) => `action ${j + 1}, tick ${i + 1}`)) : candidate.map((_, j) => `action ${j + 1}`);

function around(values) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const margin = (high - low) * 0.07 || Math.abs(high) * 0.1 || 1;
  return [low - margin, high + margin];
}
