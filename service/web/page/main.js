// The page: which policy is shown, and the polling that keeps it alive while someone looks.

import { getModels, getStats, Problem } from "./api.js";
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

const costs = () => stats.models[shown.name]?.cost_ms;

function show(name) {
  shown = models.find((model) => model.name === name) ?? models[0];
  showCard(shown);
  form.show(shown, costs());
  plot.show(shown, costs(), measured());
}

/** Other policies, or other versions of them, than /stats has just said? */
const outdated = () => {
  const served = Object.entries(stats.models);
  return served.length !== models.length || served.some(([name, { version }]) => models.find((model) => model.name === name)?.version !== version);
};

async function load() {
  models = await getModels();
  byId("choice").hidden = models.length < 2;
  byId("model").replaceChildren(...models.map((model) => html("option", { value: model.name }, model.name)));
  if (!models.some(({ version }) => version === shown?.version)) show(shown?.name); // else leave what is being typed alone
  byId("model").value = shown.name;
}

async function poll() {
  try {
    stats = await getStats();
    if (outdated()) await load();
    form.update(costs());
    plot.update(costs(), measured());
    live.show(stats, shown);
    say(stats.state);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    say("unreachable", error.message);
  } finally {
    clearTimeout(timer); // of another poll that ended while this one was under way
    if (!document.hidden) timer = setTimeout(poll, EVERY);
  }
}

function say(state, problem = "") {
  if (byId("state").textContent !== state) byId("state").textContent = state;
  byId("state-dot").className = { ready: "ready", failed: "failed", unreachable: "failed" }[state] ?? "";
  byId("unreachable").hidden = !problem;
  if (byId("unreachable").textContent !== problem) byId("unreachable").textContent = problem;
}

byId("model").addEventListener("change", () => { show(byId("model").value); poll(); });
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : poll()));
poll();
