// The page: which policy is shown, and the polling that keeps it alive while someone looks.

import { getModels, getStats } from "./api.js";
import { showCard } from "./card.js";
import { byId, html } from "./dom.js";
import { Form } from "./form.js";
import { FrontierPlot } from "./frontier.js";
import { Live } from "./live.js";

const EVERY = 2000; // ms

const form = new Form();
const plot = new FrontierPlot((cell) => form.choose(cell));
const live = new Live();

let models = [];
let shown = null;
let stats = null;
let timer = null;

const measured = () => stats.budgets.filter((row) => row.model === shown.name);

function show(name) {
  shown = models.find((model) => model.name === name) ?? models[0];
  showCard(shown);
  form.show(shown, stats.costs_ms[shown.name]);
  plot.show(shown, stats.costs_ms[shown.name], measured());
  live.show(stats, shown);
}

async function load() {
  [models, stats] = await Promise.all([getModels(), getStats()]);
  byId("choice").hidden = models.length < 2;
  byId("model").replaceChildren(...models.map((model) => html("option", { value: model.name }, model.name)));
  show(shown?.name);
  byId("model").value = shown.name;
}

async function poll() {
  clearTimeout(timer);
  try {
    if (shown === null) {
      await load();
    } else {
      stats = await getStats();
      form.update(stats.costs_ms[shown.name]);
      plot.update(stats.costs_ms[shown.name], measured());
      live.show(stats, shown);
    }
    say(stats.state);
  } catch (error) {
    say("unreachable", error.message);
  }
  if (!document.hidden) timer = setTimeout(poll, EVERY);
}

function say(state, problem = "") {
  if (byId("state").textContent !== state) byId("state").textContent = state;
  byId("state-dot").className = { ready: "ready", failed: "failed", unreachable: "failed" }[state] ?? "";
  byId("unreachable").hidden = !problem;
  if (byId("unreachable").textContent !== problem) byId("unreachable").textContent = problem;
}

byId("model").addEventListener("change", () => show(byId("model").value));
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : poll()));
poll();
