// Toolbar of the viewer: window, layout, 3D rendering, overlay.

import { PRESETS, presetState } from "./presets.js";
import { RENDERINGS, renderingFits } from "./rendering.js";

const LAYOUT_NAMES = { multiplanar: "All", axial: "Axial", coronal: "Coronal", sagittal: "Sagittal", render: "3D" };

export class Toolbar {
  constructor(viewer) {
    this.viewer = viewer;
    this.element = document.createElement("div");
    this.element.className = "xv-toolbar";
    this.element.setAttribute("role", "toolbar");
    this.element.setAttribute("aria-label", "Viewer");
    this.presets = PRESETS.map((preset) => {
      const { enabled, title } = presetState(preset, viewer.range);
      return button(preset.label, () => viewer.setPreset(preset.name), { title, disabled: !enabled }, preset);
    });
    this.width = number("W", "window width in HU", () => viewer.setWindow(viewer.level, Number(this.width.input.value)));
    this.level = number("L", "window level in HU", () => viewer.setWindow(Number(this.level.input.value), viewer.width));
    this.layouts = Object.entries(LAYOUT_NAMES).map(([name, label]) => (
      button(label, () => viewer.setLayout(name), { title: `view: ${label}` }, { name })
    ));
    this.renderings = RENDERINGS.map(({ name, label, hu }) => {
      const fits = renderingFits({ hu }, viewer.range);
      const title = fits ? `3D: ${label.toLowerCase()}` : `3D: ${label.toLowerCase()}; outside the model's HU window`;
      return button(label, () => viewer.setRendering(name), { title, disabled: !fits }, { name });
    });
    this.element.append(
      group("Window", ...this.presets, this.width.element, this.level.element),
      group("View", ...this.layouts),
      group("3D", ...this.renderings),
    );
    if (viewer.options.overlayUrl) this.element.append(this.#overlay());
    this.element.append(group("",
      button("Reset", () => viewer.reset(), { title: "reset the view (R)" }),
      button("?", () => viewer.help(), { title: "keys of the viewer (?)" }),
    ));
  }

  #overlay() {
    const { viewer } = this;
    const name = viewer.options.overlayName;
    this.overlay = button(name, () => viewer.toggleOverlay(), { title: `${name} of the samples in HU (O)` });
    this.scale = Object.assign(document.createElement("span"), { className: "xv-scale" });
    this.opacity = Object.assign(document.createElement("input"), {
      type: "range", min: 0, max: 1, step: 0.05, ariaLabel: `opacity of ${name}`,
    });
    this.opacity.oninput = () => viewer.setOverlay(Number(this.opacity.value));
    return group("Overlay", this.overlay, this.opacity, this.scale);
  }

  /** Updates the controls from the state of the viewer. */
  update() {
    const { level, width, layout, rendering, opacity } = this.viewer;
    for (const one of this.presets) press(one, Number(one.dataset.level) === level && Number(one.dataset.width) === width);
    for (const one of this.layouts) press(one, one.dataset.name === layout);
    for (const one of this.renderings) press(one, one.dataset.name === rendering);
    this.width.input.value = width;
    this.level.input.value = level;
    if (!this.overlay) return;
    press(this.overlay, opacity > 0);
    this.opacity.value = opacity ?? 0;
    this.scale.textContent = `0 – ${this.viewer.overlayTop ?? ""} HU`;
  }
}

const press = (one, pressed) => one.setAttribute("aria-pressed", String(pressed));

function button(text, onclick, properties = {}, data = {}) {
  const element = Object.assign(document.createElement("button"), { type: "button", textContent: text, onclick, ...properties });
  for (const [key, value] of Object.entries(data)) element.dataset[key] = value;
  return element;
}

function number(text, title, onchange) {
  const element = Object.assign(document.createElement("label"), { className: "xv-number", title });
  const input = Object.assign(document.createElement("input"), { type: "number", step: 10, ariaLabel: title, onchange });
  element.append(text, input);
  return { element, input };
}

function group(name, ...parts) {
  const element = document.createElement("div");
  element.className = "xv-group";
  element.setAttribute("role", "group");
  if (name) {
    element.setAttribute("aria-label", name);
    element.append(Object.assign(document.createElement("span"), { className: "xv-group-name", textContent: name }));
  }
  element.append(...parts);
  return element;
}
