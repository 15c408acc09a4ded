// Toolbar of the viewer: volumes, window, layout, tools, slab, 3D rendering, overlay.

import { button, choice, group, number, press } from "./controls.js";
import { showHelp } from "./keys.js";
import { OVERLAYS } from "./overlays.js";
import { PRESETS, presetState } from "./presets.js";
import { RENDERINGS, renderingFits } from "./rendering.js";
import { SLABS } from "./slab.js";
import { TOOLS } from "./tools.js";

const LAYOUT_NAMES = { multiplanar: "All", axial: "Axial", coronal: "Coronal", sagittal: "Sagittal", render: "3D" };
const ZOOM = 1.25; // of a button

export class Toolbar {
  constructor(viewer) {
    this.viewer = viewer;
    this.element = document.createElement("div");
    this.element.className = "xv-toolbar";
    this.element.setAttribute("role", "toolbar");
    this.element.setAttribute("aria-label", "Viewer");
    this.element.append(
      ...(viewer.sources.count > 1 ? [this.#volumes()] : []),
      this.#windows(),
      this.#views(),
      this.#tools(),
      this.#zoom(),
      this.#slabs(),
      this.#renderings(),
      ...(viewer.overlays.names.length ? [this.#overlay()] : []),
      group("",
        button("Reset", () => viewer.reset(), { title: "reset the view (R)" }),
        button("?", () => showHelp(viewer.element), { title: "keys of the viewer (?)" }),
      ),
    );
  }

  #volumes() {
    const { viewer } = this;
    const entries = viewer.sources.list.map(({ name }, index) => [index, name]);
    this.shown = choice("volume", entries, (value) => viewer.setVolume(Number(value)));
    this.compared = choice("volume beside it", [["", "alone"], ...entries], (value) => viewer.setCompared(value === "" ? null : Number(value)));
    return group("Volume",
      button("‹", () => viewer.nextVolume(-1), { title: "previous volume (P)", ariaLabel: "previous volume" }),
      this.shown,
      button("›", () => viewer.nextVolume(1), { title: "next volume (N)", ariaLabel: "next volume" }),
      Object.assign(document.createElement("span"), { className: "xv-beside", textContent: "beside" }),
      this.compared,
    );
  }

  #windows() {
    const { viewer } = this;
    this.presets = PRESETS.map((preset) => {
      const { enabled, title } = presetState(preset, viewer.range);
      return button(preset.label, () => viewer.setPreset(preset.name), { title, disabled: !enabled }, preset);
    });
    this.width = number("W", "window width in HU", () => viewer.setWindow(viewer.window.level, Number(this.width.input.value)));
    this.level = number("L", "window level in HU", () => viewer.setWindow(Number(this.level.input.value), viewer.window.width));
    this.separate = button("Each view", () => viewer.setSeparate(!viewer.separate), { title: "a window for each view: that of the view touched last" });
    return group("Window", ...this.presets, this.width.element, this.level.element, this.separate);
  }

  #views() {
    const { viewer } = this;
    this.layouts = Object.entries(LAYOUT_NAMES).map(([name, label]) => (
      button(label, () => viewer.setLayout(name), { title: `view: ${label}; a double click does the same` }, { name })
    ));
    this.full = button("Full screen", () => viewer.toggleFull(), { title: "full screen on or off (F)" });
    return group("View", ...this.layouts, this.full);
  }

  #tools() {
    const { viewer } = this;
    this.tools = TOOLS.map(({ name, label, title }) => button(label, () => viewer.setTool(name), { title }, { name }));
    const clear = button("Clear", () => viewer.clearMeasures(), { title: "remove distances and regions" });
    return group("Drag", ...this.tools, clear);
  }

  #zoom() {
    const { viewer } = this;
    this.lines = button("Lines", () => viewer.setCrosshair(!viewer.crosshairOn), { title: "lines of the crosshair on or off (X)" });
    return group("Zoom",
      button("−", () => viewer.zoom(1 / ZOOM), { title: "smaller (-)", ariaLabel: "smaller" }),
      button("+", () => viewer.zoom(ZOOM), { title: "larger (+)", ariaLabel: "larger" }),
      button("Fit", () => viewer.fit(), { title: "the whole slice" }),
      this.lines,
    );
  }

  #slabs() {
    const { viewer } = this;
    this.kind = choice("projection of neighbouring slices", Object.entries(SLABS), (kind) => viewer.setSlab(kind, viewer.slab.mm));
    this.thick = number("mm", "slab thickness in mm", () => viewer.setSlab(viewer.slab.kind, Number(this.thick.input.value)), { min: 1, step: 5 });
    this.cine = button("Cine", () => viewer.play(!viewer.playing), { title: "run through the slices of the view touched last (space)" });
    return group("Slab", this.kind, this.thick.element, this.cine);
  }

  #renderings() {
    const { viewer } = this;
    this.renderings = RENDERINGS.map(({ name, label, hu }) => {
      const fits = renderingFits({ hu }, viewer.range);
      const title = fits ? `3D: ${label.toLowerCase()}` : `3D: ${label.toLowerCase()}; outside the model's HU window`;
      return button(label, () => viewer.setRendering(name), { title, disabled: !fits }, { name });
    });
    return group("3D", ...this.renderings);
  }

  #overlay() {
    const { viewer } = this;
    this.overlays = viewer.overlays.names.map((name) => {
      return button(OVERLAYS[name].label, () => viewer.toggleOverlay(name), {}, { name });
    });
    this.opacity = Object.assign(document.createElement("input"), {
      type: "range", min: 0, max: 1, step: 0.05, ariaLabel: "opacity of the overlay",
    });
    this.opacity.oninput = () => viewer.setOverlay(viewer.overlays.last, Number(this.opacity.value));
    return group("Overlay", ...this.overlays, this.opacity);
  }

  /** Updates the controls from the state of the viewer. */
  update() {
    const { viewer } = this;
    const { level, width } = viewer.window;
    for (const one of this.presets) press(one, Number(one.dataset.level) === level && Number(one.dataset.width) === width);
    for (const [buttons, chosen] of [[this.layouts, viewer.layout], [this.renderings, viewer.rendering], [this.tools, viewer.tool]]) {
      for (const one of buttons) press(one, one.dataset.name === chosen);
    }
    press(this.separate, viewer.separate);
    press(this.lines, viewer.crosshairOn);
    press(this.cine, Boolean(viewer.playing));
    press(this.full, Boolean(document.fullscreenElement) || viewer.element?.classList.contains("xv-full"));
    this.width.input.value = width;
    this.level.input.value = level;
    this.kind.value = viewer.slab.kind;
    this.thick.input.value = viewer.slab.mm;
    this.thick.input.disabled = viewer.slab.kind === "slice";
    if (this.shown) {
      const [first, beside] = viewer.volumes.wanted;
      this.shown.value = first;
      this.compared.value = beside ?? "";
    }
    if (!this.overlays) return;
    const { allowed, shown, opacity } = viewer.overlays;
    for (const one of this.overlays) {
      const { title, key } = OVERLAYS[one.dataset.name];
      press(one, one.dataset.name === shown);
      Object.assign(one, { disabled: !allowed, title: allowed ? `${title} (${key})` : `${title}; not of a true CT` });
    }
    Object.assign(this.opacity, { disabled: !allowed, value: opacity });
  }
}
