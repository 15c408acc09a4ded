// View of a result: builds its elements and opens the viewer.

import { Films } from "./films.js";

const viewerModule = () => import("./viewer.js");

const PICTURES = { "reprojection.png": "Re-projection of the result", "difference.png": "Difference from the X-ray" };
const DOWNLOADS = {
  "volume.nii.gz": "NIfTI", "dicom.zip": "DICOM series", "animation.gif": "GIF", "settings.json": "Settings",
  "spread.nii.gz": "Spread, NIfTI", "evidence.nii.gz": "Evidence, NIfTI",
};
const READY = "The volume is ready, the viewer has the focus. Synthetic, not for diagnosis.";
let viewer = null;
let turn = 0; // number of the result shown, or of the generation begun

const make = (tag, name, text = "") => Object.assign(document.createElement(tag), { className: name, textContent: text });
const home = () => document.getElementById("xc-result");
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function say(text) { document.getElementById("xc-say").textContent = text; }

/** Removes the last result and, where all is in one column, brings progress and result to the top. */
export function start() {
  clear();
  say("Generating");
  document.getElementById("xc-body").dataset.started = ""; // for the order in one column
  if (matchMedia("(max-width: 1000px)").matches) document.getElementById("xc-main").scrollIntoView();
}

/** Removes the last result; returns the turn of the next. */
function clear() {
  viewer?.close();
  viewer = window.xray2ct.viewer = null;
  home()?.replaceChildren();
  turn += 1;
  return turn;
}

/** Shows a result (JSON of `/generate`). */
export async function show(result) {
  const mine = clear();
  say("");
  if (!result?.urls) return;
  const root = make("div", "xc-viewer");
  const films = new Films(result, (mm) => viewer?.moveTo(mm));
  home().append(root, aside(result, films));
  const { urls } = result;
  try {
    const { mountViewer } = await viewerModule();
    const mounted = await mountViewer(root, {
      volumeUrl: urls["volume.nii.gz"],
      samples: samplesOf(urls),
      onMove: (mm) => films.show(mm),
      truthUrl: urls["truth.nii.gz"] ?? null,
      overlays: { spread: urls["spread.nii.gz"], evidence: urls["evidence.nii.gz"] },
      window: result.window,
      mark: result.mark,
      banner: result.preview ? "A preview in few steps: the spread of its samples is too small." : "",
      nominal: result.nominal,
    });
    if (mine !== turn) return mounted.close(); // a newer result has taken its place
    viewer = window.xray2ct.viewer = mounted;
    viewer.focus();
    say(READY);
  } catch (error) {
    if (mine !== turn) return;
    const failed = make("p", "xc-message xc-error", `The volume cannot be shown: ${error.message}`);
    failed.setAttribute("role", "alert");
    root.replaceChildren(failed);
  }
}

/** URLs of the samples, in their order. */
function samplesOf(urls) {
  const numbers = Object.keys(urls).flatMap((name) => name.match(/^sample_(\d+)\.nii\.gz$/)?.[1] ?? []).map(Number);
  return numbers.sort((a, b) => a - b).map((number) => urls[`sample_${number}.nii.gz`]);
}

function aside(result, films) {
  const box = make("div", "xc-aside");
  box.append(pictures(result, films), comparison(result.metrics), downloads(result));
  return box;
}

function pictures({ urls, mark, reprojection, interval, lungs, evidence, nominal }, films) {
  const box = make("section", "xc-pictures");
  box.setAttribute("aria-label", "X-ray and re-projection");
  box.append(films.element);
  for (const [file, caption] of Object.entries(PICTURES)) {
    if (!urls[file]) continue;
    const figure = make("figure", "");
    const image = Object.assign(make("img", ""), { src: urls[file], alt: caption });
    figure.append(image, make("figcaption", "", `${caption} · ${mark}`));
    box.append(figure);
  }
  const notes = [];
  if (!urls["reprojection.png"]) notes.push("No re-projection: line integrals of this model's volumes cannot be compared with an X-ray (its HU window clips air, or its training X-rays lack what the volume shows).");
  if (Number.isFinite(reprojection)) notes.push(`The re-projection differs from the X-ray by ${reprojection.toFixed(3)} of its grey range on average. Pose and grey scale of the X-ray are assumed and the floor is unknown: not comparable with the re-projection error of an evaluation.`);
  if (interval) notes.push(interval);
  if (lungs) notes.push(lungs);
  if (evidence) notes.push(evidence);
  if (nominal) notes.push("An X-ray does not contain the patient size: mm are those of a typical patient, and volumes in millilitres have no meaning.");
  box.append(...notes.map((note) => make("p", "xc-note", note)));
  return box;
}

function comparison(metrics) {
  const box = make("section", "xc-metrics");
  if (!metrics) return box;
  const { how, ...rows } = metrics;
  const table = make("table", "");
  table.createCaption().textContent = "Against the true CT";
  for (const { label, value, digits } of Object.values(rows)) {
    const row = table.insertRow();
    const shown = value === null || value === undefined ? "undefined" : value.toFixed(digits ?? 2);
    row.append(Object.assign(make("th", "", label), { scope: "row" }), make("td", "", shown));
  }
  box.append(table);
  if (how?.label) box.append(make("p", "xc-note", capital(how.label) + "."));
  return box;
}

function downloads({ urls, seconds, warnings, mark }) {
  const box = make("section", "xc-downloads");
  box.setAttribute("aria-label", "Downloads");
  const row = make("div", "xc-links");
  for (const [file, label] of Object.entries(DOWNLOADS)) {
    if (urls[file]) row.append(Object.assign(make("a", "", label), { href: urls[file], download: `synthetic_${file}` }));
  }
  const samples = samplesOf(urls);
  row.append(...samples.map((href, index) => (
    Object.assign(make("a", "", `Sample ${index + 1}, NIfTI`), { href, download: `synthetic_sample_${index + 1}.nii.gz` })
  )));
  box.append(row, make("p", "xc-note", `Every file is marked: ${mark}. Generated in ${seconds.toFixed(1)} s.`));
  if (warnings.length) {
    const list = make("ul", "xc-warnings");
    list.append(...warnings.map((line) => make("li", "", line)));
    box.append(list);
  }
  return box;
}

document.addEventListener("click", ({ target }) => {
  if (target.id !== "xc-theme") return;
  const dark = document.querySelectorAll(".dark");
  if (dark.length) dark.forEach((element) => element.classList.remove("dark"));
  else document.body.classList.add("dark");
});

window.xray2ct = { viewer: null };
(window.requestIdleCallback ?? setTimeout)(viewerModule); // NiiVue is large: before a generation, which would wait for it
