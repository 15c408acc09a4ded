// The colours of an overlay with the values at their ends.

const make = (tag, name, text = "") => Object.assign(document.createElement(tag), { className: name, textContent: text });

/** Returns the legend of an overlay in the colours `lut` (RGBA, 256 entries), from the text `low` to the text `high`. */
export function legend(lut, name, [low, high]) {
  const element = make("div", "xv-legend");
  const bar = Object.assign(document.createElement("canvas"), { width: 256, height: 1 });
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", `${name}: colours from ${low} to ${high}`);
  const opaque = Uint8ClampedArray.from(lut, (value, index) => (index % 4 === 3 ? 255 : value));
  bar.getContext("2d").putImageData(new ImageData(opaque, 256, 1), 0, 0);
  element.append(make("span", "xv-legend-name", name), make("span", "", low), bar, make("span", "", high));
  return element;
}
