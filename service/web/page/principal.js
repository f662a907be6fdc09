// Principal components, by Jacobi's method: exact, and the same picture for the same candidates.

/**
 * @param rows n vectors of d numbers.
 * @returns {mean, axes, shares}: (d,), d unit vectors by descending variance, and their shares of it.
 */
export function principalComponents(rows) {
  const d = rows[0].length;
  const mean = Array.from({ length: d }, (_, j) => rows.reduce((sum, row) => sum + row[j], 0) / rows.length);
  const covariance = Array.from({ length: d }, (_, i) =>
    Array.from({ length: d }, (_, j) => rows.reduce((sum, row) => sum + (row[i] - mean[i]) * (row[j] - mean[j]), 0) / rows.length));
  const vectors = Array.from({ length: d }, (_, i) => Array.from({ length: d }, (_, j) => Number(i === j)));
  for (let sweep = 0; sweep < 30; sweep++)
    for (let p = 0; p < d; p++) for (let q = p + 1; q < d; q++) rotate(covariance, vectors, p, q);
  const variances = covariance.map((row, i) => Math.max(row[i], 0));
  const total = variances.reduce((sum, value) => sum + value, 0) || 1;
  const order = variances.map((_, i) => i).sort((a, b) => variances[b] - variances[a]);
  return { mean, axes: order.map((i) => upright(vectors.map((row) => row[i]))), shares: order.map((i) => variances[i] / total) };
}

/** One Jacobi rotation: a[p][q] becomes zero, and `vectors` stays a basis in which `a` is what it was. */
function rotate(a, vectors, p, q) {
  if (Math.abs(a[p][q]) < 1e-15) return;
  const theta = (a[q][q] - a[p][p]) / (2 * a[p][q]);
  const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.hypot(theta, 1));
  const c = 1 / Math.hypot(t, 1);
  const s = t * c;
  const turn = (row, i, j) => { [row[i], row[j]] = [c * row[i] - s * row[j], s * row[i] + c * row[j]]; };
  for (const row of a) turn(row, p, q);
  for (let k = 0; k < a.length; k++) [a[p][k], a[q][k]] = [c * a[p][k] - s * a[q][k], s * a[p][k] + c * a[q][k]];
  for (const row of vectors) turn(row, p, q);
}

/** The sign of a component is arbitrary: its largest entry is positive here. */
function upright(vector) {
  const largest = vector.reduce((most, value) => (Math.abs(value) > Math.abs(most) ? value : most), 0);
  return largest < 0 ? vector.map((value) => -value) : vector;
}
