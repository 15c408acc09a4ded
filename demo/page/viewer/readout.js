// The line below the images: position and HU of the crosshair, the last measurement.

import { readHu } from "./presets.js";

const make = (tag, name, text = "") => Object.assign(document.createElement(tag), { className: name, textContent: text });
const signed = (value) => `${value < 0 ? "−" : ""}${Math.abs(Math.round(value))}`;

export class Readout {
  constructor({ nominal }, range) {
    Object.assign(this, { nominal, range });
    this.element = make("div", "xv-status");
    this.values = make("span", "xv-values");
    this.measured = make("span", "xv-measured");
    this.measured.setAttribute("role", "status");
    this.element.append(this.values, this.measured);
  }

  /** Writes position and HU; `beside`: the panel of the second volume with its name, `overlay`: its name and text; or null. */
  read(panel, beside, overlay) {
    const { mm } = panel;
    const place = [["R", "L"], ["A", "P"], ["S", "I"]].map(([more, less], axis) => (
      `${mm[axis] < 0 ? less : more} ${Math.abs(mm[axis]).toFixed(0)}`
    ));
    const parts = [["xv-place", `${place.join("   ")} mm${this.nominal ? " (nominal)" : ""}`]];
    parts.push(["xv-hu", `${readHu(panel.valueAt(mm), this.range)} HU`]);
    if (beside) parts.push(["xv-truth", `${beside.name} ${signed(beside.panel.valueAt(mm))} HU`]);
    if (overlay) parts.push([`xv-${overlay.name}`, overlay.text]);
    this.values.replaceChildren(...parts.map(([name, text]) => make("span", name, text)));
  }

  measure(kind, text) { this.measured.textContent = `${kind}: ${text}${this.nominal ? " (nominal size)" : ""}`; }

  clear() { this.measured.textContent = ""; }
}
