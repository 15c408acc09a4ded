// One plane of a volume in radiological convention: a NiiVue scene of its own, so it has its own window and slab.

import { Niivue, SLICE_TYPE, DRAG_MODE } from "./niivue.js";
import { Regions } from "./regions.js";
import { slab, slicesOf, thickness } from "./slab.js";
import { toolNamed, touchAsMouse } from "./tools.js";

export const PLANES = { // across: axis R, A or S of the slices
  axial: { type: SLICE_TYPE.AXIAL, label: "Axial", marks: ["R", "L", "A", "P"], across: 2 },
  coronal: { type: SLICE_TYPE.CORONAL, label: "Coronal", marks: ["R", "L", "S", "I"], across: 1 },
  sagittal: { type: SLICE_TYPE.SAGITTAL, label: "Sagittal", marks: ["A", "P", "S", "I"], across: 0 },
};
const SIDES = ["left", "right", "top", "bottom"];
const ZOOMS = [0.5, 12];
const CROSSHAIR_MM = 0.8;

export const OPTIONS = {
  isRadiologicalConvention: true, // NiiVue's default is neurological
  sagittalNoseLeft: true,
  isOrientationTextVisible: false, // the page has its own marks as text
  backColor: [0, 0, 0, 1],
  crosshairColor: [0.36, 0.82, 0.86, 0.75],
  crosshairWidth: CROSSHAIR_MM,
  crosshairWidthUnit: "mm",
  crosshairGap: 9,
  dragAndDropEnabled: false,
  dragMode: DRAG_MODE.none,
  dragModePrimary: DRAG_MODE.crosshair,
  clipPlaneHotKey: "", cycleClipPlaneHotKey: "", viewModeHotKey: "", // the viewer has its own keys
  measureLineColor: [1, 0.79, 0.3, 1],
  measureTextColor: [1, 0.79, 0.3, 1],
  rulerColor: [1, 0.79, 0.3, 1],
  rulerWidth: 2,
  selectionBoxColor: [1, 0.79, 0.3, 1],
  loadingText: "",
  isAntiAlias: true,
  logLevel: "error",
};

const make = (tag, name, text = "") => Object.assign(document.createElement(tag), { className: name, textContent: text });

/** The element of a view with its canvas, label and marks of orientation. */
export function frame(key, label, marks = []) {
  const element = make("div", `xv-tile xv-tile-${key}`);
  const holder = make("div", "xv-canvas");
  const canvas = make("canvas", "");
  canvas.tabIndex = -1; // the desk handles keys
  canvas.setAttribute("aria-hidden", "true");
  holder.append(canvas);
  element.append(holder, make("span", "xv-label", label), make("span", "xv-slice"), make("span", "xv-own"));
  marks.forEach((letter, index) => element.append(make("span", `xv-mark xv-${SIDES[index]}`, letter)));
  return { element, canvas };
}

export class Tile {
  constructor(plane) {
    Object.assign(this, PLANES[plane], { plane, tool: "crosshair", slab: { kind: "slice", mm: 0 }, own: "" });
    Object.assign(this, frame(plane, this.label, this.marks));
    this.regions = new Regions(this);
    this.element.append(this.regions.element);
    this.onMove = () => {};
    this.onMeasure = () => {};
    this.onRedraw = () => {}; // other voxels, so regions are gone
    touchAsMouse(this.element, this.canvas, (factor) => this.zoom(factor));
  }

  async open(image, [low, high]) {
    this.nv = new Niivue({ ...OPTIONS, sliceType: this.type });
    await this.nv.attachToCanvas(this.canvas, true);
    this.canvas.tabIndex = -1;
    this.nv.setSliceType(this.type);
    this.image = image.clone();
    Object.assign(this.image, { colormap: "gray", cal_min: low, cal_max: high });
    this.source = image;
    this.nv.addVolume(this.image);
    this.nv.onLocationChange = () => this.onMove(this);
    this.nv.onDragRelease = (drag) => {
      const region = this.tool === "region" && this.regions.add(drag);
      if (region) this.onMeasure("Region", region.text);
    };
    this.nv.onMeasurementCompleted = ({ distance }) => this.onMeasure("Distance", `${distance.toFixed(1)} mm`);
  }

  /** Shows another volume on the same grid. */
  show(image) {
    this.source = image;
    this.#draw();
  }

  /** `kind`: a key of `SLABS`; `mm`: its thickness. */
  setSlab({ kind, mm }) {
    const before = this.slab;
    this.slab = { kind, mm };
    if (kind !== before.kind || (kind !== "slice" && mm !== before.mm)) this.#draw();
  }

  #draw() {
    const { kind, mm } = this.slab;
    const { dims } = this.source.hdr;
    const axis = Math.abs(this.image.permRAS[this.across]) - 1; // in the order of the file
    const count = slicesOf(mm, this.#spacing);
    this.image.img = slab(this.source.img, dims.slice(1, 4), axis, count, kind);
    this.nv.updateGLVolume();
    this.regions.clear();
    this.onRedraw();
  }

  /** mm between slices. */
  get #spacing() { return this.image.pixDimsRAS[this.across + 1]; }

  setRange(low, high) {
    if (this.image.cal_min === low && this.image.cal_max === high) return;
    Object.assign(this.image, { cal_min: low, cal_max: high });
    this.nv.updateGLVolume();
  }

  setTool(name) {
    this.tool = name;
    this.nv.opts.dragModePrimary = toolNamed(name).mode;
  }

  setCrosshair(on) { this.nv.setCrosshairWidth(on ? CROSSHAIR_MM : 0); }

  /** Zooms around the crosshair. */
  zoom(factor) {
    const [x, y, z, before] = this.nv.scene.pan2Dxyzmm;
    const after = Math.min(ZOOMS[1], Math.max(ZOOMS[0], before * factor));
    const mm = this.nv.frac2mm(this.nv.scene.crosshairPos);
    this.setView([x, y, z].map((place, axis) => place + (before - after) * mm[axis]).concat(after));
  }

  /** Position in mm and zoom. */
  get view() { return Array.from(this.nv.scene.pan2Dxyzmm); }

  setView(view) {
    this.nv.setPan2Dxyzmm([...view]);
    this.regions.draw();
  }

  setCrosshairAt(mm) {
    this.nv.scene.crosshairPos = this.nv.mm2frac([...mm]).map((part) => Math.min(1, Math.max(0, part)));
    this.nv.drawScene();
    this.regions.draw();
  }

  /** Writes the number of the slice, its slab and, if given, the window of this tile alone. */
  caption(window = this.own) {
    this.own = window;
    const place = this.image.mm2vox(Array.from(this.nv.frac2mm(this.nv.scene.crosshairPos).slice(0, 3)));
    const count = this.image.dimsRAS[this.across + 1];
    const { kind, mm } = this.slab;
    this.element.querySelector(".xv-slice").textContent = `${place[this.across] + 1} / ${count}`;
    const thick = kind === "slice" ? "" : `${kind}, ${thickness(slicesOf(mm, this.#spacing), count, this.#spacing)}`;
    this.element.querySelector(".xv-own").textContent = [thick, window].filter(Boolean).join("\n");
  }

  /** Overlays a second volume in its colours; null removes it. */
  setOverlay(image, opacity) {
    const [, own] = this.nv.volumes;
    if (own && image === this.overlaid) return this.nv.setOpacity(1, opacity);
    if (own) this.nv.removeVolume(own);
    this.overlaid = image;
    if (!image) return;
    const { colormap, cal_min, cal_max } = image;
    this.nv.addVolume(Object.assign(image.clone(), { colormap, cal_min, cal_max, opacity }));
  }

  clearMeasures() {
    this.nv.clearMeasurements();
    this.regions.clear();
  }

  close() {
    this.nv?.cleanup();
    this.nv?.gl?.getExtension("WEBGL_lose_context")?.loseContext();
  }
}
