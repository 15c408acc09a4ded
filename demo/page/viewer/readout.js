// The line below the images: position and HU of the crosshair, the last measurement, a warning.

import { huText } from "./hu.js";

const make = (tag, name, text = "") => Object.assign(document.createElement(tag), { className: name, textContent: text });

export class Readout {
  constructor({ nominal }, range) {
    Object.assign(this, { nominal, range, last: null });
    this.element = make("div", "xv-status");
    this.values = make("span", "xv-values");
    this.measured = make("span", "xv-measured");
    this.measured.setAttribute("role", "status");
    this.warning = make("span", "xv-warning");
    this.warning.setAttribute("role", "alert");
    this.element.append(this.values, this.measured, this.warning);
  }

  /** Writes position and HU; `beside`: the second panel, `overlay`: its name and text; or null. */
  read(panel, beside, overlay) {
    const { mm } = panel;
    const place = [["R", "L"], ["A", "P"], ["S", "I"]].map(([more, less], axis) => (
      `${mm[axis] < 0 ? less : more} ${Math.abs(mm[axis]).toFixed(0)}`
    ));
    const hu = (shown) => huText(shown.valueAt(mm), shown.volume.generated ? this.range : null);
    const parts = [["xv-place", `${place.join("   ")} mm${this.nominal ? " (nominal)" : ""}`], ["xv-hu", hu(panel)]];
    if (beside) parts.push(["xv-truth", `${beside.volume.name} ${hu(beside)}`]);
    if (overlay) parts.push([`xv-${overlay.name}`, overlay.text]);
    this.values.replaceChildren(...parts.map(([name, text]) => make("span", name, text)));
  }

  /** Writes a measurement of a panel. */
  measure(kind, text, panel) {
    this.last = { kind, panel };
    this.measured.textContent = `${kind}: ${text}${this.nominal ? " (nominal size)" : ""}`;
  }

  /** Removes the measurement if it is one of this panel and, if given, of this kind. */
  withdraw(panel, kind = this.last?.kind) {
    if (this.last?.panel === panel && this.last.kind === kind) this.clear();
  }

  clear() {
    this.last = null;
    this.measured.textContent = "";
  }

  /** Writes what failed; "" removes it. */
  warn(text) { this.warning.textContent = text; }
}
