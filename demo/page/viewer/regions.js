// Elliptical regions on a plane: drawn by dragging, with the mean and deviation of their HU.

import { scanned, signed } from "./hu.js";

const SVG = "http://www.w3.org/2000/svg";
const svg = (tag, attributes = {}) => {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

/**
 * Returns `{mean, stdev, count, missing}` of the voxels in the ellipse between two corners, without those `missing` from the scan.
 *
 * valueAt: HU of a voxel `[x, y, z]`, NaN outside the volume; start, end: voxels of the corners; across: 0 to 2, the axis of the slices.
 */
export function statistics(valueAt, start, end, across) {
  const axes = [0, 1, 2].filter((axis) => axis !== across);
  const [low, high] = [Math.min, Math.max].map((pick) => axes.map((axis) => pick(start[axis], end[axis])));
  const share = (place, index) => (2 * place - low[index] - high[index]) / (high[index] - low[index]); // −1 to 1
  const voxel = [...start];
  let [count, missing, mean, squares] = [0, 0, 0, 0];
  for (let j = low[1]; j <= high[1]; j++) {
    for (let i = low[0]; i <= high[0]; i++) {
      if (share(i, 0) ** 2 + share(j, 1) ** 2 > 1) continue;
      [voxel[axes[0]], voxel[axes[1]]] = [i, j];
      const value = valueAt(voxel);
      if (Number.isNaN(value)) continue;
      if (!scanned(value)) {
        missing += 1;
        continue;
      }
      count += 1;
      const before = value - mean; // Welford's algorithm
      mean += before / count;
      squares += before * (value - mean);
    }
  }
  return { mean, stdev: Math.sqrt(squares / (count - 1)), count, missing };
}

/** The text of a region of `area` mm². */
export function regionText({ mean, stdev, count, missing }, area) {
  const size = `${(area / 100).toFixed(1)} cm²`;
  if (count < 2) return `not scanned, ${size}`;
  return `${signed(mean)} ± ${Math.round(stdev)} HU, ${size}${missing ? ", partly not scanned" : ""}`;
}

export class Regions {
  /** `tile`: with the scene `nv` and the `plane` of its slices. */
  constructor(tile) {
    this.tile = tile;
    this.element = svg("svg", { class: "xv-regions", "aria-hidden": "true" });
    this.found = [];
  }

  /** Adds the region of a drag of NiiVue and returns its statistics, or null if it has no area. */
  add({ voxStart, voxEnd, fracStart, fracEnd }) {
    const { image, across } = this.tile;
    const axes = [0, 1, 2].filter((axis) => axis !== across);
    const radii = axes.map((axis) => Math.abs(voxStart[axis] - voxEnd[axis]) / 2);
    if (radii.some((radius) => radius < 0.5)) return null;
    const inside = (voxel) => voxel.every((place, axis) => place >= 0 && place < image.dimsRAS[axis + 1]);
    const found = statistics((voxel) => (inside(voxel) ? image.getValue(...voxel) : NaN), voxStart, voxEnd, across);
    if (found.count + found.missing < 2) return null;
    const area = axes.reduce((product, axis, index) => product * radii[index] * image.pixDimsRAS[axis + 1], Math.PI);
    const region = { ...found, area, text: regionText(found, area), ends: [fracStart, fracEnd], place: fracStart[across] };
    this.found.push(region);
    this.draw();
    return region;
  }

  clear() {
    this.found = [];
    this.draw();
  }

  /** Draws the regions of the slice shown. */
  draw() {
    const { nv, type, across } = this.tile;
    const shown = this.found.filter(({ place }) => Math.abs(place - nv.scene.crosshairPos[across]) < 1e-3);
    this.element.replaceChildren(...shown.flatMap(({ ends, text }) => {
      const [from, to] = ends.map((frac) => nv.frac2canvasPosWithTile(frac, type)?.pos);
      if (!from || !to) return [];
      const [x0, y0, x1, y1] = [...from, ...to].map((place) => place / nv.uiData.dpr);
      const [cx, cy, rx, ry] = [(x0 + x1) / 2, (y0 + y1) / 2, Math.abs(x1 - x0) / 2, Math.abs(y1 - y0) / 2];
      const label = svg("text", { x: cx, y: cy + ry + 13, "text-anchor": "middle" });
      label.textContent = text;
      return [svg("ellipse", { cx, cy, rx, ry }), label];
    }));
  }
}
