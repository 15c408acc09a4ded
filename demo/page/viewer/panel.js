// One volume: three planes and a 3D rendering in radiological convention, with orientation marks.

import { Niivue, NVImage, SLICE_TYPE, DRAG_MODE } from "./niivue.js";
import { addTables, RENDERINGS } from "./rendering.js";

export const PLANES = {
  axial: { type: SLICE_TYPE.AXIAL, label: "Axial", marks: ["R", "L", "A", "P"], across: 2 },
  coronal: { type: SLICE_TYPE.CORONAL, label: "Coronal", marks: ["R", "L", "S", "I"], across: 1 },
  sagittal: { type: SLICE_TYPE.SAGITTAL, label: "Sagittal", marks: ["A", "P", "S", "I"], across: 0 },
};
export const LAYOUTS = ["multiplanar", "axial", "coronal", "sagittal", "render"];
const SIDES = ["left", "right", "top", "bottom"];
const QUARTERS = { axial: [0, 0], coronal: [0.5, 0], sagittal: [0, 0.5] }; // the rendering has the last
const FRONT = { azimuth: 180, elevation: 8 }; // frontal view

const OPTIONS = {
  isRadiologicalConvention: true, // NiiVue's default is neurological
  sagittalNoseLeft: true,
  isOrientationTextVisible: false, // the page has its own marks as text
  backColor: [0, 0, 0, 1],
  crosshairColor: [0.36, 0.82, 0.86, 0.75],
  crosshairWidth: 0.8,
  crosshairWidthUnit: "mm",
  crosshairGap: 9,
  dragAndDropEnabled: false,
  dragMode: DRAG_MODE.none,
  dragModePrimary: DRAG_MODE.crosshair,
  clipPlaneHotKey: "", cycleClipPlaneHotKey: "", viewModeHotKey: "", // the viewer has its own keys
  loadingText: "",
  isAntiAlias: true,
  logLevel: "error",
};

const make = (tag, name, text = "") => Object.assign(document.createElement(tag), { className: name, textContent: text });

/** Returns a volume file as NVImage, with its kind detected by content. Throws if the request fails. */
export async function fetchVolume(url) {
  const answer = await fetch(url, { credentials: "same-origin" });
  if (!answer.ok) throw new Error(`the volume cannot be read (${answer.status})`);
  return NVImage.loadFromUrl({ url: await answer.arrayBuffer(), colormap: "gray", trustCalMinMax: false });
}

export class Panel {
  /** `name`: title above the volume; `mark`: label on every view. */
  constructor({ name = "", mark = "" }) {
    this.element = make("section", "xv-panel");
    this.element.setAttribute("aria-label", name || "volume");
    this.stage = make("div", "xv-stage");
    this.canvas = make("canvas", "xv-planes");
    const planes = make("div", "xv-canvas");
    planes.append(this.canvas);
    this.renderCanvas = make("canvas", "xv-render");
    const render = make("div", "xv-canvas xv-canvas-render");
    render.append(this.renderCanvas);
    this.stage.append(planes, render);
    this.tiles = {};
    for (const [plane, { label, marks }] of Object.entries(PLANES)) this.#tile(plane, label, marks, mark);
    this.#tile("render", "3D", [], mark);
    this.element.append(...(name ? [make("h3", "xv-name", name)] : []), this.stage);
    this.onMove = () => {};
  }

  #tile(key, label, marks, mark) {
    const tile = make("div", `xv-tile xv-tile-${key}`);
    tile.append(make("span", "xv-label", label), make("span", "xv-slice"));
    marks.forEach((letter, index) => tile.append(make("span", `xv-mark xv-${SIDES[index]}`, letter)));
    if (mark) tile.append(make("span", "xv-synthetic", mark));
    this.tiles[key] = tile;
    this.stage.append(tile);
  }

  async open(image) {
    this.planes = new Niivue({ ...OPTIONS });
    this.render = new Niivue({ ...OPTIONS, sliceType: SLICE_TYPE.RENDER, show3Dcrosshair: false, crosshairWidth: 0 });
    for (const [viewer, canvas] of [[this.planes, this.canvas], [this.render, this.renderCanvas]]) {
      await viewer.attachToCanvas(canvas, true);
      canvas.tabIndex = -1; // the stage handles keys
      addTables(viewer);
    }
    this.planes.onLocationChange = () => this.#moved();
    this.solid = image.clone();
    this.planes.addVolume(image);
    this.render.addVolume(this.solid);
    await this.render.setVolumeRenderIllumination(0.55);
    this.turnToFront();
    this.toMiddle();
    this.setLayout("multiplanar");
  }

  /** Moves the crosshair to the central voxel. */
  toMiddle() {
    this.planes.scene.crosshairPos = [0.5, 0.5, 0.5];
    this.planes.moveCrosshairInVox(0, 0, 0); // to the voxel's centre
  }

  get image() { return this.planes.volumes[0]; }

  #moved() {
    const { dimsRAS } = this.image;
    const voxel = this.image.mm2vox([...this.mm]);
    for (const [plane, { across }] of Object.entries(PLANES)) {
      this.tiles[plane].querySelector(".xv-slice").textContent = `${voxel[across] + 1} / ${dimsRAS[across + 1]}`;
    }
    this.onMove(this);
  }

  /** RAS mm of the crosshair. */
  get mm() { return Array.from(this.planes.frac2mm(this.planes.scene.crosshairPos).slice(0, 3)); }

  /** Returns the value of layer `index` at a point in mm; NaN outside. */
  valueAt(mm, index = 0) {
    const layer = this.planes.volumes[index];
    if (!layer) return NaN;
    const voxel = layer.mm2vox([...mm]);
    const inside = voxel.every((place, axis) => place >= 0 && place < layer.dimsRAS[axis + 1]);
    return inside ? layer.getValue(...voxel) : NaN;
  }

  moveTo(mm) {
    this.planes.scene.crosshairPos = this.planes.mm2frac([...mm]).map((part) => Math.min(1, Math.max(0, part)));
    this.planes.drawScene();
    this.#moved();
  }

  /** Moves the crosshair by whole voxels to the right, to the front and upwards. */
  step(right, front, up) { this.planes.moveCrosshairInVox(right, front, up); }

  setRange(low, high) {
    Object.assign(this.image, { cal_min: low, cal_max: high });
    this.planes.updateGLVolume();
  }

  setLayout(layout) {
    this.stage.dataset.layout = layout;
    if (layout === "multiplanar") {
      const tiles = Object.entries(QUARTERS).map(([plane, [left, top]]) => (
        { sliceType: PLANES[plane].type, position: [left, top, 0.5, 0.5] }
      ));
      this.planes.setCustomLayout(tiles);
    } else if (layout in PLANES) {
      this.planes.setCustomLayout([{ sliceType: PLANES[layout].type, position: [0, 0, 1, 1] }]);
    }
    // the canvases have changed size
    requestAnimationFrame(() => { this.planes.resizeListener(); this.render.resizeListener(); });
  }

  setRendering(name, top) {
    const { hu } = RENDERINGS.find((rendering) => rendering.name === name);
    this.solid.colormap = `xv-${name}`; // first, because NiiVue then sets its own range
    Object.assign(this.solid, { cal_min: hu[0], cal_max: Math.min(hu[1], top) });
    this.render.updateGLVolume();
  }

  turn(azimuth, elevation) {
    const { renderAzimuth, renderElevation } = this.render.scene;
    this.render.setRenderAzimuthElevation(renderAzimuth + azimuth, renderElevation + elevation);
  }

  turnToFront() { this.render.setRenderAzimuthElevation(FRONT.azimuth, FRONT.elevation); }

  /** Overlays a second volume on the planes. */
  overlay(image, [low, high], opacity) {
    image.colormap = "inferno";
    Object.assign(image, { cal_min: low, cal_max: high, opacity });
    this.planes.addVolume(image);
  }

  setOverlayOpacity(opacity) { if (this.planes.volumes.length > 1) this.planes.setOpacity(1, opacity); }

  close() {
    for (const viewer of [this.planes, this.render]) {
      viewer?.cleanup();
      viewer?.gl?.getExtension("WEBGL_lose_context")?.loseContext();
    }
    this.element.remove();
  }
}
