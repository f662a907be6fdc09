// The form: an observation and a budget in, one POST /act out.

import { act, Problem, useKey } from "./api.js";
import { byId, html } from "./dom.js";
import { ms } from "./format.js";
import { predicted } from "./frontier.js";
import { replyView } from "./reply.js";
import { Slider } from "./slider.js";

const DEADLINES = [null, 1, 2, 3, 5, 7.5, 10, 15, 20, 25, 33.3, 50, 66.7, 100, 200, 500, 1000]; // control periods, ms
const SEVERAL = 16; // up to here every number of steps is on the slider

export class Form {
  constructor() {
    const changed = () => this.predict();
    this.sliders = {
      num_candidates: new Slider("num_candidates", (n) => (n === null ? "the server chooses" : String(n)), changed),
      num_steps: new Slider("num_steps", (m) => (m === null ? "the server chooses" : String(m)), changed),
      deadline_ms: new Slider("deadline_ms", (limit) => (limit === null ? "none" : ms(limit)), changed),
    };
    this.sliders.deadline_ms.offer(DEADLINES, null);
    byId("random").addEventListener("click", () => this.fill((mean, std) => mean + std * gaussian()));
    byId("mean").addEventListener("click", () => this.fill((mean) => mean));
    byId("zeros").addEventListener("click", () => this.fill(() => 0));
    byId("reseed").addEventListener("click", () => { byId("seed").value = Math.floor(Math.random() * 2 ** 32); });
    byId("form").addEventListener("submit", (event) => { event.preventDefault(); this.send(); });
  }

  show(model, cost) {
    this.model = model;
    const { num_candidates: n, num_steps: m } = model.default_budget;
    const most = Math.min(model.max_candidates, model.max_returned_candidates);
    const measured = (name) => model.frontier.map((cell) => cell[name]);
    this.sliders.num_candidates.offer([null, ...stops(most, [n, ...measured("num_candidates")])], n);
    const all = model.max_steps <= SEVERAL ? Array.from({ length: model.max_steps }, (_, i) => i + 1) : [];
    this.sliders.num_steps.offer([null, ...stops(model.max_steps, [m, ...all, ...measured("num_steps")])], m);
    byId("observation-size").textContent = `${model.obs_dim} numbers`;
    byId("reply").replaceChildren(html("p", { class: "empty" }, "The candidates the policy draws appear here, with the one it chooses."));
    this.complain(null);
    this.fill((mean) => mean);
    this.update(cost);
  }

  update(cost) {
    this.cost = cost;
    this.predict();
  }

  choose(cell) {
    this.sliders.num_candidates.value = cell.num_candidates;
    this.sliders.num_steps.value = cell.num_steps;
    this.predict();
  }

  predict() {
    const { num_candidates: n, num_steps: m } = this.budget();
    const cost = n && m ? predicted(this.cost, n, m) : null;
    byId("prediction").textContent = cost === null ? "The budget is the server's to choose." : `${ms(cost)} of compute predicted.`;
  }

  fill(value) {
    const { observation_mean: mean, observation_std: std } = this.model;
    byId("observation").value = `[${mean.map((center, i) => Number(value(center, std[i]).toFixed(4))).join(", ")}]`;
  }

  budget() {
    return Object.fromEntries(Object.entries(this.sliders).map(([name, slider]) => [name, slider.value]).filter(([, value]) => value !== null));
  }

  request() {
    let given;
    try {
      given = JSON.parse(byId("observation").value);
    } catch (error) {
      throw new Problem(0, { detail: `observation: expected JSON; ${error.message}`, code: "invalid_request", field: "observation" });
    }
    const { observation, ...recorded } = Array.isArray(given) ? { observation: given } : given ?? {};
    if (Array.isArray(observation?.[0]))
      throw new Problem(0, { detail: "observation: expected one row of numbers on this page", code: "invalid_request", field: "observation" });
    const late = this.sliders.deadline_ms.value === null ? {} : { on_late: byId("on_late").value };
    // What is in a recorded request wins over the form.
    return { observation, model: this.model.name, seed: byId("seed").value.trim(), ...this.budget(), ...late, ...recorded, return_candidates: true };
  }

  async send() {
    const button = byId("send");
    if (button.getAttribute("aria-busy") === "true") return;
    const { model } = this;
    button.setAttribute("aria-busy", "true");
    this.complain(null);
    useKey(byId("key").value || null);
    try {
      const request = this.request();
      const sent = performance.now();
      const reply = await act(request);
      if (model === this.model) byId("reply").replaceChildren(...replyView(model, request, reply, performance.now() - sent));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.complain(error);
    } finally {
      button.removeAttribute("aria-busy");
    }
  }

  /** Say what is wrong, at the field where there is one. */
  complain(problem) {
    for (const marked of byId("form").querySelectorAll("[aria-invalid]")) marked.removeAttribute("aria-invalid");
    byId("problem").replaceChildren();
    if (!problem) return;
    const asksForKey = problem.status === 401;
    if (asksForKey) byId("key-field").hidden = false;
    const field = asksForKey ? byId("key") : byId(problem.field ?? "");
    if (byId("form").contains(field)) {
      field.setAttribute("aria-invalid", "true");
      field.focus();
    }
    const name = field?.labels?.[0]?.textContent ?? problem.field;
    byId("problem").append(html("strong", {}, name ? `${name}. ` : ""), `${problem.message} `, html("code", {}, problem.code));
  }
}

/** Powers of two and what else is given, up to and with `most`. */
function stops(most, others) {
  const found = new Set([most, ...others.filter((value) => value <= most)]);
  for (let power = 1; power < most; power *= 2) found.add(power);
  return [...found].sort((a, b) => a - b);
}

/** A standard normal number, by Box and Muller, within 3 of zero: an observation that is likely. */
function gaussian() {
  const value = Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  return Math.min(Math.max(value, -3), 3);
}
