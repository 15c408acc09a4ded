// Viewer of the demo and the reader study: volumes in radiological convention with NiiVue.

import { listen } from "./interaction.js";
import { Overlays } from "./overlays.js";
import { LAYOUTS, Panel } from "./panel.js";
import { firstWindow, presetState, PRESETS, rangeOf } from "./presets.js";
import { Readout } from "./readout.js";
import { RENDERINGS, renderingFits } from "./rendering.js";
import { SLABS } from "./slab.js";
import { Sources } from "./sources.js";
import { PLANES } from "./tile.js";
import { Toolbar } from "./toolbar.js";
import { toolNamed, TOOLS } from "./tools.js";
import { Volumes } from "./volumes.js";

const WIDTHS = [1, 6000];
const LEVELS = [-2000, 4000];
const FRAME_MS = 90; // of the cine loop
const CAN_DRAW = "This browser cannot show volumes because it lacks WebGL 2. Use the downloads instead.";
const make = (tag, name, text = "") => Object.assign(document.createElement(tag), { className: name, textContent: text });
const clamp = (value, [low, high]) => Math.min(high, Math.max(low, value));

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
 * options: `volumeUrl`; `samples`, URLs of the samples of which it is the mean; `truthUrl`, a volume shown beside it;
 * `overlays`, URLs of overlays of the first by name (`overlays.js`); `window`, the HU window `[low, high]` of the model; `mark`, a label on every view of a generated volume; `banner`, a line above; `nominal`, whether its mm are
 * those of a typical patient; `names` of volume and truth; `onMove(mm)`, called after each move of the crosshair.
 *
 * Returns `setPreset(name)`, `setWindow(level, width)`, `setLayout(name)`, `setTool(name)`, `setSlab(kind, mm)`,
 * `setVolume(index)`, `setCompared(index or null)`, `setOverlay(name or null, opacity)`, `crosshair() -> {mm, hu}` (RAS mm),
 * `moveTo(mm)`, `state()`, `focus()`, `reset()` and `close()`. Throws without a file or WebGL 2, and leaves `root` empty; later, a
 * volume that cannot be read leaves the one that is shown, and a message says so.
 */
export async function mountViewer(root, options) {
  const viewer = new Viewer({
    samples: [], truthUrl: null, overlays: {}, window: [-1000, 1000], banner: "", nominal: false,
    mark: "synthetic, not for diagnosis", names: ["Generated", "True CT"], onMove: () => {}, ...options,
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
    this.sources = new Sources(options);
    this.overlays = new Overlays(options.overlays);
    this.panels = [new Panel()];
    this.volumes = new Volumes(this);
    Object.assign(this, { plane: "axial", separate: false, crosshairOn: true, closed: false });
    Object.assign(this, { tool: "crosshair", slab: { kind: "slice", mm: 10 }, layout: "multiplanar", playing: null });
    const { level, width } = firstWindow(this.range);
    this.windows = Object.fromEntries(Object.keys(PLANES).map((plane) => [plane, { level, width }]));
    this.element = make("div", "xv");
    this.toolbar = new Toolbar(this);
    this.readout = new Readout(options, this.range);
    this.desk = make("div", "xv-desk");
    this.desk.tabIndex = 0;
    this.desk.setAttribute("role", "application");
    this.desk.setAttribute("aria-label", "CT volume. Arrow keys move the crosshair, the question mark lists all keys.");
    this.waiting = make("p", "xv-waiting", "Loading the volume …");
    this.desk.append(this.panels[0].element, this.waiting);
    this.element.append(...(options.banner ? [make("p", "xv-banner", options.banner)] : []));
    this.element.append(this.toolbar.element, this.desk, this.readout.element);
  }

  async open() {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error(CAN_DRAW);
    const { truth } = this.sources;
    const [volume] = await Promise.all([this.sources.load(0), this.overlays.load(), truth && this.sources.load(truth)]);
    this.rendering = RENDERINGS.find((rendering) => renderingFits(rendering, this.range))?.name ?? "body";
    await this.openPanel(this.panels[0], volume);
    this.overlays.attach(this.panels[0]);
    this.waiting.remove();
    if (truth) await this.setCompared(truth);
    listen(this);
    this.panels[0].toMiddle();
    this.volumesChanged();
    this.element.dataset.ready = "true";
  }

  /** Opens a volume in a panel with the settings of the viewer. */
  async openPanel(panel, volume) {
    await panel.open(volume, (plane) => rangeOf(this.windows[plane]));
    panel.onMove = () => this.#moved(panel);
    panel.onMeasure = (kind, text) => this.readout.measure(kind, text, panel);
    panel.onRedraw = () => this.readout.withdraw(panel, "Region");
    panel.setLayout(this.layout);
    panel.setRendering(this.rendering, this.range[1]);
    for (const tile of panel.planes) {
      tile.setTool(this.tool);
      tile.setCrosshair(this.crosshairOn);
      tile.setSlab(this.slab);
      tile.setView(this.panels[0].tiles[tile.plane].view);
      this.#applyWindow(tile);
    }
  }

  /** Updates what depends on the volumes that the panels show. */
  volumesChanged() {
    this.overlays.allow(this.panels[0].volume.generated);
    this.toolbar.update();
    this.#read();
  }

  /** Shows another volume in the first panel. */
  setVolume(index) {
    const { count } = this.sources;
    return this.volumes.choose(0, (index + count) % count);
  }

  nextVolume(step) { return this.setVolume(this.volumes.wanted[0] + step); }

  /** Shows a volume beside the first, with the same crosshair, zoom and windows; null closes it. */
  setCompared(index) { return this.volumes.choose(1, index); }

  setPreset(name) {
    const preset = PRESETS.find((one) => one.name === name);
    if (!preset) throw new Error(`no window "${name}"; choose ${PRESETS.map((one) => one.name).join(", ")}`);
    if (presetState(preset, this.range).enabled) this.setWindow(preset.level, preset.width);
  }

  /** Window of the chosen view if each view has its own, else of all. */
  get window() { return this.windows[this.plane]; }

  setWindow(level, width) {
    const window = { level: clamp(Math.round(level), LEVELS), width: clamp(Math.round(width), WIDTHS) };
    for (const plane of this.separate ? [this.plane] : Object.keys(PLANES)) this.windows[plane] = window;
    this.#applyWindows();
  }

  /** Whether each view has a window of its own. */
  setSeparate(separate) {
    this.separate = separate;
    this.setWindow(this.window.level, this.window.width);
  }

  #applyWindows() {
    this.#tiles((tile) => this.#applyWindow(tile));
    this.toolbar.update();
  }

  #applyWindow(tile) {
    const { level, width } = this.windows[tile.plane];
    tile.setRange(...rangeOf({ level, width }));
    tile.caption(this.separate ? `W ${width}  L ${level}` : "");
  }

  /** Chooses the plane that cine, zoom and a window of its own refer to. */
  choosePlane(plane) {
    this.plane = plane;
    this.toolbar.update();
  }

  setLayout(layout) {
    if (!LAYOUTS.includes(layout)) throw new Error(`no layout "${layout}"; choose ${LAYOUTS.join(", ")}`);
    this.layout = layout;
    this.panels.forEach((panel) => panel.setLayout(layout));
    if (layout in PLANES) this.plane = layout;
    this.toolbar.update();
    requestAnimationFrame(() => this.#tiles((tile) => tile.regions.draw())); // the canvases have changed size
  }

  setRendering(name) {
    this.rendering = name;
    this.panels.forEach((panel) => panel.setRendering(name, this.range[1]));
    this.toolbar.update();
  }

  setTool(name) {
    if (!toolNamed(name)) throw new Error(`no tool "${name}"; choose ${TOOLS.map((tool) => tool.name).join(", ")}`);
    this.tool = name;
    this.#tiles((tile) => tile.setTool(name));
    this.toolbar.update();
  }

  /** `kind`: slice, maximum, mean or minimum; `mm`: thickness. */
  setSlab(kind, mm) {
    if (!(kind in SLABS)) throw new Error(`no slab "${kind}"; choose ${Object.keys(SLABS).join(", ")}`);
    this.slab = { kind, mm: clamp(mm || 1, [1, 1000]) };
    this.#tiles((tile) => { tile.setSlab(this.slab); tile.caption(); });
    this.toolbar.update();
  }

  setCrosshair(on) {
    this.crosshairOn = on;
    this.#tiles((tile) => tile.setCrosshair(on));
    this.toolbar.update();
  }

  zoom(factor) {
    const tile = this.panels[0].tiles[this.plane];
    tile.zoom(factor);
    this.linkView(tile);
  }

  /** Gives zoom and position of a tile to all others. */
  linkView(tile) {
    const { view } = tile;
    if (this.view?.every((part, index) => part === view[index])) return;
    this.view = view;
    this.#tiles((other) => (other === tile ? other.regions.draw() : other.setView(view)));
  }

  fit() {
    this.view = [0, 0, 0, 1];
    this.#tiles((tile) => tile.setView(this.view));
  }

  clearMeasures() {
    this.#tiles((tile) => tile.clearMeasures());
    this.readout.clear();
  }

  #tiles(action) { for (const panel of this.panels) if (panel.image) panel.planes.forEach(action); }

  /** `name`: spread or evidence, null for none. */
  setOverlay(name, opacity) {
    this.overlays.set(name, opacity);
    this.toolbar.update();
    this.#read();
  }

  toggleOverlay(name) {
    const { names, allowed } = this.overlays;
    if (allowed && names.includes(name)) this.setOverlay(name, this.overlays.toggled(name));
  }

  /** Starts or stops running through the slices of the chosen plane. */
  play(on) {
    clearInterval(this.playing);
    this.playing = on ? setInterval(() => this.#next(), FRAME_MS) : null;
    this.toolbar.update();
  }

  #next() {
    const { count, index, across } = this.panels[0].sliceOf(this.plane);
    const step = [0, 0, 0];
    step[across] = index + 1 < count ? 1 : 1 - count;
    this.panels[0].step(...step);
  }

  /** Fills the screen; where the browser cannot, the page. */
  toggleFull() {
    if (document.fullscreenElement) document.exitFullscreen();
    else if (this.element.requestFullscreen) this.element.requestFullscreen().catch(() => this.element.classList.toggle("xv-full"));
    else this.element.classList.toggle("xv-full");
  }

  /** Resets the view. */
  reset() {
    this.setOverlay(null, 0);
    this.play(false);
    this.separate = false;
    const { level, width } = firstWindow(this.range);
    this.setWindow(level, width);
    this.setLayout("multiplanar");
    this.setSlab("slice", 10);
    this.setTool("crosshair");
    this.setCrosshair(true);
    this.clearMeasures();
    this.fit();
    this.panels.forEach((panel) => panel.solid.turnToFront());
    this.panels[0].toMiddle();
  }

  #moved(panel) {
    if (this.following) return;
    this.following = true; // no events from the panels that follow
    for (const other of this.panels) if (other !== panel && other.image) other.moveTo(panel.mm);
    this.following = false;
    this.#read();
    this.options.onMove(panel.mm);
  }

  #read() {
    const [panel, other] = this.panels;
    this.readout.read(panel, other ?? null, this.overlays.reading);
  }

  get handle() {
    const [first] = this.panels;
    const passed = ["setPreset", "setWindow", "setSeparate", "setLayout", "setTool", "setSlab", "setVolume", "setCompared",
      "setOverlay", "setCrosshair", "zoom", "play", "reset", "close"];
    return {
      ...Object.fromEntries(passed.map((name) => [name, (...given) => this[name](...given)])),
      moveTo: (mm) => first.moveTo(mm),
      crosshair: () => ({ mm: first.mm, hu: first.valueAt(first.mm) }),
      focus: () => this.desk.focus(),
      state: () => {
        const { layout, rendering, tool, slab, separate, plane, crosshairOn, playing, window } = this;
        const [shown, compared] = [0, 1].map((number) => this.volumes.shown(number));
        const view = first.tiles[plane].view;
        return { ...window, layout, rendering, tool, slab, separate, plane, shown, compared, crosshairOn, playing: Boolean(playing), view };
      },
    };
  }

  close() {
    this.closed = true;
    clearInterval(this.playing);
    this.panels.forEach((panel) => panel.close());
    this.element.remove();
  }
}
