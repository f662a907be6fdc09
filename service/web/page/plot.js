// Scales, axes and a frame that is drawn anew when its width changes, so that text keeps its size on a phone.

import { svg } from "./dom.js";

/** @returns x -> pixels, with `ticks`. */
export function linear([low, high], [from, to], count = 5) {
  const span = high - low || 1;
  const scale = (value) => from + ((value - low) / span) * (to - from);
  const step = niceStep(span / count);
  scale.ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) scale.ticks.push(Number((k * step).toPrecision(12)));
  return scale;
}

/** The same on a logarithmic axis; ticks are 1, 2, 3, 5 and 7 of a decade, fewer where those are many. */
export function logarithmic([low, high], [from, to], count = 7) {
  const span = Math.log(high / low) || 1;
  const scale = (value) => from + (Math.log(value / low) / span) * (to - from);
  const ticks = (mantissas) => {
    const found = [];
    for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high); decade++)
      for (const mantissa of mantissas) {
        const tick = Number((mantissa * 10 ** decade).toPrecision(3));
        if (tick >= low && tick <= high) found.push(tick);
      }
    return found;
  };
  scale.ticks = ticks([1, 2, 3, 5, 7]);
  if (scale.ticks.length > count) scale.ticks = ticks([1, 2, 5]);
  if (scale.ticks.length > count) scale.ticks = ticks([1]);
  return scale;
}

function niceStep(rough) {
  const decade = 10 ** Math.floor(Math.log10(rough));
  return decade * ([1, 2, 2.5, 5, 10].find((step) => step * decade >= rough * 0.999) ?? 10);
}

/** Grid, tick labels and a title with the unit for each axis, within `box` {left, right, top, bottom}. */
export function axes(box, { x, y, xTitle, yTitle, xText = String, yText = String }) {
  const vertical = (y?.ticks ?? []).map((tick) => [
    svg("line", { class: "grid", x1: box.left, x2: box.right, y1: y(tick), y2: y(tick) }),
    svg("text", { x: box.left - 8, y: y(tick) + 4, "text-anchor": "end" }, yText(tick)),
  ]);
  const horizontal = x.ticks.map((tick) => [
    svg("line", { class: "axis", x1: x(tick), x2: x(tick), y1: box.bottom, y2: box.bottom + 5 }),
    svg("text", { x: x(tick), y: box.bottom + 19, "text-anchor": "middle" }, xText(tick)),
  ]);
  return svg("g", { "aria-hidden": "true" }, vertical, horizontal,
    svg("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
    svg("text", { x: box.right, y: box.bottom + 38, "text-anchor": "end" }, xTitle),
    yTitle && svg("text", { x: box.left - 8, y: box.top - 14, "text-anchor": "start", dx: -30 }, yTitle));
}

/**
 * Calls draw(width) -> <svg> now, when the container's width changes, and by the function returned.
 */
export function frame(container, draw) {
  let width = 0;
  const redraw = () => { if (width > 0) container.replaceChildren(draw(width) ?? ""); };
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now !== width) { width = now; redraw(); }
  }).observe(container);
  return redraw;
}

export const canvas = (width, height, properties, ...children) =>
  svg("svg", { viewBox: `0 0 ${width} ${height}`, height, ...properties }, ...children);
