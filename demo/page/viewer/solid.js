// The 3D rendering of a volume.

import { Niivue, SLICE_TYPE } from "./niivue.js";
import { addTables, RENDERINGS } from "./rendering.js";
import { frame, OPTIONS } from "./tile.js";

const FRONT = { azimuth: 180, elevation: 8 }; // frontal view

export class Solid {
  constructor() { Object.assign(this, frame("render", "3D")); }

  async open(image) {
    this.nv = new Niivue({ ...OPTIONS, sliceType: SLICE_TYPE.RENDER, show3Dcrosshair: false, crosshairWidth: 0 });
    await this.nv.attachToCanvas(this.canvas, true);
    this.canvas.tabIndex = -1;
    addTables(this.nv);
    this.image = image.clone();
    this.nv.addVolume(this.image);
    await this.nv.setVolumeRenderIllumination(0.55);
    this.turnToFront();
  }

  show(image) {
    this.image.img = image.img;
    this.nv.updateGLVolume();
  }

  setRendering(name, top) {
    const { hu } = RENDERINGS.find((rendering) => rendering.name === name);
    this.image.colormap = `xv-${name}`; // first, because NiiVue then sets its own range
    Object.assign(this.image, { cal_min: hu[0], cal_max: Math.min(hu[1], top) });
    this.nv.updateGLVolume();
  }

  turn(azimuth, elevation) {
    const { renderAzimuth, renderElevation } = this.nv.scene;
    this.nv.setRenderAzimuthElevation(renderAzimuth + azimuth, renderElevation + elevation);
  }

  turnToFront() { this.nv.setRenderAzimuthElevation(FRONT.azimuth, FRONT.elevation); }

  close() {
    this.nv?.cleanup();
    this.nv?.gl?.getExtension("WEBGL_lose_context")?.loseContext();
  }
}
