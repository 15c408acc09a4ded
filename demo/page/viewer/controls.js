// Elements of the toolbar.

export const press = (one, pressed) => one.setAttribute("aria-pressed", String(pressed));

export function button(text, onclick, properties = {}, data = {}) {
  const element = Object.assign(document.createElement("button"), { type: "button", textContent: text, onclick, ...properties });
  for (const [key, value] of Object.entries(data)) element.dataset[key] = value;
  return element;
}

/** A number with a short label; `title` names it. */
export function number(text, title, onchange, properties = {}) {
  const element = Object.assign(document.createElement("label"), { className: "xv-number", title });
  const input = Object.assign(document.createElement("input"), { type: "number", step: 10, ariaLabel: title, onchange, ...properties });
  element.append(text, input);
  return { element, input };
}

/** A choice of `entries` `[value, text]`. */
export function choice(title, entries, onchange) {
  const element = Object.assign(document.createElement("select"), { className: "xv-choice", title, ariaLabel: title });
  element.append(...entries.map(([value, text]) => new Option(text, value)));
  element.onchange = () => onchange(element.value);
  return element;
}

export function group(name, ...parts) {
  const element = document.createElement("div");
  element.className = "xv-group";
  element.setAttribute("role", "group");
  if (name) {
    element.setAttribute("aria-label", name);
    element.append(Object.assign(document.createElement("span"), { className: "xv-group-name", textContent: name }));
  }
  element.append(...parts);
  return element;
}
