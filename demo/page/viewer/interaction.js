// Keys and pointers of the viewer.

import { keyActions } from "./keys.js";
import { PLANES } from "./tile.js";

const WHEEL = 1.1; // zoom of a step

/** The view and its tile under an event: `[plane or "render", tile or undefined]`. */
function under(viewer, { target }) {
  const element = target.closest?.(".xv-tile");
  for (const panel of viewer.panels) {
    for (const tile of panel.planes) if (tile.element === element) return [tile.plane, tile];
    if (panel.solid.element === element) return ["render", undefined];
  }
  return [undefined, undefined];
}

/** Connects the desk of a viewer with its actions. */
export function listen(viewer) {
  const { desk, element } = viewer;
  const link = (tile) => tile && requestAnimationFrame(() => viewer.linkView(tile)); // after NiiVue has drawn
  let drag = null; // of the window
  let held = null; // tile of a pressed pointer
  const release = () => {
    link(held);
    drag = held = null;
  };

  desk.addEventListener("keydown", (event) => {
    event.stopPropagation(); // NiiVue has keys of its own
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const action = keyActions(event, viewer.layout);
    if (!action) return;
    event.preventDefault();
    action(viewer);
  }, true);
  desk.addEventListener("keyup", (event) => event.stopPropagation(), true);
  desk.addEventListener("contextmenu", (event) => event.preventDefault());

  desk.addEventListener("pointerdown", (event) => {
    desk.focus({ preventScroll: true });
    const [plane, tile] = under(viewer, event);
    if (plane in PLANES) viewer.choosePlane(plane);
    held = tile;
    const byTool = viewer.tool === "window" && event.button === 0 && !event.shiftKey && tile;
    if (event.button !== 2 && !byTool) return;
    if (event.button === 2) event.stopPropagation();
    drag = { x: event.clientX, y: event.clientY, ...viewer.window };
    // the drag goes on outside the tile; NiiVue, on the canvas, hears of the left button only
    (event.button === 2 ? desk : event.target).setPointerCapture(event.pointerId);
  }, true);
  // width horizontally, level vertically
  desk.addEventListener("pointermove", ({ clientX, clientY, buttons }) => {
    if (!buttons) return release(); // the release was elsewhere
    link(held);
    if (!drag) return;
    const each = Math.max(1, drag.width / 300);
    viewer.setWindow(drag.level + (clientY - drag.y) * each, drag.width + (clientX - drag.x) * each);
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) desk.addEventListener(end, release);

  desk.addEventListener("wheel", (event) => {
    const [, tile] = under(viewer, event);
    if (!tile || !event.ctrlKey) return; // NiiVue scrolls
    event.preventDefault();
    event.stopPropagation();
    viewer.choosePlane(tile.plane);
    tile.zoom(event.deltaY < 0 ? WHEEL : 1 / WHEEL);
    viewer.linkView(tile);
  }, { capture: true, passive: false });

  // NiiVue would reset the window
  desk.addEventListener("dblclick", (event) => {
    event.stopPropagation();
    const [plane] = under(viewer, event);
    if (plane) viewer.setLayout(viewer.layout === "multiplanar" ? plane : "multiplanar");
  }, true);

  element.addEventListener("fullscreenchange", () => viewer.toolbar.update());
}
