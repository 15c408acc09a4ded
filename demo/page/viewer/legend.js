// The colours of an overlay with their HU.

const make = (tag, name, text = "") => Object.assign(document.createElement(tag), { className: name, textContent: text });

/** Returns the legend of an overlay from 0 to `top` HU in the colours `lut` (RGBA, 256 entries). */
export function legend(lut, name, top) {
  const element = make("div", "xv-legend");
  const bar = Object.assign(document.createElement("canvas"), { width: 256, height: 1 });
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", `${name}: colours from 0 to ${top} HU`);
  const opaque = Uint8ClampedArray.from(lut, (value, index) => (index % 4 === 3 ? 255 : value));
  bar.getContext("2d").putImageData(new ImageData(opaque, 256, 1), 0, 0);
  element.append(make("span", "", name), make("span", "", "0"), bar, make("span", "", `${top} HU`));
  return element;
}
