// What came back: the candidates, the action within its limits, where the time went, what was granted.

import { candidatePlot } from "./candidates.js";
import { chunkCharts } from "./chunk.js";
import { html, terms } from "./dom.js";
import { budget, figure, ms } from "./format.js";

const FAR = 5; // largest |z| of an observation that the training data knows, see ActReply.observation_z_max
const WHY = {
  deadline: "the deadline is too short for more",
  load: "too short a deadline behind what is queued",
  frontier: "there is time, but less was measured to do better",
};

/** Elements for the reply to `request`, `elapsed` ms after it was sent. */
export function replyView(model, request, reply, elapsed) {
  const { candidates, candidate_q: q, ...rest } = reply;
  const chosen = q.indexOf(Math.max(...q)); // ties go to the lowest, as in the service
  return [
    candidatePlot(candidates, q, chosen),
    html("div", { class: "answer" },
      html("div", {}, html("h3", {}, "Action"), (reply.action_horizon ? chunkCharts : actionTable)(model, reply.action)),
      html("div", {}, html("h3", {}, "Time"), time(reply.timing_ms, elapsed, request.deadline_ms), figures(request, reply))),
    html("details", {}, html("summary", {}, "Request and reply"),
      html("pre", { tabindex: 0, id: "request-json" }, JSON.stringify(request)), html("pre", { tabindex: 0, id: "reply-json" }, JSON.stringify(rest, null, 1))),
  ];
}

function actionTable(model, action) {
  const rows = action.map((value, i) => {
    const [low, high] = [model.action_low[i], model.action_high[i]];
    const place = Math.min(Math.max((value - low) / (high - low), 0), 1);
    return html("tr", {},
      html("th", { scope: "row" }, String(i + 1)),
      html("td", { class: "bar" }, html("span", { class: "track", title: `${low} to ${high}` }, html("i", { style: { left: `${place * 100}%` } }))),
      html("td", { class: "value" }, value.toFixed(4)));
  });
  return html("table", { id: "action", "aria-label": "The chosen action by dimension, in environment units" }, html("tbody", {}, rows));
}

function time({ queue, compute, total }, elapsed, deadline) {
  const parts = [["queue", queue], ["compute", compute], ["rest", Math.max(total - queue - compute, 0)]];
  const names = { queue: "queued", compute: "computed", rest: "the rest" };
  return html("div", {},
    html("div", { class: "spent", "aria-hidden": "true" }, parts.map(([name, value]) => html("i", { class: name, style: { flexGrow: value } }))),
    html("dl", { class: "sums" }, terms([
      ...parts.map(([name, value]) => [[html("span", { class: `key ${name}` }), names[name]], ms(value)]),
      ["in the server", `${ms(total)}${deadline ? ` of ${ms(deadline)}` : ""}`],
      ["seen from here", ms(elapsed)],
    ])));
}

function figures(request, reply) {
  const asked = reply.degraded ? `, asked ${budget(request)}` : "";
  const far = reply.observation_z_max > FAR;
  return html("dl", { class: "sums", id: "figures" }, terms([
    ["Q", `${figure(reply.q)} ± ${figure(reply.q_std)}`],
    ["granted", html("span", { id: "granted" }, `${budget(reply)}${asked}`)],
    ["why less", reply.degraded ? html("span", { id: "degraded" }, WHY[reply.degraded] ?? reply.degraded) : null],
    ["observation", html("span", { class: far ? "warn" : "" }, `largest |z| ${figure(reply.observation_z_max)}${far ? ", far from the training data" : ""}`)],
    ["seed", String(reply.seed)],
  ]));
}
