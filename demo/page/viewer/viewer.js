// Viewer of the demo and the reader study: volumes in radiological convention with NiiVue.

import { fetchVolume, LAYOUTS, Panel } from "./panel.js";
import { firstWindow, presetState, PRESETS, rangeOf, readHu } from "./presets.js";
import { RENDERINGS, renderingFits } from "./rendering.js";
import { keyActions, showHelp } from "./keys.js";
import { Toolbar } from "./toolbar.js";

const WIDTHS = [1, 6000];
const LEVELS = [-2000, 4000];
const CAN_DRAW = "This browser cannot show volumes because it lacks WebGL 2. Use the downloads instead.";
const make = (tag, name, text = "") => Object.assign(document.createElement(tag), { className: name, textContent: text });
const clamp = (value, [low, high]) => Math.min(high, Math.max(low, value));
const signed = (value) => `${value < 0 ? "−" : ""}${Math.abs(Math.round(value))}`;

function loadStyle() {
  const href = new URL("viewer.css", import.meta.url).href;
  if ([...document.styleSheets].some((sheet) => sheet.href === href)) return Promise.resolve();
  const link = Object.assign(document.createElement("link"), { rel: "stylesheet", href });
  return new Promise((ready) => {
    link.onload = link.onerror = ready;
    document.head.append(link);
  });
}

/**
 * Shows a volume in `root`, which sets the size of the viewer.
 *
 * options: `volumeUrl`; `truthUrl`, a second volume beside it; `overlayUrl`, an overlay of the first, named `overlayName`,
 * in HU from 0; `window`, the HU window `[low, high]` of the model; `mark`, a label on every view;
 * `banner`, a line above; `nominal`, whether its mm are those of a typical patient; `names` of the two volumes.
 *
 * Returns `setPreset(name)`, `setWindow(level, width)`, `setLayout(name)`, `crosshair() -> {mm, hu}` (RAS mm),
 * `moveTo(mm)`, `setOverlay(opacity)`, `state()`, `reset()` and `close()`. Throws without a file or WebGL 2, and leaves `root` empty.
 */
export async function mountViewer(root, options) {
  const viewer = new Viewer({
    truthUrl: null, overlayUrl: null, overlayName: "Spread", window: [-1000, 1000], banner: "", nominal: false,
    mark: "synthetic, not for diagnosis", names: ["Generated", "True CT"], ...options,
  });
  await loadStyle();
  root.append(viewer.element);
  try {
    await viewer.open();
  } catch (error) {
    viewer.close();
    throw error;
  }
  return viewer.handle;
}

class Viewer {
  constructor(options) {
    this.options = options;
    this.range = options.window.map(Number);
    this.element = make("div", "xv");
    this.panels = [new Panel({ name: options.truthUrl ? options.names[0] : "", mark: options.mark })];
    if (options.truthUrl) this.panels.push(new Panel({ name: options.names[1] }));
    this.overlaid = false;
    this.toolbar = new Toolbar(this);
    this.status = make("div", "xv-status");
    this.status.setAttribute("aria-live", "off");
    this.desk = make("div", "xv-desk");
    this.desk.tabIndex = 0;
    this.desk.setAttribute("role", "application");
    this.desk.setAttribute("aria-label", "CT volume. Arrow keys move the crosshair, the question mark lists all keys.");
    this.desk.append(...this.panels.map((panel) => panel.element));
    this.waiting = make("p", "xv-waiting", "Loading the volume …");
    this.desk.append(this.waiting);
    this.element.append(...(options.banner ? [make("p", "xv-banner", options.banner)] : []));
    this.element.append(this.toolbar.element, this.desk, this.status);
  }

  async open() {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error(CAN_DRAW);
    const { volumeUrl, truthUrl, overlayUrl } = this.options;
    const urls = [volumeUrl, truthUrl, overlayUrl].filter(Boolean);
    const images = await Promise.all(urls.map(fetchVolume));
    for (const panel of this.panels) {
      await panel.open(images.shift());
      panel.onMove = (moved) => this.#moved(moved);
    }
    if (overlayUrl) {
      const [spread] = images;
      this.overlayTop = Math.max(10, Math.ceil(spread.robust_max / 10) * 10);
      this.panels[0].overlay(spread, [0, this.overlayTop], 0);
    }
    this.waiting.remove();
    this.setLayout("multiplanar");
    this.setRendering(RENDERINGS.find((rendering) => renderingFits(rendering, this.range))?.name ?? "body");
    const { level, width } = firstWindow(this.range);
    this.setWindow(level, width);
    this.#listen();
    this.#moved(this.panels[0]);
    this.element.dataset.ready = "true";
  }

  setPreset(name) {
    const preset = PRESETS.find((one) => one.name === name);
    if (!preset) throw new Error(`no window "${name}"; choose ${PRESETS.map((one) => one.name).join(", ")}`);
    if (presetState(preset, this.range).enabled) this.setWindow(preset.level, preset.width);
  }

  setWindow(level, width) {
    this.level = clamp(Math.round(level), LEVELS);
    this.width = clamp(Math.round(width), WIDTHS);
    const [low, high] = rangeOf(this);
    this.panels.forEach((panel) => panel.setRange(low, high));
    this.toolbar.update();
  }

  setLayout(layout) {
    if (!LAYOUTS.includes(layout)) throw new Error(`no layout "${layout}"; choose ${LAYOUTS.join(", ")}`);
    this.layout = layout;
    this.panels.forEach((panel) => panel.setLayout(layout));
    this.toolbar.update();
  }

  setRendering(name) {
    this.rendering = name;
    this.panels.forEach((panel) => panel.setRendering(name, this.range[1]));
    this.toolbar.update();
  }

  setOverlay(opacity) {
    this.opacity = opacity;
    this.panels[0].setOverlayOpacity(opacity);
    this.toolbar.update();
    this.#read();
  }

  toggleOverlay() { if (this.options.overlayUrl) this.setOverlay(this.opacity > 0 ? 0 : 0.6); }

  /** Resets the view. */
  reset() {
    if (this.options.overlayUrl) this.setOverlay(0);
    const { level, width } = firstWindow(this.range);
    this.setWindow(level, width);
    this.setLayout("multiplanar");
    this.panels.forEach((panel) => panel.turnToFront());
    this.panels[0].toMiddle();
  }

  #moved(panel) {
    if (this.following) return;
    this.following = true; // no events from the panels that follow
    for (const other of this.panels) if (other !== panel && other.planes) other.moveTo(panel.mm);
    this.following = false;
    this.#read();
  }

  /** Writes the position of the crosshair and its HU. */
  #read() {
    const [panel, truth] = this.panels;
    const { mm } = panel;
    const place = [["R", "L"], ["A", "P"], ["S", "I"]].map(([more, less], axis) => (
      `${mm[axis] < 0 ? less : more} ${Math.abs(mm[axis]).toFixed(0)}`
    ));
    const parts = [["xv-place", `${place.join("   ")} mm${this.options.nominal ? " (nominal)" : ""}`]];
    parts.push(["xv-hu", `${readHu(panel.valueAt(mm), this.range)} HU`]);
    if (truth) parts.push(["xv-truth", `${this.options.names[1]} ${signed(truth.valueAt(mm))} HU`]);
    if (this.opacity > 0) parts.push(["xv-spread", `${this.options.overlayName} ${signed(panel.valueAt(mm, 1))} HU`]);
    this.status.replaceChildren(...parts.map(([name, text]) => make("span", name, text)));
  }

  #listen() {
    this.desk.addEventListener("keydown", (event) => {
      event.stopPropagation(); // NiiVue has keys of its own
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const action = keyActions(event, this.layout);
      if (!action) return;
      event.preventDefault();
      action(this);
    }, true);
    this.desk.addEventListener("keyup", (event) => event.stopPropagation(), true);
    this.desk.addEventListener("contextmenu", (event) => event.preventDefault());
    // a drag with the right button sets width (horizontal) and level (vertical)
    this.desk.addEventListener("pointerdown", (event) => {
      this.desk.focus({ preventScroll: true });
      if (event.button !== 2) return;
      event.stopPropagation();
      this.drag = { x: event.clientX, y: event.clientY, level: this.level, width: this.width };
      this.desk.setPointerCapture(event.pointerId);
    }, true);
    this.desk.addEventListener("pointermove", ({ clientX, clientY }) => {
      if (!this.drag) return;
      const each = Math.max(1, this.drag.width / 300);
      this.setWindow(this.drag.level + (clientY - this.drag.y) * each, this.drag.width + (clientX - this.drag.x) * each);
    });
    for (const end of ["pointerup", "pointercancel"]) this.desk.addEventListener(end, () => { this.drag = null; });
  }

  help() { showHelp(this.element); }

  get handle() {
    return {
      setPreset: (name) => this.setPreset(name),
      setWindow: (level, width) => this.setWindow(level, width),
      setLayout: (name) => this.setLayout(name),
      setOverlay: (opacity) => this.setOverlay(opacity),
      reset: () => this.reset(),
      moveTo: (mm) => this.panels[0].moveTo(mm),
      crosshair: () => ({ mm: this.panels[0].mm, hu: this.panels[0].valueAt(this.panels[0].mm) }),
      state: () => ({ level: this.level, width: this.width, layout: this.layout, rendering: this.rendering }),
      close: () => this.close(),
    };
  }

  close() {
    this.panels.forEach((panel) => panel.close());
    this.element.remove();
  }
}
