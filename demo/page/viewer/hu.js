// HU as text, and the mark of voxels that a scan did not cover.

export const NOT_SCANNED_HU = -4096; // as in dataset/imaging/coverage.py

/** Whether a scan covered a voxel of this value. */
export const scanned = (value) => value > NOT_SCANNED_HU;

/** A number without decimals, with a true minus sign. */
export const signed = (value) => String(Math.round(value) || 0).replace("-", "−");

/** The text of a HU value; `range`: HU window of the model that made it, with ≤ or ≥ at its ends, or null. */
export function huText(value, range) {
  if (!Number.isFinite(value)) return "– HU";
  if (!scanned(value)) return "not scanned";
  const [low, high] = range ?? [-Infinity, Infinity];
  if (value <= low) return `≤ ${signed(low)} HU`;
  if (value >= high) return `≥ ${signed(high)} HU`;
  return `${signed(value)} HU`;
}
