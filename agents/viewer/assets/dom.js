// Elements by construction. Text reaches the page through clean() and text nodes only: no HTML is ever parsed here.

// Characters that a browser drops, or that reorder or hide the text around them, are shown by a stand-in.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

function clean(text) {
  return String(text).replace(HIDDEN, (char) => {
    const code = char.charCodeAt(0);
    if (code < 32) return String.fromCharCode(0x2400 + code);
    return code === 127 ? "\u2421" : `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
  });
}

// el("button.quiet", { onclick: f, "aria-label": "close" }, "x"): tag and classes, attributes and listeners, children.
function el(spec, attributes, ...children) {
  const [name, ...classes] = spec.split(".");
  return fill(document.createElement(name), classes, attributes, children);
}

const SVG = "http://www.w3.org/2000/svg";
function svg(spec, attributes, ...children) {
  const [name, ...classes] = spec.split(".");
  return fill(document.createElementNS(SVG, name), classes, attributes, children);
}

function fill(element, classes, attributes, children) {
  if (classes.length) element.classList.add(...classes);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : clean(value));
  }
  return append(element, children);
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(clean(child)));
  }
  return element;
}

function replace(element, ...children) {
  element.replaceChildren();
  return append(element, children);
}

function words(name) {
  return name.replaceAll("_", " ");
}

function number(value, digits = 3) {
  if (value === null || value === undefined) return "none";
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(digits + 1)));
}

function signed(value) {
  return value === null ? "unscored" : `${value > 0 ? "+" : value < 0 ? "−" : ""}${number(Math.abs(value))}`;
}

function plural(count, name) {
  return `${count} ${name}${count === 1 ? "" : "s"}`;
}

function percent(value) {
  return `${(100 * value).toFixed(value > 0.0995 && value < 0.9995 ? 0 : 1).replace(/\.0$/, "")}%`;
}

// Calls `show` once, when the element comes near the screen.
const waiting = new WeakMap();
const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      watcher.unobserve(entry.target);
      waiting.get(entry.target)(entry.target);
    }
  },
  { rootMargin: "400px" },
);

function whenSeen(element, show) {
  waiting.set(element, show);
  watcher.observe(element);
  return element;
}
