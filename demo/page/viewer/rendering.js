// Colour tables of the 3D rendering for lungs, body and bones, each over its HU range.

// Colours over the range `hu`: I = index in the table (0 to 255), A = opacity.
// A viewer opens on the first that the model covers.
export const RENDERINGS = [
  {
    name: "lungs", label: "Lungs", hu: [-960, -420],
    table: { R: [30, 92, 150, 205], G: [70, 150, 196, 224], B: [92, 176, 214, 236], A: [0, 26, 16, 0], I: [0, 90, 170, 255] },
  },
  {
    name: "body", label: "Body", hu: [-420, 300],
    table: { R: [60, 176, 226, 255], G: [34, 116, 190, 244], B: [28, 92, 164, 226], A: [0, 60, 120, 200], I: [0, 90, 190, 255] },
  },
  {
    name: "bones", label: "Bones", hu: [120, 620],
    table: { R: [96, 196, 250, 255], G: [58, 164, 238, 252], B: [44, 132, 216, 244], A: [0, 26, 110, 190], I: [0, 60, 160, 255] },
  },
];

/** Whether the model's HU window covers enough of a rendering's range. */
export function renderingFits({ hu }, [low, high]) {
  return hu[0] >= low - 50 && Math.min(hu[1], high) - hu[0] >= 0.5 * (hu[1] - hu[0]);
}

/** Adds the tables to NiiVue under names with the prefix `xv-`. */
export function addTables(niivue) {
  for (const { name, table } of RENDERINGS) niivue.addColormap(`xv-${name}`, { min: 0, max: 0, ...table });
}
