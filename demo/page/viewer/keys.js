// Keys of the viewer and their help dialog.

import { PRESETS } from "./presets.js";

const STEPS = { // voxels to the patient's right, front, top; the left of the image is the patient's right
  ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1],
  PageUp: [0, 1, 0], PageDown: [0, -1, 0],
};
const TURNS = { ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, 10], ArrowDown: [0, -10] };
const LAYOUT_KEYS = { m: "multiplanar", a: "axial", c: "coronal", s: "sagittal", v: "render" };
const FAST = 5; // voxels with Shift

const ACTIONS = {
  "+": (viewer) => viewer.zoom(1.25),
  "=": (viewer) => viewer.zoom(1.25),
  "-": (viewer) => viewer.zoom(0.8),
  x: (viewer) => viewer.setCrosshair(!viewer.crosshairOn),
  " ": (viewer) => viewer.play(!viewer.playing),
  n: (viewer) => viewer.nextVolume(1),
  p: (viewer) => viewer.nextVolume(-1),
  o: (viewer) => viewer.toggleOverlay("spread"),
  e: (viewer) => viewer.toggleOverlay("evidence"),
  f: (viewer) => viewer.toggleFull(),
  r: (viewer) => viewer.reset(),
  "?": (viewer) => showHelp(viewer.element),
};

const HELP = [
  ["← →", "crosshair to the patient's right and left"],
  ["↑ ↓", "crosshair up and down"],
  ["Page ↑ ↓", "crosshair to the front and back"],
  ["Shift", "five voxels at a time"],
  ["1 2 3 4", "lung, mediastinum, bone, PE window"],
  ["[ ]", "narrower, wider window"],
  [", .", "lower, higher level"],
  ["M A C S V", "all views, axial, coronal, sagittal, 3D"],
  ["+ -", "zoom"],
  ["X", "lines of the crosshair"],
  ["Space", "cine: run through the slices"],
  ["N P", "next, previous volume"],
  ["O E", "spread, evidence on or off"],
  ["F", "full screen"],
  ["R", "reset"],
  ["Wheel", "scroll through slices, with Ctrl zoom"],
  ["Right button", "drag: width horizontally, level vertically"],
  ["Shift", "drag: move the image"],
  ["Two clicks", "one view, all views"],
  ["Two fingers", "zoom"],
];

/** Returns the action of a key, or undefined. */
export function keyActions({ key, shiftKey }, layout) {
  const letter = key.toLowerCase();
  if (layout === "render" && key in TURNS) return (viewer) => viewer.panels.forEach((panel) => panel.solid.turn(...TURNS[key]));
  if (key in STEPS) return (viewer) => viewer.panels[0].step(...STEPS[key].map((n) => n * (shiftKey ? FAST : 1)));
  if (letter in LAYOUT_KEYS) return (viewer) => viewer.setLayout(LAYOUT_KEYS[letter]);
  if (/^[1-4]$/.test(key)) return (viewer) => viewer.setPreset(PRESETS[Number(key) - 1].name);
  if (key === "[" || key === "]") return (viewer) => {
    const { level, width } = viewer.window;
    viewer.setWindow(level, width * (key === "]" ? 1.1 : 1 / 1.1));
  };
  if (key === "," || key === ".") return (viewer) => viewer.setWindow(viewer.window.level + (key === "." ? 20 : -20), viewer.window.width);
  return ACTIONS[letter];
}

/** Opens the help dialog over `element`; Escape or its button closes it. */
export function showHelp(element) {
  const card = document.createElement("dialog");
  card.className = "xv-help";
  card.setAttribute("aria-label", "Keys of the viewer");
  const list = document.createElement("dl");
  for (const [keys, meaning] of HELP) {
    list.append(
      Object.assign(document.createElement("dt"), { textContent: keys }),
      Object.assign(document.createElement("dd"), { textContent: meaning }),
    );
  }
  const close = Object.assign(document.createElement("button"), { type: "button", textContent: "Close" });
  close.onclick = () => card.close();
  card.append(list, close);
  card.onclose = () => card.remove();
  element.append(card);
  card.showModal();
}
