// What all views share: the data, the state, elements, numbers as text.

const DATA = JSON.parse(document.getElementById("data-overview").textContent);
const SOUND = JSON.parse(document.getElementById("data-clips").textContent);
const STAGES = DATA.stages;
const STAGE_MARK = { original: "square", unlearned: "triangle", recovered: "circle", retrained: "diamond" };
const MISSING = "–";

const $ = (id) => document.getElementById(id);

/** An HTML element. Attributes that start with "on" are listeners; null, undefined and false are left out. */
function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
function s(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") element.style.cssText = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function fill(id, ...children) {
  $(id).replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
}

// ---- numbers -------------------------------------------------------------------------------------------

const known = (value) => value !== null && value !== undefined && !Number.isNaN(value);

/** Three decimals below 10, fewer above; a dash where it is not known. */
function written(value) {
  if (!known(value)) return MISSING;
  const size = Math.abs(value);
  const text = size.toFixed(size < 10 ? 3 : size < 100 ? 1 : 0);
  return (value < 0 && Number(text) !== 0 ? "−" : "") + text;
}

function signed(value) {
  if (!known(value)) return MISSING;
  const text = written(value);
  return value > 0 && Number(text) !== 0 ? `+${text}` : text;
}

const percent = (share, digits = 1) => (known(share) ? `${(100 * share).toFixed(digits)} %` : MISSING);
const nats = (value) => (known(value) ? `${value < 0 ? "−" : ""}${Math.abs(value).toFixed(1)}` : MISSING);
const many = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const unique = (values) => [...new Set(values)];
const sum = (values) => values.reduce((a, b) => a + b, 0);

// ---- state ---------------------------------------------------------------------------------------------

const state = {
  task: null, setting: null, stage: "final", search: "", controls: true,
  equal: false, tolerance: 0.03, sort: "gap", rising: true, topics: new Set(["gap", "accuracy", "attacks"]),
  picked: [], keep: "retain", near: null, showRuns: true, run: 0,
};
const views = { overview: [], run: [] };

/** Draw the views of all methods again. */
const refresh = () => views.overview.forEach((draw) => draw());

/** Data of a run, inflated when it is first opened. */
const opened = new Map();
function detailOf(number) {
  if (!opened.has(number)) opened.set(number, inflate($(`data-run-${number}`).textContent.trim()));
  return opened.get(number);
}

async function inflate(text) {
  const bytes = bytesOf(text);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

// ---- form controls -------------------------------------------------------------------------------------

function choice(label, id, options, value, change) {
  const select = h("select", { id, onchange: () => change(select.value) },
    options.map(([key, text]) => h("option", { value: key, selected: String(key) === String(value) }, text)));
  return h("label", { for: id }, label, select);
}

function tick(label, id, checked, change) {
  const box = h("input", { type: "checkbox", id, checked, onchange: () => change(box.checked) });
  return h("label", { class: "tick", for: id }, box, label);
}

/** Rows of cells as a table with a head; the first cell of a row is its head. */
function table(head, rows, attributes = {}) {
  return h("div", { class: "scroll" }, h("table", { class: "plain", ...attributes },
    h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, rows.map(([first, ...cells]) =>
      h("tr", {}, h("th", { scope: "row" }, first), cells.map((cell) => h("td", {}, cell)))))));
}

const asTable = (title, head, rows) => h("details", {}, h("summary", {}, title), table(head, rows));

// ---- tooltip -------------------------------------------------------------------------------------------

function tipOn(element, text) {
  const show = (event) => {
    const tip = $("tip");
    tip.textContent = text;
    tip.hidden = false;
    const box = event.type === "focus" ? element.getBoundingClientRect() : { right: event.clientX, top: event.clientY };
    tip.style.left = `${Math.max(4, Math.min(box.right + 12, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(4, Math.min(box.top + 14, innerHeight - tip.offsetHeight - 8))}px`;
  };
  const hide = () => { $("tip").hidden = true; };
  element.addEventListener("pointermove", show);
  element.addEventListener("pointerleave", hide);
  element.addEventListener("focus", show);
  element.addEventListener("blur", hide);
  return element;
}
