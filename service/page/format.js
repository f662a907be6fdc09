// Numbers as people read them.

/** Three significant digits, no exponent. */
export const figure = (value) =>
  Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3, useGrouping: false });

export const ms = (value) => `${figure(value)} ms`;

export const percent = (share, digits = 0) => `${(share * 100).toFixed(digits)} %`;

/** N × M; what was left open is a dot. */
export const budget = ({ num_candidates: n, num_steps: m }) => `${n ?? "·"} × ${m ?? "·"}`;

/** "96 %, 95 % interval 87 to 99, 50 episodes" */
export const success = (cell) =>
  `${percent(cell.success)}, 95 % interval ${(cell.low * 100).toFixed(0)} to ${(cell.high * 100).toFixed(0)}, ${cell.episodes} episodes`;
