// What a drag does: NiiVue's drag modes, and gestures of touch screens.

import { DRAG_MODE } from "./niivue.js";

// The window is set by the viewer, which also shows its numbers and keeps its limits.
export const TOOLS = [
  { name: "crosshair", label: "Crosshair", title: "drag: move the crosshair", mode: DRAG_MODE.crosshair },
  { name: "window", label: "Window", title: "drag: width horizontally, level vertically (right button with every tool)", mode: DRAG_MODE.none },
  { name: "pan", label: "Pan", title: "drag: move the image (Shift or middle button with every tool)", mode: DRAG_MODE.pan },
  { name: "zoom", label: "Zoom", title: "drag: zoom around the crosshair (Ctrl and wheel, or two fingers, with every tool)", mode: DRAG_MODE.slicer3D },
  { name: "distance", label: "Distance", title: "drag: distance in mm", mode: DRAG_MODE.measurement },
  { name: "region", label: "Region", title: "drag: ellipse with the mean and standard deviation of its HU", mode: DRAG_MODE.roiSelection },
];
export const toolNamed = (name) => TOOLS.find((tool) => tool.name === name);

/**
 * One finger acts as the left button of a mouse, two fingers call `zoom(factor)`.
 *
 * NiiVue's own handling of touches knows only the crosshair and the window.
 */
export function touchAsMouse(element, canvas, zoom) {
  let apart = 0; // distance of two fingers
  let down = false;
  const send = (type, { clientX, clientY }) => canvas.dispatchEvent(
    new MouseEvent(type, { clientX, clientY, button: 0, buttons: type === "mouseup" ? 0 : 1, bubbles: true, cancelable: true }),
  );
  const spread = ([one, other]) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
  const listen = (type, action) => element.addEventListener(type, (event) => {
    event.preventDefault(); // no emulated mouse events
    event.stopPropagation();
    action(event);
  }, { capture: true, passive: false });
  listen("touchstart", ({ touches }) => {
    if (touches.length === 1) {
      down = true;
      return send("mousedown", touches[0]);
    }
    if (down) send("mouseleave", touches[0]); // ends the drag of the first finger
    down = false;
    apart = spread(touches);
  });
  listen("touchmove", ({ touches }) => {
    if (down) return send("mousemove", touches[0]);
    if (touches.length < 2) return;
    const now = spread(touches);
    zoom(now / apart);
    apart = now;
  });
  for (const type of ["touchend", "touchcancel"]) {
    listen(type, ({ changedTouches }) => {
      if (down) send(type === "touchend" ? "mouseup" : "mouseleave", changedTouches[0]);
      down = false;
    });
  }
}
