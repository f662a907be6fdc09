// Success against cost: every measured budget a point with its interval, the Pareto line through the best.

import { byId, svg } from "./dom.js";
import { budget, ms, percent, success } from "./format.js";
import { axes, canvas, frame, linear, logarithmic } from "./plot.js";

const HEIGHT = 400;
const MOVED = 0.15; // how far predictions may drift before the plot follows

/** Predicted ms of one request; null before the service has measured itself. */
export function predicted(cost, n, m) {
  const total = cost ? cost.request + n * (cost.candidate + m * cost.step) : 0;
  return total > 0 ? total : null;
}

/** Cells that none at most as costly equals or beats in success, by cost. `priced` is [{cell, x}]. */
export function pareto(priced) {
  let best = -1;
  return [...priced]
    .sort((a, b) => a.x - b.x || b.cell.success - a.cell.success)
    .filter(({ cell }) => cell.success > best && ((best = cell.success), true));
}

/** The best of `cells`, in order of cost, that are no larger than a dominated one: it is not dominated itself. */
const better = ({ num_candidates: n, num_steps: m }, cells) =>
  cells.filter((c) => !c.dominated && c.num_candidates <= n && c.num_steps <= m).reduce((best, c) => (c.success > best.success ? c : best));

/** What the grey dots are, and what a request gets that leaves the choice to the server. */
function advice({ default_budget: chosen, frontier }) {
  const most = Math.max(...frontier.map((cell) => cell.success));
  const best = frontier.some((cell) => budget(cell) === budget(chosen) && cell.success === most);
  return (frontier.some((cell) => cell.dominated) ? "Small grey dots are dominated: a cheaper budget measured as well or better. " : "")
    + `Leave N, M and the deadline out, and the server takes ${budget(chosen)}${best ? ", the best measured" : ""}.`;
}

export class FrontierPlot {
  /** @param pick called with the cell that Enter or a click takes. */
  constructor(pick) {
    this.pick = pick;
    this.points = [];
    this.current = null;
    this.redraw = frame(byId("frontier-plot"), (width) => this.draw(width));
  }

  show(model, cost, measured) {
    Object.assign(this, { model, cost, measured, current: null });
    this.price();
  }

  /** New predictions. The plot stays where it is while someone is in it, or while they are much as they were. */
  update(cost, measured) {
    this.measured = measured;
    const was = this.points.at(-1);
    const now = was && (predicted(cost, was.cell.num_candidates, was.cell.num_steps) ?? was.x);
    const moved = was && (Boolean(this.timed) !== Boolean(predicted(cost, 1, 1)) || Math.abs(now / was.x - 1) > MOVED);
    if (!moved || byId("frontier-plot").matches(":hover, :focus-within")) return;
    this.cost = cost;
    this.price();
  }

  price() {
    const cells = this.model.frontier;
    this.timed = predicted(this.cost, 1, 1) !== null;
    const price = ({ num_candidates: n, num_steps: m }) => (this.timed ? predicted(this.cost, n, m) : n * m);
    this.points = cells.map((cell) => ({ cell, x: price(cell) })).sort((a, b) => a.x - b.x || a.cell.success - b.cell.success);
    this.line = pareto(this.points);
    byId("frontier-hint").hidden = !cells.length;
    byId("frontier-advice").textContent = advice(this.model);
    this.redraw();
    const wanted = budget(this.current?.cell ?? this.model.default_budget);
    const same = this.points.find(({ cell }) => budget(cell) === wanted);
    this.activate(same ?? this.line.at(-1) ?? null);
  }

  draw(width) {
    const { points } = this;
    if (!points.length) return null;
    const box = { left: 44, right: width - 14, top: 34, bottom: HEIGHT - 44 };
    const costs = points.map(({ x }) => x);
    const x = logarithmic([Math.min(...costs) / 1.15, Math.max(...costs) * 1.15], [box.left, box.right], width / 80);
    const y = linear([0, 1], [box.bottom, box.top]);
    this.elements = new Map(points.map((point) => [point, this.mark(point, x(point.x), y)]));
    const stairs = this.line.map(({ cell, x: cost }, i) => `${i ? `H${x(cost)}V` : `M${x(cost)},`}${y(cell.success)}`).join("");
    const group = svg("g", { role: "group", "aria-label": "Measured budgets, cheapest first", keydown: (event) => this.step(event) },
      // The best go on top.
      points.filter((p) => !this.line.includes(p)).concat(this.line).map((point) => this.elements.get(point)));
    const picture = canvas(width, HEIGHT, {},
      axes(box, { x, y, xTitle: this.timed ? "predicted ms of one request" : "network evaluations, N × M", yTitle: "success",
        yText: (tick) => percent(tick) }),
      svg("path", { class: "pareto", d: `${stairs}H${box.right}` }), group, this.names(x, y));
    queueMicrotask(() => this.activate(this.current));
    return picture;
  }

  mark(point, left, y) {
    const { cell } = point;
    const best = this.line.includes(point);
    const { dominated } = cell;
    const says = `${cell.num_candidates} candidates, ${cell.num_steps} steps: ${success(cell)}${this.timed ? `, ${ms(point.x)}` : ""}${dominated ? ", dominated" : ""}`;
    return svg("g", {
      class: `cell${best ? " best" : dominated ? " dominated" : ""}`, role: "button", tabindex: -1, "aria-label": says,
      pointerenter: () => this.activate(point), focus: () => this.activate(point), click: () => this.take(point),
    },
      svg("line", { x1: left, x2: left, y1: y(cell.low), y2: y(cell.high) }),
      svg("circle", { class: "target", cx: left, cy: y(cell.success), r: 12 }),
      svg("circle", { class: "mark", cx: left, cy: y(cell.success), r: best ? 5.5 : dominated ? 2.5 : 4 }),
      svg("circle", { class: "halo", cx: left, cy: y(cell.success), r: 9.5 }));
  }

  /** N × M beside the points of the line, where there is room. */
  names(x, y) {
    const placed = [];
    const texts = [];
    for (const { cell, x: cost } of [...this.line].reverse()) {
      const at = [x(cost) - 12, y(cell.success) - 8];
      if (placed.some(([left, top]) => Math.abs(left - at[0]) < 44 && Math.abs(top - at[1]) < 16)) continue;
      placed.push(at);
      texts.push(svg("text", { class: "name", x: at[0], y: at[1], "text-anchor": "end" }, budget(cell)));
    }
    return svg("g", { "aria-hidden": "true" }, texts);
  }

  activate(point) {
    for (const [other, element] of this.elements ?? []) {
      element.classList.toggle("active", other === point);
      element.setAttribute("tabindex", other === point ? 0 : -1); // one stop for Tab, arrows inside
    }
    this.current = point;
    byId("frontier-readout").replaceChildren(...this.figures(point));
  }

  figures(point) {
    if (!point) return ["No budget of this policy has been measured."];
    const { cell } = point;
    const strong = document.createElement("strong");
    strong.textContent = `N = ${cell.num_candidates}, M = ${cell.num_steps}`;
    const live = this.measured?.find((row) => budget(row) === budget(cell));
    const cost = this.timed ? `${ms(point.x)} predicted` : `${point.x} network evaluations`;
    return [strong, `: ${success(cell)}; ${cost}${live ? `, ${ms(live.total_ms.p50)} lately at the median` : ""}${this.instead(cell)}`];
  }

  instead(cell) {
    if (!cell.dominated) return "";
    const other = better(cell, this.points.map((point) => point.cell));
    return `. Dominated: ${budget(other)} measured ${other.success > cell.success ? percent(other.success) : "as well"}`;
  }

  take(point) {
    this.pick(point.cell);
    byId("frontier-readout").append(". Taken over into the form.");
  }

  step(event) {
    const at = this.points.indexOf(this.current);
    const to = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: this.points.length - 1 }[event.key];
    if (to !== undefined) this.elements.get(this.points[Math.min(Math.max(to, 0), this.points.length - 1)]).focus();
    else if (event.key === "Enter" || event.key === " ") this.take(this.current);
    else return;
    event.preventDefault();
  }
}
