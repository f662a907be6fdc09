// A range input over given values, of which null is "left out".

import { byId } from "./dom.js";

export class Slider {
  constructor(id, text, changed) {
    this.input = byId(id);
    this.output = this.input.parentElement.querySelector("output");
    this.text = text;
    this.input.addEventListener("input", () => { this.say(); changed(); });
  }

  offer(values, value) {
    this.values = values;
    Object.assign(this.input, { min: 0, max: values.length - 1, step: 1 });
    this.value = value;
  }

  get value() {
    return this.values[this.input.valueAsNumber];
  }

  set value(value) {
    const at = this.values.indexOf(value);
    if (at < 0) return;
    this.input.value = at;
    this.say();
  }

  say() {
    const text = this.text(this.value);
    this.output.textContent = text;
    this.input.setAttribute("aria-valuetext", text);
  }
}
