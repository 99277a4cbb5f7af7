// The plane of forgetting against what is kept, with the noise of retraining; and the gap by size.

function drawPlaneControls() {
  fill("plane-controls",
    choice("Across", "keep", [["retain", "retain accuracy"], ["test", "test accuracy"]], state.keep, (keep) => { state.keep = keep; refresh(); }),
    tick("Near the retrained models", "near", Boolean(state.near), (on) => { state.near = on; refresh(); }),
    DATA.runs.length > ROWS.length ? tick("Single runs", "show-runs", state.showRuns, (on) => { state.showRuns = on; refresh(); }) : null);
}

function drawPlane() {
  const column = state.keep === "retain" ? 1 : 2;
  const away = (run) => run.away[stageOf(run, state.stage)];
  const rows = shownRows().map((row) => ({
    row, x: pool(row.runs, (run) => away(run)[column]), y: pool(row.runs, (run) => away(run)[0]),
  })).filter(({ x, y }) => x.n && y.n);
  if (!rows.length) { absent("plane-chart", "No method has both accuracies."); $("plane-note").textContent = ""; return; }
  const ellipse = noiseEllipse(rows.flatMap(({ row }) => row.runs), column);
  const inside = rows.filter(({ row }) => row.group !== "control");
  const seen = (inside.length ? inside : rows).flatMap(({ row, x, y }) => [
    [x.mean, y.mean], ...(state.showRuns ? row.runs.map((run) => [away(run)[column], away(run)[0]]) : [])]).filter(([x, y]) => known(x) && known(y));
  const limits = (values, least) => {
    const [low, high] = [Math.min(0, -least, ...values), Math.max(0, least, ...values)];
    const margin = 0.07 * (high - low) || 0.05;
    return [low - margin, high + margin];
  };
  if (state.near === null) {
    const reach = [Math.max(2.5 * (ellipse?.right ?? 0), 0.05), Math.max(2.5 * (ellipse?.top ?? 0), 0.05)];
    const there = inside.filter(({ x, y }) => Math.abs(x.mean) < reach[0] && Math.abs(y.mean) < reach[1]).length;
    state.near = there < inside.length && there > inside.length / 2; // most are there, and some far away
    $("near").checked = state.near;
  }
  const close = (reach) => [-Math.max(2.5 * reach, 0.05), Math.max(2.5 * reach, 0.05)];
  const across = state.near ? close(ellipse?.right ?? 0) : limits(seen.map(([x]) => x), Math.max(ellipse?.right ?? 0, 0.01));
  const up = state.near ? close(ellipse?.top ?? 0) : limits(seen.map(([, y]) => y), Math.max(ellipse?.top ?? 0, 0.01));
  let far = 0;
  const scatter = unique(rows.flatMap(({ row }) => row.runs).map((run) => JSON.stringify(run.seeds))).flatMap((text) => JSON.parse(text));
  chart("plane-chart", "Forget accuracy against retain or test accuracy, less those of the retrained models", (width) => {
    const height = Math.min(460, Math.max(340, width * 0.7));
    const x = scale(...across, 52, width - 14), y = scale(...up, height - 46, 26);
    const clamp = (place, value) => Math.min(Math.max(value, Math.min(place.from, place.to)), Math.max(place.from, place.to));
    const labels = [], dots = [], means = [];
    far = 0;
    for (const { row, x: mx, y: my } of rows) {
      const { colour, shape } = styleOf(row.method);
      const [px, py] = [clamp(x, x(mx.mean)), clamp(y, y(my.mean))];
      const outside = Math.abs(px - x(mx.mean)) > 1 || Math.abs(py - y(my.mean)) > 1;
      far += outside;
      if (state.showRuns) {
        for (const run of row.runs) {
          const [dx, dy] = [away(run)[column], away(run)[0]];
          if (!known(dx) || !known(dy) || row.runs.length < 2) continue;
          if (x(dx) < x.from || x(dx) > x.to || y(dy) > y.from || y(dy) < y.to) continue;
          dots.push(tipOn(s("a", { href: `#run-${run.number}`, tabindex: -1, "data-run": run.number, "aria-label": `Open ${run.name}` },
            s("circle", { class: "hit", cx: x(dx), cy: y(dy), r: 8 }),
            mark(shape, x(dx), y(dy), 3, { fill: colour, "fill-opacity": 0.55 })), `${run.method}, seed ${run.seed}\nforget ${signed(dy)}, ${state.keep} ${signed(dx)}\nClick to open this run`));
        }
      }
      const words = `${rowWords(row)}: forget ${signed(my.mean)}${known(my.half) ? ` ± ${written(my.half)}` : ""}, ${state.keep} ${signed(mx.mean)}${known(mx.half) ? ` ± ${written(mx.half)}` : ""}`;
      const bar = (attributes) => s("line", { stroke: colour, "stroke-width": 1.6, ...attributes });
      means.push(tipOn(s("a", { href: `#run-${row.runs[0].number}`, "data-key": row.key, "data-mean": row.method, "aria-label": `${words}. Open its first run` },
        known(mx.half) && !outside ? bar({ x1: clamp(x, x(mx.mean - mx.half)), x2: clamp(x, x(mx.mean + mx.half)), y1: py, y2: py }) : null,
        known(my.half) && !outside ? bar({ y1: clamp(y, y(my.mean - my.half)), y2: clamp(y, y(my.mean + my.half)), x1: px, x2: px }) : null,
        s("circle", { class: "hit", cx: px, cy: py, r: 14 }),
        mark(shape, px, py, 7, { fill: outside ? "none" : colour, stroke: colour, "stroke-width": 2 })), `${words}${outside ? "\nFarther away than the plane shows" : ""}`));
      labels.push({ text: labelOf(row), x: px + 11, y: py + 4, width: 7 * labelOf(row).length, colour, at: px });
    }
    for (const label of labels) if (label.x + label.width > width) { label.x = label.at - 11 - label.width; label.end = true; }
    const drawLabels = rows.length <= 24;
    return { height, parts: [
      axes(x, y, [`${state.keep} accuracy less that of the retrained models`, "forget accuracy less that of the retrained models"], { xText: (v) => signedTick(v), yText: (v) => signedTick(v) }),
      s("line", { class: "zero", x1: x(0), x2: x(0), y1: y.from, y2: y.to }), s("line", { class: "zero", x1: x.from, x2: x.to, y1: y(0), y2: y(0) }),
      ellipse ? ellipsePath(ellipse, x, y) : null,
      scatter.length <= 200 ? scatter.map((deviation) => mark("diamond", clamp(x, x(deviation[column])), clamp(y, y(deviation[0])), 2.4, { fill: "none", stroke: "var(--green)" })) : null,
      s("path", { d: `M${x(0) - 7} ${y(0)}H${x(0) + 7}M${x(0)} ${y(0) - 7}V${y(0) + 7}`, stroke: "var(--ink)", "stroke-width": 2 }),
      dots, means,
      drawLabels ? apart(labels, 14, 20, y.from - 4).map((label) => s("text", { x: label.end ? label.at - 11 : label.x, y: label.y, "text-anchor": label.end ? "end" : "start", style: "paint-order:stroke;stroke:var(--card);stroke-width:3px", "aria-hidden": "true" }, label.text)) : null,
    ] };
  });
  $("plane-note").textContent = `The cross is where the retrained models are${ellipse ? "; the grey ellipse holds 95 % of them (from the scatter of their seeds)" : ""}${scatter.length && scatter.length <= 200 ? "; small green diamonds: single retrained models" : ""}. Above: forgotten less than by retraining; below: more. Left: less is kept. Every point opens its run.${far ? ` Hollow marks at the edge (${far}) lie beyond it.` : ""}`;
}

const signedTick = (value) => (value > 0 ? `+${tickText(value)}` : tickText(value));
const labelOf = (row) => (state.setting === "all" ? `${row.method}, ${row.runs[0].size}` : row.method);

function ellipsePath({ long, short, angle }, x, y) {
  const points = Array.from({ length: 73 }, (_, step) => {
    const t = (step / 72) * 2 * Math.PI;
    const [u, v] = [long * Math.cos(t), short * Math.sin(t)];
    return `${x(u * Math.cos(angle) - v * Math.sin(angle)).toFixed(1)} ${y(u * Math.sin(angle) + v * Math.cos(angle)).toFixed(1)}`;
  });
  return s("path", { class: "noise", id: "noise-ellipse", d: `M${points.join("L")}Z` });
}

// ---- gap by size -----------------------------------------------------------------------------------------

function drawSizes() {
  const current = SETTINGS.find((setting) => setting.key === state.setting);
  const own = SETTINGS.filter((setting) => setting.task === state.task);
  const axis = current?.axis ?? own.map((setting) => setting.axis).sort((a, b) =>
    own.filter((setting) => setting.axis === b).length - own.filter((setting) => setting.axis === a).length)[0];
  const settings = own.filter((setting) => setting.axis === axis).sort((a, b) => a.deleted - b.deleted);
  const rows = shownRows(true).filter((row) => row.axis === axis);
  $("sizes").hidden = settings.length < 2;
  $("sizes").parentElement.style.gridTemplateColumns = settings.length < 2 ? "minmax(0, 1fr)" : "";
  document.querySelector('nav a[href="#sizes"]').hidden = settings.length < 2;
  if (settings.length < 2) return;
  const methods = unique(rows.map((row) => row.method));
  const gap = (run) => valueOf(run, state.stage, "gap");
  const points = methods.map((method) => [method, settings.map((setting, place) => {
    const row = rows.find((candidate) => candidate.method === method && candidate.setting === setting.key);
    return row ? { place, row, ...pool(row.runs, gap) } : null;
  }).filter((point) => point && point.n)]).filter(([, found]) => found.length);
  const floors = settings.map((setting) => pool(setting.runs, (run) => valueOf(run, "retrained", "gap")));
  const regular = points.filter(([, found]) => found[0].row.group !== "control");
  const top = 1.12 * Math.max(0.02, ...(regular.length ? regular : points).flatMap(([, found]) => found.map(({ mean, half }) => mean + Math.min(half || 0, mean))), ...floors.map((floor) => floor.mean || 0));
  let far = 0;
  chart("sizes-chart", "Mean gap by size of each request", (width) => {
    const height = Math.min(460, Math.max(340, width * 0.7));
    const x = scale(-0.35, settings.length - 0.65, 46, width - (width > 420 ? 132 : 16)), y = scale(0, top, height - 46, 26);
    far = 0;
    const lines = points.map(([method, found], number) => {
      const { colour, shape } = styleOf(method);
      const aside = (number - (points.length - 1) / 2) * Math.min(5, 60 / points.length);
      const at = (point) => [x(point.place) + aside, Math.max(y(point.mean), y.to)];
      return s("g", {},
        s("polyline", { points: found.map((point) => at(point).map((v) => v.toFixed(1)).join(",")).join(" "), fill: "none", stroke: colour, "stroke-width": 1.6, "stroke-opacity": 0.8 }),
        found.map((point) => {
          const [px, py] = at(point);
          const outside = point.mean > top;
          far += outside;
          const words = `${method}, ${settingWords(point.row.runs[0], false)}: gap ${withHalf(point)}`;
          return tipOn(s("a", { href: `#run-${point.row.runs[0].number}`, "data-size-point": method, "data-key": `size ${point.row.key}`, "aria-label": `${words}. Open its first run` },
            known(point.half) && !outside ? s("line", { x1: px, x2: px, y1: y(Math.max(point.mean - point.half, 0)), y2: Math.max(y(point.mean + point.half), y.to), stroke: colour, "stroke-width": 1.6 }) : null,
            s("circle", { class: "hit", cx: px, cy: py, r: 9 }),
            mark(shape, px, py, 5, { fill: outside ? "none" : colour, stroke: colour })), words);
        }));
    });
    const ends = apart(points.map(([method, found]) => ({ text: method, x: x.to + 4, width: 128, y: Math.max(y(found.at(-1).mean), y.to) + 4 })), 14, 30, y.from);
    return { height, parts: [
      axes(x, y, ["utterances that each request deletes", "mean gap to the retrained models"], { xTicks: settings.map((_, place) => place), xText: (place) => (settings[place].size === "all" ? "all" : settings[place].size) }),
      floors.map((floor, place) => floor.n ? s("rect", { class: "noise", x: x(place - 0.35), width: x(0.7) - x(0), y: y(floor.mean + (floor.half || 0)), height: Math.max(2, y(Math.max(floor.mean - (floor.half || 0), 0)) - y(floor.mean + (floor.half || 0))) }) : null),
      lines,
      width > 420 && points.length <= 26 ? ends.map((label) => s("text", { x: label.x, y: label.y, "aria-hidden": "true" }, label.text.length > 17 ? `${label.text.slice(0, 16)}…` : label.text)) : null,
    ] };
  }, asTable("As a table", ["method", ...settings.map((setting) => sizeWords(setting.size))],
    points.map(([method, found]) => [method, ...settings.map((_, place) => withHalf(found.find((point) => point.place === place) ?? { n: 0 }))])));
  $("sizes-note").textContent = `Bars: 95 % interval over seeds. Grey: the noise floor with its interval.${far ? ` Hollow marks at the top (${far}) lie above it.` : ""} Every point opens its run.`;
}

views.overview.push(drawPlane, drawSizes);
