// Window presets, and whether the HU window of a model covers them.

// In the order of the toolbar; a viewer opens on the first that the model covers.
export const PRESETS = [
  { name: "lung", label: "Lung", width: 1500, level: -600 },
  { name: "mediastinum", label: "Mediastinum", width: 400, level: 40 },
  { name: "bone", label: "Bone", width: 2000, level: 500 },
  { name: "pe", label: "PE", width: 700, level: 100 },
];

const AIR = -1000; // lowest HU in a chest
const ENOUGH = 2 / 3; // minimum share of a preset's range

/** The HU range `[low, high]` of a level and a width. */
export const rangeOf = ({ level, width }) => [level - width / 2, level + width / 2];

/** Share of a preset's range above air that lies within `[low, high]`. */
export function covered(preset, [low, high]) {
  const [from, to] = rangeOf(preset);
  const floor = Math.max(from, AIR);
  return Math.max(0, Math.min(to, high) - Math.max(floor, low)) / (to - floor);
}

/** `{enabled, title}` of a preset's button for a model with the HU window `[low, high]`. */
export function presetState(preset, [low, high]) {
  const share = covered(preset, [low, high]);
  const what = `width ${preset.width}, level ${preset.level} HU`;
  if (share < ENOUGH) {
    return { enabled: false, title: `${what}: outside the model's HU window, ${low} to ${high} HU` };
  }
  const cut = rangeOf(preset)[1] > high ? `; the model has no values above ${high} HU` : "";
  return { enabled: true, title: what + cut };
}

/** The first enabled preset, or the whole HU window if none is. */
export function firstWindow(range) {
  return PRESETS.find((preset) => presetState(preset, range).enabled)
    ?? { name: null, level: (range[0] + range[1]) / 2, width: range[1] - range[0] };
}
