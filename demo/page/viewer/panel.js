// One volume: three planes and a 3D rendering with one crosshair, one zoom and one position.

import { NVImage } from "./niivue.js";
import { Solid } from "./solid.js";
import { PLANES, Tile } from "./tile.js";

export const LAYOUTS = ["multiplanar", ...Object.keys(PLANES), "render"];

const make = (tag, name, text = "") => Object.assign(document.createElement(tag), { className: name, textContent: text });

/** Returns a volume file as NVImage, with its kind detected by content. Throws if the request fails. */
export async function fetchVolume(url) {
  const answer = await fetch(url, { credentials: "same-origin" });
  if (!answer.ok) throw new Error(`the volume cannot be read (${answer.status})`);
  return NVImage.loadFromUrl({ url: await answer.arrayBuffer(), colormap: "gray", trustCalMinMax: false });
}

function valueAt(image, mm) {
  const voxel = image.mm2vox([...mm]);
  const inside = voxel.every((place, axis) => place >= 0 && place < image.dimsRAS[axis + 1]);
  return inside ? image.getValue(...voxel) : NaN;
}

export class Panel {
  constructor() {
    this.element = make("section", "xv-panel");
    this.title = make("p", "xv-name");
    this.stage = make("div", "xv-stage");
    this.tiles = Object.fromEntries(Object.keys(PLANES).map((plane) => [plane, new Tile(plane)]));
    this.solid = new Solid();
    this.stage.append(...[...this.planes, this.solid].map(({ element }) => element));
    this.element.append(this.title, this.stage);
    this.onMove = this.onMeasure = this.onRedraw = () => {};
  }

  /** The three planes. */
  get planes() { return Object.values(this.tiles); }

  /** The image of the volume shown; undefined before the panel is open. */
  get image() { return this.volume?.image; }

  /** `volume`: from `Sources`; `rangeOf(plane)`: the HU range `[low, high]` of a plane. */
  async open(volume, rangeOf) {
    const { image } = volume;
    this.#mark(volume); // before the first picture
    for (const tile of this.planes) await tile.open(image, rangeOf(tile.plane));
    await this.solid.open(image);
    this.volume = volume;
    for (const tile of this.planes) {
      tile.onMove = () => this.#moved(tile);
      tile.onMeasure = (...found) => this.onMeasure(...found);
      tile.onRedraw = () => this.onRedraw();
    }
    this.toMiddle();
  }

  /** Shows another volume on the same grid. */
  show(volume) {
    this.volume = volume;
    this.#mark(volume);
    for (const part of [...this.planes, this.solid]) part.show(volume.image);
  }

  /** Writes the title above and the label on every view. */
  #mark({ title, mark }) {
    this.title.textContent = title;
    this.title.hidden = !title;
    this.element.setAttribute("aria-label", title || "volume");
    for (const { element } of [...this.planes, this.solid]) {
      element.querySelector(".xv-synthetic")?.remove();
      if (mark) element.append(make("span", "xv-synthetic", mark));
    }
  }

  /** Moves the crosshair to the central voxel. */
  toMiddle() {
    const { nv } = this.tiles.axial;
    nv.scene.crosshairPos = [0.5, 0.5, 0.5];
    nv.moveCrosshairInVox(0, 0, 0); // to the voxel's centre
  }

  #moved(tile) {
    const { crosshairPos } = tile.nv.scene;
    for (const other of this.planes) {
      if (other !== tile) {
        other.nv.scene.crosshairPos = [...crosshairPos];
        other.nv.drawScene();
      }
      other.regions.draw();
      other.caption();
    }
    this.onMove(this);
  }

  /** RAS mm of the crosshair. */
  get mm() {
    const { nv } = this.tiles.axial;
    return Array.from(nv.frac2mm(nv.scene.crosshairPos).slice(0, 3));
  }

  /** Returns the HU at a point in mm; NaN outside. */
  valueAt(mm) { return valueAt(this.image, mm); }

  /** Returns the value of another image at the crosshair; NaN outside. */
  valueOf(image) { return valueAt(image, this.mm); }

  moveTo(mm) {
    this.tiles.axial.setCrosshairAt(mm);
    this.#moved(this.tiles.axial);
  }

  /** Moves the crosshair by whole voxels to the right, to the front and upwards. */
  step(right, front, up) { this.tiles.axial.nv.moveCrosshairInVox(right, front, up); }

  /** Slices of a plane, and the number of the one shown. */
  sliceOf(plane) {
    const { across } = PLANES[plane];
    return { count: this.image.dimsRAS[across + 1], index: this.image.mm2vox(this.mm)[across], across };
  }

  setLayout(layout) { this.stage.dataset.layout = layout; }

  setRendering(name, top) { this.solid.setRendering(name, top); }

  close() {
    for (const part of [...this.planes, this.solid]) part.close();
    this.element.remove();
  }
}
