// Numbers as people read them.

/** Three significant digits, no exponent. */
export const figure = (value) =>
  Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3, useGrouping: false });

export const ms = (value) => `${figure(value)}\u00a0ms`;

export const percent = (share, digits = 0) => `${(share * 100).toFixed(digits)}\u00a0%`;

/** N × M; what was left open is a dot. */
export const budget = ({ num_candidates: n, num_steps: m }) => `${n ?? "·"} × ${m ?? "·"}`;

/** "87.0 to 99.1" */
export const interval = (cell, digits = 0) => `${(cell.low * 100).toFixed(digits)} to ${(cell.high * 100).toFixed(digits)}`;

/** "96 %, 95 % interval 87 to 99, 50 episodes" */
export const success = (cell) => `${percent(cell.success)}, 95\u00a0% interval ${interval(cell)}, ${cell.episodes} episodes`;
