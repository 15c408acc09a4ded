// Elliptical regions on a plane: drawn by dragging, with the mean and deviation of their HU.

const SVG = "http://www.w3.org/2000/svg";
const svg = (tag, attributes = {}) => {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};
const signed = (value) => `${value < 0 ? "−" : ""}${Math.abs(Math.round(value))}`;

export class Regions {
  /** `tile`: with the scene `nv` and the `plane` of its slices. */
  constructor(tile) {
    this.tile = tile;
    this.element = svg("svg", { class: "xv-regions", "aria-hidden": "true" });
    this.found = [];
  }

  /** Adds the region of a drag of NiiVue and returns its statistics, or null if it has no area. */
  add({ voxStart, voxEnd, fracStart, fracEnd }) {
    const { nv, image, across } = this.tile;
    if ([0, 1, 2].some((axis) => axis !== across && Math.abs(voxStart[axis] - voxEnd[axis]) < 1)) return null;
    const [startVox, endVox] = [voxStart, voxEnd].map((vox) => stored(vox, image));
    const { mean, stdev, nvox, area } = nv.getDescriptives({ layer: 0, roiIsMask: true, startVox, endVox });
    if (!(nvox > 1)) return null;
    const text = `${signed(mean)} ± ${Math.round(stdev)} HU, ${(area / 100).toFixed(1)} cm²`;
    const region = { mean, stdev, voxels: nvox, area, text, ends: [fracStart, fracEnd], place: fracStart[across] };
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

/** A voxel counted along R, A, S as NiiVue's statistics count it: in the order of the file. */
function stored(vox, { permRAS, dimsRAS }) {
  const place = [0, 0, 0];
  permRAS.forEach((axis, ras) => { place[Math.abs(axis) - 1] = axis < 0 ? dimsRAS[ras + 1] - 1 - vox[ras] : vox[ras]; });
  return place;
}
