// The film as given and as the model sees it, with outlines of the lungs and the place of the crosshair.

const FILMS = { // files without and with outlines
  film: ["given.png", "given_lungs.png", "Film as given"],
  xray: ["xray.png", "lungs.png", "As the model sees it"],
};
const LEGEND = { "xc-volume": "lungs of the synthetic volume, projected", "xc-xray": "lungs found in the X-ray" };
const make = (tag, name, text = "") => Object.assign(document.createElement(tag), { className: name, textContent: text });

/** Place on a film as shares `[across, down]` of a point in mm. */
function project(matrix, [x, y, z]) {
  const [u, v, w] = matrix.map((row) => row[0] * x + row[1] * y + row[2] * z + row[3]);
  return [u / w, v / w];
}

/** The point in mm that lies on a place of a film, at the anterior coordinate `y`. */
function pointAt([m0, m1, m2], [u, v], y) {
  const rows = [[m0, u], [m1, v]].map(([row, share]) => row.map((part, index) => part - share * m2[index]));
  const [[a, b, c], [d, e, f]] = rows.map((row) => [row[0], row[2], -row[3] - row[1] * y]);
  const determinant = a * e - b * d;
  return [(c * e - b * f) / determinant, y, (a * f - c * d) / determinant];
}

export class Films {
  /** `result`: JSON of `/generate`; `onPick(mm)`: called when a place on a film is chosen. */
  constructor({ urls, projections }, onPick) {
    this.projections = projections ?? {};
    this.lines = {};
    this.mm = [0, 0, 0];
    this.element = make("div", "xc-films");
    const images = [];
    for (const [name, [plain, outlined, caption]] of Object.entries(FILMS)) {
      if (!urls[plain]) continue;
      const figure = make("figure", "");
      const holder = make("div", "xc-film");
      const image = Object.assign(make("img", ""), { src: urls[outlined] ?? urls[plain], alt: caption });
      this.lines[name] = [make("i", "xc-across"), make("i", "xc-down")];
      holder.append(image, ...this.lines[name]);
      holder.addEventListener("click", ({ clientX, clientY }) => {
        const box = holder.getBoundingClientRect();
        const share = [(clientX - box.x) / box.width, (clientY - box.y) / box.height];
        if (this.projections[name]) onPick(pointAt(this.projections[name], share, this.mm[1]));
      });
      images.push([image, urls[plain], urls[outlined]]);
      figure.append(holder, make("figcaption", "", caption));
      this.element.append(figure);
    }
    if (!urls["lungs.png"]) return;
    const legend = make("p", "xc-note xc-legend");
    const toggle = make("label", "xc-toggle");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
    box.onchange = () => images.forEach(([image, plain, outlined]) => { image.src = box.checked ? outlined : plain; });
    toggle.append(box, "Outlines");
    legend.append(toggle, ...Object.entries(LEGEND).map(([name, text]) => make("span", name, text)), make("span", "", "not for diagnosis"));
    this.element.append(legend);
  }

  /** Marks the place of the crosshair, a point in mm. */
  show(mm) {
    this.mm = mm;
    for (const [name, [across, down]] of Object.entries(this.lines)) {
      if (!this.projections[name]) continue;
      const [u, v] = project(this.projections[name], mm);
      across.style.top = `${100 * v}%`;
      down.style.left = `${100 * u}%`;
    }
  }
}
