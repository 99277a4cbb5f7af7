// Drawing: scales, axes, marks, and a chart that is drawn again when its width changes.

const COLOURS = ["blue", "vermillion", "green", "purple", "orange", "olive", "black"].map((name) => `var(--${name})`);
const SHAPES = ["circle", "square", "triangle", "diamond", "down"];
const styleOf = (method) => {
  const number = METHODS.indexOf(method);
  return { colour: COLOURS[number % COLOURS.length], shape: SHAPES[number % SHAPES.length] };
};
const stageColour = (stage) => `var(--of-${stage})`;

/** A linear scale from [low, high] to [from, to]. */
function scale(low, high, from, to) {
  const span = high - low || 1;
  const place = (value) => from + ((value - low) / span) * (to - from);
  place.low = low; place.high = high; place.from = from; place.to = to;
  place.value = (position) => low + ((position - from) / (to - from)) * span;
  return place;
}

function ticks(low, high, count = 5) {
  const rough = (high - low) / Math.max(count, 1) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= 0.75 * rough);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) found.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  return found;
}

const tickText = (value) => String(Number(value.toFixed(6))).replace("-", "−");

/** Axes with grid lines and titles. */
function axes(x, y, titles, options = {}) {
  const width = Math.abs(x.to - x.from), height = Math.abs(y.to - y.from);
  const across = options.xTicks ?? ticks(x.low, x.high, Math.max(3, Math.floor(width / 90)));
  const up = options.yTicks ?? ticks(y.low, y.high, Math.max(3, Math.floor(height / 55)));
  return s("g", { "aria-hidden": "true" },
    across.map((value) => [
      s("line", { class: "grid", x1: x(value), x2: x(value), y1: y.from, y2: y.to }),
      s("text", { class: "axis", x: x(value), y: y.from + 17, "text-anchor": "middle" }, (options.xText ?? tickText)(value)),
    ]),
    up.map((value) => [
      s("line", { class: "grid", x1: x.from, x2: x.to, y1: y(value), y2: y(value) }),
      s("text", { class: "axis", x: x.from - 7, y: y(value) + 4, "text-anchor": "end" }, (options.yText ?? tickText)(value)),
    ]),
    s("text", { x: (x.from + x.to) / 2, y: y.from + 36, "text-anchor": "middle" }, titles[0]),
    s("text", { x: 0, y: y.to - 11, "text-anchor": "start" }, titles[1]));
}

/** A mark of a shape, so that colour is never all that tells two apart. */
function mark(shape, x, y, size, attributes = {}) {
  const r = size;
  const points = {
    square: [[-r, -r], [r, -r], [r, r], [-r, r]].map((p) => p.map((v) => v * 0.88)),
    triangle: [[0, -r * 1.2], [r * 1.1, r * 0.8], [-r * 1.1, r * 0.8]],
    down: [[0, r * 1.2], [r * 1.1, -r * 0.8], [-r * 1.1, -r * 0.8]],
    diamond: [[0, -r * 1.25], [r * 1.25, 0], [0, r * 1.25], [-r * 1.25, 0]],
  }[shape];
  const common = { class: "mark", ...attributes };
  return points
    ? s("polygon", { ...common, points: points.map(([dx, dy]) => `${(x + dx).toFixed(2)},${(y + dy).toFixed(2)}`).join(" ") })
    : s("circle", { ...common, cx: x, cy: y, r });
}

const symbol = (shape, colour, hollow = false) =>
  s("svg", { width: 14, height: 14, viewBox: "0 0 14 14", "aria-hidden": "true" },
    mark(shape, 7, 7, 5, { fill: hollow ? "none" : colour, stroke: colour, "stroke-width": 1.6 }));

const stageLegend = (stages) => h("ul", { class: "legend" },
  stages.map((stage) => h("li", {}, symbol(STAGE_MARK[stage], stageColour(stage)), stage)));

/** A chart in an element: `draw` gets the width in px, and gives the height and what is drawn. */
const drawn = new Map();
function chart(id, label, draw, ...below) {
  const place = $(id);
  const paint = () => {
    const width = Math.max(280, Math.floor(place.clientWidth || 600));
    const { height, parts, above } = draw(width);
    const focused = place.contains(document.activeElement) ? document.activeElement.getAttribute("data-key") : null;
    place.replaceChildren(...[above, s("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label }, parts), ...below].filter(Boolean));
    if (focused) place.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    place.dataset.width = width;
  };
  drawn.set(id, paint);
  paint();
}

const watcher = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const width = Math.max(280, Math.floor(target.clientWidth || 600));
    if (drawn.has(target.id) && Number(target.dataset.width) !== width) drawn.get(target.id)();
  }
});

/** In place of a chart whose numbers a run does not have. */
function absent(id, why) {
  drawn.delete(id);
  fill(id, h("p", { class: "muted" }, why));
}

/** Labels, moved apart vertically where they would overlap. */
function apart(labels, gap = 14, top = 10, bottom = Infinity) {
  const sorted = [...labels].sort((a, b) => a.y - b.y);
  for (let round = 0; round < 60; round++) {
    let moved = false;
    for (let i = 1; i < sorted.length; i++) {
      for (let j = 0; j < i; j++) {
        const [a, b] = [sorted[j], sorted[i]];
        const overlap = gap - Math.abs(b.y - a.y);
        if (overlap > 0.1 && a.x < b.x + b.width && b.x < a.x + a.width) {
          const direction = b.y >= a.y ? 1 : -1;
          a.y -= (direction * overlap) / 2; b.y += (direction * overlap) / 2;
          moved = true;
        }
      }
    }
    for (const label of sorted) label.y = Math.min(Math.max(label.y, top), bottom);
    if (!moved) break;
  }
  return sorted;
}
