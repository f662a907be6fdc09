// Who is served: the policy's card.

import { byId, grouped, html, terms } from "./dom.js";
import { budget, figure, interval } from "./format.js";

/** Fill the card with one entry of /models. */
export function showCard(model) {
  byId("name").textContent = model.name;
  byId("task").textContent = model.provenance.environment || "a policy of unknown task";
  document.title = `${model.name} · SORL Serve`;
  const limits = [...new Set(model.action_low.map((low, i) => `${figure(low)} to ${figure(model.action_high[i])}`))];
  byId("card").replaceChildren(
    html("div", { class: "card" },
      headline(model.headline),
      html("dl", { class: "facts" }, grouped([
        ["Observation", [`${model.obs_dim} numbers`, ...model.observation_keys.map((key) => `${key.name} ${key.size}`)].join(", ")],
        ["Action", `${model.action_horizon > 1 ? `${model.action_horizon} in a row, each ` : ""}${model.action_dim} numbers${limits.length === 1 ? `, ${limits[0]}` : ""}`],
        ["Control rate", `${figure(model.control_hz)} Hz, ${figure(1000 / model.control_hz)} ms`],
        ["Default budget", budget(model.default_budget)],
        ["Most allowed", budget({ num_candidates: model.max_candidates, num_steps: model.max_steps })],
        ["Engine", model.engine],
        ["Version", html("code", { title: model.version }, model.version.slice(0, 12))],
      ]))),
    html("details", {}, html("summary", {}, "Where it comes from"), html("dl", {}, provenance(model))));
}

function headline(cell) {
  if (!cell) return html("div", {}, html("p", { class: "figure" }, "–"), html("p", { class: "hint" }, "success has not been measured"));
  const place = (share) => `${share * 100}%`;
  return html("div", {},
    html("p", { class: "figure", id: "headline" }, (cell.success * 100).toFixed(1), html("small", {}, "%")),
    html("div", { class: "interval", "aria-hidden": "true" },
      html("i", { style: { left: place(cell.low), width: place(cell.high - cell.low) } }),
      html("b", { style: { left: place(cell.success) } })),
    html("p", { class: "hint" },
      `success over ${cell.episodes} episodes at ${budget(cell)}, 95\u00a0% interval ${interval(cell, 1)}`));
}

function provenance(model) {
  const { environment, updates, seed, code_revision: revision, dataset_sha256: dataset, notes, config } = model.provenance;
  const settings = Object.entries(config).map(([name, value]) => `${name} ${JSON.stringify(value)}`).join(", ");
  return terms([
    ["Task", environment],
    ["Updates", updates ? `${updates.toLocaleString("en")}, seed ${seed}` : ""],
    ["Observations", `normaliser ${model.normaliser}`],
    ["Code", revision],
    ["Data, sha256", dataset && html("code", {}, dataset)],
    ["File, sha256", html("code", {}, model.version)],
    ["Notes", notes],
    ["Settings", settings],
  ]);
}
