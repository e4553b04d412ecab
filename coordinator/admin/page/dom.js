// Making and changing elements. Data becomes text nodes and attributes only, never markup.

/** An element: attributes by name, `onclick` and the like as functions, children as elements or texts; null is left out. */
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** Sets the text of a node that nothing else sets, if it is another one. */
export function put(node, text) {
  if (node.shown === text) return;
  node.shown = text;
  node.textContent = text;
}

/** Builds the children of a node anew, only if what they show (any JSON) is not what they show already. */
export function fill(node, shown, build) {
  const signature = JSON.stringify(shown);
  if (node.shown === signature) return;
  node.shown = signature;
  node.replaceChildren(...[build()].flat().filter((child) => child !== null && child !== ""));
}

/** The rows of `keys`, in this order, are what `parent` has behind its child `after` (default: all): those that exist stay, new ones are
    made. `rows`: key → element. */
export function sync(parent, keys, rows, make, after = null) {
  const wanted = new Set(keys);
  for (const [key, row] of rows) {
    if (wanted.has(key)) continue;
    row.remove();
    rows.delete(key);
  }
  let at = after ? after.nextElementSibling : parent.firstElementChild;
  for (const key of keys) {
    let row = rows.get(key);
    if (!row) rows.set(key, (row = make(key)));
    if (row === at) at = at.nextElementSibling;
    else parent.insertBefore(row, at);
  }
}

/** A shape that stands before a word and repeats it for the eye: good, work, warn, bad, quiet. */
export const mark = (tone) => el("span", { class: `mark ${tone}`, "aria-hidden": "true" });

/** A word with its shape. */
export const state = (tone, ...words) => el("span", { class: `state ${tone}` }, mark(tone), el("span", {}, ...words));

/** The button that shows the rest of a list; hidden where nothing is left out. */
export function offerMore(button, left, all, noun, isOpen) {
  button.hidden = !left && !isOpen;
  put(button, isOpen ? `Show fewer ${noun}` : `Show all ${all} ${noun}`);
  button.setAttribute("aria-expanded", String(isOpen));
}
