// What the service is doing: rates, latency by granted budget, and the queue, from /stats.

import { byId, grouped, html, svg, table } from "./dom.js";
import { budget, figure, ms, percent } from "./format.js";
import { axes, canvas, frame, linear, logarithmic } from "./plot.js";

const KEPT = 60_000; // ms of the queue's trace
const ROWS = 12;
const ROW = 27; // pixels

export class Live {
  constructor() {
    this.trace = [];
    this.rows = [];
    this.redrawLatency = frame(byId("latency-plot"), (width) => this.latency(width));
    this.redrawQueue = frame(byId("queue-plot"), (width) => this.queue(width));
  }

  /** One reading of /stats, for the model that is shown. */
  show(stats, model) {
    const now = performance.now();
    this.now = now;
    this.model = model;
    this.trace.push({ at: now, waiting: stats.queue.predicted_ms });
    while (this.trace[0].at < now - KEPT) this.trace.shift();
    const mine = stats.budgets.filter((row) => row.model === model.name);
    this.rows = mine.sort((a, b) => b.answered - a.answered).slice(0, ROWS)
      .sort((a, b) => a.num_candidates * a.num_steps - b.num_candidates * b.num_steps);
    this.tiles(stats);
    this.tables(mine, stats);
    this.redrawLatency();
    this.redrawQueue();
  }

  tiles(stats) {
    const seconds = Math.max(stats.window_seconds, 1);
    const failed = Object.values(stats.failed).reduce((sum, count) => sum + count, 0);
    const reduced = stats.budgets.reduce((sum, row) => sum + row.reduced, 0);
    const share = (count) => (count ? percent(count / (stats.answered + failed), 1) : "none");
    const number = (value, unit = "") => [value, html("small", {}, unit)];
    const latency = stats.latency_ms;
    byId("live-window").textContent = stats.answered || failed
      ? `The last ${Math.round(seconds)} seconds, all policies.`
      : "No request in the last minute. Ask for an action below, and it shows up here.";
    byId("tiles").replaceChildren(...grouped([
      ["Answered", number(figure(stats.answered / seconds), "per second")],
      ["Median latency", latency ? number(figure(latency.p50), "ms") : "–"],
      ["99\u00a0% within", latency ? number(figure(latency.p99), "ms") : "–"],
      ["Waiting now", number(String(stats.queue.requests), stats.queue.requests === 1 ? "request" : "requests")],
      ["Less than asked", share(reduced)],
      ["Errors", share(failed)],
    ]));
  }

  latency(width) {
    if (!this.rows.length) return html("p", { class: "empty" }, "Nothing answered yet.");
    const height = this.rows.length * ROW + 62;
    const box = { left: 74, right: width - 46, top: 8, bottom: height - 48 };
    const period = 1000 / this.model.control_hz;
    const all = this.rows.flatMap(({ total_ms: t }) => [t.p50, t.p99]);
    const x = logarithmic([Math.min(...all) / 1.3, Math.max(...all, period) * 1.15], [box.left, box.right], width / 70);
    const marks = this.rows.map((row, i) => {
      const at = box.top + (i + 0.5) * ROW;
      const { p50, p95, p99 } = row.total_ms;
      return svg("g", {},
        svg("text", { class: "name", x: box.left - 14, y: at + 4, "text-anchor": "end" }, budget(row)),
        svg("line", { class: "range", x1: x(p50), x2: x(p99), y1: at, y2: at, "stroke-width": 1.5, opacity: 0.6 }),
        svg("line", { class: "range", x1: x(p50), x2: x(p95), y1: at, y2: at, "stroke-width": 5, opacity: 0.35 }),
        svg("circle", { class: "dot", cx: x(p50), cy: at, r: 5.5 }),
        svg("text", { x: box.right + 12, y: at + 4 }, `${row.answered}`));
    });
    const label = this.rows.map((row) => `${budget(row)}: ${ms(row.total_ms.p50)}`).join("; ");
    return canvas(width, height, { role: "img", "aria-label": `Median latency by budget. ${label}` },
      axes(box, { x, xTitle: "ms, receipt to reply" }),
      svg("line", { class: "period", x1: x(period), x2: x(period), y1: box.top, y2: box.bottom }),
      marks);
  }

  queue(width) {
    const height = 190;
    const box = { left: 44, right: width - 8, top: 30, bottom: height - 48 };
    const most = Math.max(1, ...this.trace.map(({ waiting }) => waiting));
    const x = linear([-KEPT / 1000, 0], [box.left, box.right], 4);
    const y = linear([0, most * 1.1], [box.bottom, box.top], 3);
    const points = this.trace.map(({ at, waiting }) => `${x((at - this.now) / 1000)},${y(waiting)}`);
    const first = points[0]?.split(",")[0];
    const last = this.trace.at(-1);
    return canvas(width, height, { role: "img", "aria-label": `Compute waiting: ${ms(last?.waiting ?? 0)} now` },
      axes(box, { x, y, xTitle: "seconds from now", yTitle: "ms" }),
      points.length > 1 && svg("path", { class: "area", d: `M${first},${box.bottom}L${points.join("L")}V${box.bottom}Z` }) || null,
      svg("polyline", { class: "trace", points: points.join(" ") }),
      last && svg("circle", { class: "dot", cx: x(0), cy: y(last.waiting), r: 4.5 }));
  }

  tables(mine, stats) {
    const reduced = stats.reduced.filter((row) => row.model === this.model.name);
    const errors = Object.entries(stats.failed);
    byId("live-tables").replaceChildren(
      table("Latency by granted budget, ms", ["N × M", "answered", "as asked", "median", "95 %", "99 %", "of it queued", "computed"],
        mine.map((row) => [budget(row), row.answered, row.answered - row.reduced, figure(row.total_ms.p50), figure(row.total_ms.p95),
          figure(row.total_ms.p99), figure(row.queue_ms.p50), figure(row.compute_ms.p50)].map(String))),
      reduced.length ? table("Granted less than asked", ["asked", "granted", "why", "requests"],
        reduced.map((row) => [budget(row.asked), budget(row.granted), row.reason, String(row.count)])) : "",
      errors.length ? table("Errors", ["code", "requests"], errors.map(([code, count]) => [code, String(count)])) : "");
  }
}
