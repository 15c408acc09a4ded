// Spread and evidence of the samples in colours over the planes of the first panel, one at a time.

import { legend } from "./legend.js";
import { fetchVolume } from "./panel.js";

const OPACITY = 0.6; // after switching on
// Orange: samples vary like training volumes; blue: they agree; index 0, below the range, has no colour. As in evaluation/visualization/evidence.py.
const EVIDENCE = { min: 0, max: 0, R: [230, 230, 200, 26], G: [97, 97, 200, 132], B: [1, 1, 200, 214], A: [0, 255, 255, 255], I: [0, 1, 128, 255] };

export const OVERLAYS = {
  spread: {
    label: "Spread", key: "O", title: "standard deviation of the samples in HU", colormap: "inferno",
    range: (image) => [0, Math.max(10, Math.ceil(image.robust_max / 10) * 10)],
    ends: (top) => ["0", `${top} HU`],
    read: (value) => `${Math.round(value)} HU`,
  },
  evidence: {
    label: "Evidence", key: "E", title: "how far the samples agree where patients differ, not checked against a truth", colormap: "xv-evidence",
    range: () => [-0.5, 100], // -1: nothing to determine
    ends: () => ["0 %: samples vary as in training", "100 %: agree, not checked"],
    read: (value) => (value < 0 ? "– (patients do not differ here)" : `${Math.round(value)} %`),
  },
};

export class Overlays {
  /** `urls` by name of `OVERLAYS`; a name without one has no overlay. */
  constructor(urls) {
    this.names = Object.keys(OVERLAYS).filter((name) => urls[name]);
    Object.assign(this, { urls, chosen: null, last: this.names[0], opacity: 0, images: {}, legends: {}, allowed: true });
  }

  /** Loads the files; throws if a request fails. */
  async load() {
    const images = await Promise.all(this.names.map((name) => fetchVolume(this.urls[name])));
    this.names.forEach((name, index) => { this.images[name] = images[index]; });
  }

  /** Adds the legends, hidden, to a panel whose planes will show the overlays. */
  attach(panel) {
    this.panel = panel;
    const { nv } = panel.tiles.axial;
    nv.addColormap("xv-evidence", EVIDENCE);
    for (const name of this.names) {
      const { label, colormap, range, ends } = OVERLAYS[name];
      const [low, top] = range(this.images[name]);
      Object.assign(this.images[name], { colormap, cal_min: low, cal_max: top });
      this.legends[name] = legend(nv.colormap(colormap), label, ends(top));
      this.legends[name].hidden = true;
      panel.stage.append(this.legends[name]);
    }
  }

  /** The overlay on the screen, or null. */
  get shown() { return this.allowed ? this.chosen : null; }

  /** Hides the chosen overlay while the panel shows a volume that was not generated, which it does not describe. */
  allow(allowed) {
    if (this.allowed === allowed) return;
    this.allowed = allowed;
    this.#draw();
  }

  /** Chooses one overlay; null or an opacity of 0 chooses none. Throws for an overlay that is not there. */
  set(name, opacity) {
    if (name !== null && !this.names.includes(name)) throw new Error(`no overlay "${name}"; choose of ${this.names.join(", ")}`);
    const on = name !== null && opacity > 0;
    Object.assign(this, { chosen: on ? name : null, opacity: on ? opacity : 0 });
    if (on) this.last = name;
    this.#draw();
  }

  #draw() {
    const { shown } = this;
    this.panel.planes.forEach((tile) => tile.setOverlay(shown && this.images[shown], this.opacity));
    for (const [key, element] of Object.entries(this.legends)) element.hidden = key !== shown;
  }

  /** The opacity that a press of the button or key of an overlay sets. */
  toggled(name) { return this.shown === name ? 0 : this.opacity || OPACITY; }

  /** `{name, text}` of the overlay under the crosshair; null without one. */
  get reading() {
    if (!this.shown) return null;
    const { label, read } = OVERLAYS[this.shown];
    const value = this.panel.valueOf(this.images[this.shown]);
    return { name: this.shown, text: Number.isFinite(value) ? `${label} ${read(value)}` : label };
  }
}
