// Thick slices: the maximum, mean or minimum over neighbouring slices.

import { NOT_SCANNED_HU, scanned } from "./hu.js";

export const SLABS = { slice: "Slice", maximum: "Maximum", mean: "Mean", minimum: "Minimum" };
const PICK = { maximum: [Math.max, -Infinity], minimum: [Math.min, Infinity] };

/** Number of slices of a slab of `mm`, at least one. */
export const slicesOf = (mm, spacing) => Math.max(1, Math.round(mm / spacing));

/** Thickness in mm of `count` slices of a volume of `length` slices, as text. */
export const thickness = (count, length, spacing) => `${Number((Math.min(count, length) * spacing).toFixed(1))} mm`;

/**
 * Returns, for each voxel, the maximum, mean or minimum of the `count` voxels around it along an axis, fewer at the ends.
 * Voxels that were not scanned are left out.
 *
 * values: typed array in HU, the first axis fastest; dims: its size `[nx, ny, nz]`; axis: 0 to 2; kind: a key of `SLABS`.
 */
export function slab(values, dims, axis, count, kind) {
  if (kind === "slice" || count <= 1) return values;
  const result = new values.constructor(values.length);
  const steps = [1, dims[0], dims[0] * dims[1]];
  const [stride, length] = [steps[axis], dims[axis]];
  const [first, second] = [0, 1, 2].filter((other) => other !== axis);
  const line = new Float64Array(length);
  const over = kind === "mean" ? meanOver : extremeOver(...PICK[kind]);
  for (let j = 0; j < dims[second]; j++) {
    for (let i = 0; i < dims[first]; i++) {
      const start = i * steps[first] + j * steps[second];
      for (let k = 0; k < length; k++) line[k] = values[start + k * stride];
      over(line, count, (k, value) => { result[start + k * stride] = Number.isFinite(value) ? value : NOT_SCANNED_HU; });
    }
  }
  return result;
}

/** The window of `count` places around `k`, cut at the ends. */
function ends(k, count, length) {
  const low = k - Math.floor((count - 1) / 2);
  return [Math.max(0, low), Math.min(length - 1, low + count - 1)];
}

/** Means of the scanned places of windows; NaN without any. */
function meanOver(line, count, put) {
  const sums = new Float64Array(line.length + 1);
  const numbers = new Uint32Array(line.length + 1); // of scanned places
  for (let k = 0; k < line.length; k++) {
    const counts = scanned(line[k]);
    sums[k + 1] = sums[k] + (counts ? line[k] : 0);
    numbers[k + 1] = numbers[k] + (counts ? 1 : 0);
  }
  for (let k = 0; k < line.length; k++) {
    const [low, high] = ends(k, count, line.length);
    put(k, (sums[high + 1] - sums[low]) / (numbers[high + 1] - numbers[low]));
  }
}

/** Extremes of windows of 2^level places; two of them cover any window. Without a scanned place `none`. */
function extremeOver(pick, none) {
  return (line, count, put) => {
    const levels = [line.map((value) => (scanned(value) ? value : none))];
    for (let half = 1; 2 * half <= Math.min(count, line.length); half *= 2) {
      const last = levels.at(-1);
      levels.push(last.map((value, k) => pick(value, last[Math.min(k + half, line.length - 1)])));
    }
    for (let k = 0; k < line.length; k++) {
      const [low, high] = ends(k, count, line.length);
      const level = Math.floor(Math.log2(high + 1 - low));
      put(k, pick(levels[level][low], levels[level][high + 1 - 2 ** level]));
    }
  };
}
