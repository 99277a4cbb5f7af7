// The table of methods: filters, sorting, two to contrast; and which method forgets best at equal retention.

const TOPICS = unique(DATA.columns.map((column) => column.topic));
const PINNED = new Set(["gap", "gap_forget"]); // the two measures that the table always shows

function drawFilters() {
  const tasks = unique(SETTINGS.map((setting) => setting.task));
  const here = SETTINGS.filter((setting) => setting.task === state.task);
  const settings = here.map((setting) => [setting.key, `${settingWords(setting.runs[0], false)} (${many(setting.methods, "method")})`]);
  const tolerance = h("input", {
    type: "number", id: "tolerance", min: 0, max: 1, step: 0.01, value: state.tolerance,
    oninput: () => { if (tolerance.value !== "") { state.tolerance = Number(tolerance.value); refresh(); } },
  });
  const search = h("input", {
    type: "search", id: "search", value: state.search, placeholder: "name of a method",
    oninput: () => { state.search = search.value; refresh(); },
  });
  fill("filters",
    tasks.length > 1 && choice("Corpus, model", "task", tasks.map((task) => [task, task]), state.task, (task) => {
      state.task = task; state.setting = richest(task); state.picked = []; drawFilters(); refresh();
    }) || null,
    here.length > 1 ? choice("Each request deletes", "setting", [...settings, ["all", "all settings"]], state.setting, (setting) => { state.setting = setting; refresh(); }) : null,
    choice("Model", "stage", [["final", "at the end of the run"], ["unlearned", "right after unlearning"]], state.stage, (stage) => { state.stage = stage; refresh(); }),
    METHODS.length > 5 ? h("label", { for: "search" }, "Filter", search) : null,
    h("span", { class: "pick" }, tick("Only equal retention:", "equal", state.equal, (on) => {
      state.equal = on;
      if (on) { state.sort = "gap_forget"; state.rising = true; }
      refresh();
    }), h("label", { class: "tick", for: "tolerance" }, "within", tolerance, "of the retrained models")),
    DATA.runs.some((run) => run.group === "control") ? tick("Controls", "controls", state.controls, (on) => { state.controls = on; refresh(); }) : null,
    h("fieldset", {}, h("legend", {}, "Measures"), h("div", {}, TOPICS.map((topic) =>
      tick(topic, `topic-${topic.replaceAll(" ", "-")}`, state.topics.has(topic), (on) => {
        if (on) state.topics.add(topic); else state.topics.delete(topic);
        refresh();
      })))));
}

/** The setting of a task in which most methods were run. */
function richest(task) {
  const own = SETTINGS.filter((setting) => setting.task === task);
  return own.reduce((best, setting) => (setting.methods > best.methods ? setting : best)).key;
}

// ---- the table -----------------------------------------------------------------------------------------

function drawMethods() {
  const rows = shownRows();
  const columns = DATA.columns.filter((column) =>
    (state.topics.has(column.topic) || PINNED.has(column.key)) && rows.some((row) => row.runs.some((run) => known(valueOf(run, state.stage, column.key)))));
  const head = h("tr", {}, sortHead("method", "method", "Name of the method"), h("th", { scope: "col" }, "runs"),
    columns.map((column) => sortHead(column.key, column.label, column.explanation)));
  const bodies = [...Map.groupBy(rows, (row) => row.setting)]
    .sort(([a], [b]) => SETTINGS.findIndex((x) => x.key === a) - SETTINGS.findIndex((x) => x.key === b))
    .map(([, mine]) => settingBody(sorted(mine), columns));
  fill("methods-table", h("table", { id: "table" },
    h("caption", { class: "skip" }, "Methods with mean over seeds and 95 % interval"), h("thead", {}, head), bodies));
  if (!rows.length) fill("methods-table", h("p", { class: "muted", style: "padding:12px" }, state.equal
    ? `No method is within ${state.tolerance} of the retrained models in retain and test accuracy. Allow more, or untick “Only equal retention”.`
    : "No method has this name."));
  const seeds = Math.max(0, ...rows.map((row) => bySeed(row.runs, () => 1).size));
  $("methods-note").textContent = seeds > 1
    ? "Mean over seeds ± half the 95 % interval (Student's t). Bold: lowest mean gap. Retrained: mean over seeds; its gap is the noise floor, by which retrained models differ from each other. Tick two methods to contrast them."
    : "One seed each: no intervals over seeds. The gap of the retrained model is the noise floor, by which retrained models differ from each other.";
}

function sortHead(key, label, explanation) {
  const on = state.sort === key;
  return h("th", { scope: "col", "aria-sort": on ? (state.rising ? "ascending" : "descending") : "none" },
    tipOn(h("button", {
      type: "button", "data-sort": key, "aria-pressed": String(on),
      onclick: () => {
        state.rising = on ? !state.rising : DATA.columns[COLUMN[key]]?.target !== "high";
        state.sort = key;
        refresh();
        $("table")?.querySelector(`[data-sort="${key}"]`)?.focus();
      },
    }, `${label}${on ? (state.rising ? " ↑" : " ↓") : ""}`), explanation));
}

function sorted(rows) {
  const keyed = rows.map((row) => [row, state.sort === "method" ? row.method : pool(row.runs, (run) => valueOf(run, state.stage, state.sort)).mean]);
  const missing = (value) => typeof value === "number" && Number.isNaN(value);
  keyed.sort(([, a], [, b]) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b); // what is not known comes last
    return (typeof a === "string" ? a.localeCompare(b) : a - b) * (state.rising ? 1 : -1);
  });
  return keyed.map(([row]) => row);
}

function settingBody(rows, columns) {
  const every = DATA.runs.filter((run) => run.setting === rows[0].setting);
  const floor = pool(every, (run) => valueOf(run, "retrained", "gap"));
  const gaps = rows.filter((row) => row.group !== "control").map((row) => [row, pool(row.runs, (run) => valueOf(run, state.stage, "gap")).mean]);
  const best = gaps.reduce((a, b) => (b[1] < a[1] ? b : a), [null, Infinity])[0];
  return h("tbody", {},
    h("tr", { class: "setting" }, h("th", { colspan: columns.length + 2, scope: "rowgroup" }, h("span", {},
      `${settingWords(rows[0].runs[0]) || rows[0].task}: noise floor ${withHalf(floor)}`))),
    referenceRow("retrained (reference)", "retrained", every, columns),
    referenceRow("original", "original", every, columns),
    rows.map((row) => methodRow(row, columns, row === best)));
}

const withHalf = (found) => (found.n ? written(found.mean) + (known(found.half) ? ` ± ${written(found.half)}` : "") : MISSING);

function methodRow(row, columns, isBest) {
  const { colour, shape } = styleOf(row.method);
  const silent = row.runs.filter((run) => run.caveat).length;
  const box = h("input", {
    type: "checkbox", checked: state.picked.includes(row.key), "aria-label": `Contrast ${rowWords(row)}`, "data-pick": row.method,
    onchange: () => {
      state.picked = box.checked ? [...state.picked, row.key].slice(-2) : state.picked.filter((key) => key !== row.key);
      refresh();
      document.querySelector(`#table input[aria-label="${CSS.escape(`Contrast ${rowWords(row)}`)}"]`)?.focus({ preventScroll: true });
    },
  });
  return h("tr", { "data-method": row.method },
    h("th", { scope: "row" }, h("span", { class: "pick" }, box, symbol(shape, colour), row.method),
      row.group === "more" ? h("span", { class: "tag" }, "sees more") : null,
      row.group === "control" ? h("span", { class: "tag" }, "control") : null,
      silent ? tipOn(h("span", { class: "tag", tabindex: 0 }, `${silent} say nothing`), row.runs.find((run) => run.caveat).caveat) : null),
    h("td", { class: "row-runs" }, runLinks(row.runs)),
    columns.map((column) => cell(pool(row.runs, (run) => valueOf(run, state.stage, column.key)), isBest && column.key === "gap")));
}

function runLinks(runs) {
  const shown = runs.slice(0, 3).map((run) => h("a", { href: `#run-${run.number}`, title: run.name }, run.fold ? `${run.fold}/${run.seed}` : `${run.seed}`));
  return runs.length > 3 ? [many(runs.length, "run"), ": ", shown, " …"] : ["seed", shown];
}

function referenceRow(title, stage, runs, columns) {
  return h("tr", { class: "reference" }, h("th", { scope: "row" }, title), h("td"),
    columns.map((column) => cell(pool(runs, (run) => valueOf(run, stage, column.key)), false)));
}

function cell(found, best) {
  if (!found.n) return h("td", { class: "missing" }, MISSING);
  return h("td", { class: best ? "best" : null, "data-value": found.mean },
    written(found.mean), " ", known(found.half) ? h("span", { class: "half" }, `± ${written(found.half)}`) : null);
}

// ---- which method forgets best -----------------------------------------------------------------------

/** One sentence for each setting that is shown. */
function drawFinding() {
  const settings = unique(shownRows().map((row) => row.setting));
  fill("finding", settings.slice(0, 4).map((setting) => {
    const able = ROWS.filter((row) => row.setting === setting && row.group !== "control");
    const equal = able.filter(keepsAsRetrained);
    const where = SETTINGS.length > 1 ? `${settingWords(able[0]?.runs[0] ?? DATA.runs[0])}: ` : "";
    const forget = (row) => bySeed(row.runs, (run) => valueOf(run, state.stage, "gap_forget"));
    if (METHODS.length === 1) {
      const [one] = able.length ? able : ROWS, value = (stage, key) => pool(one.runs, (run) => valueOf(run, stage, key));
      const [gap, floor, nothing, kept] = [value(state.stage, "gap"), value("retrained", "gap"), value("original", "gap"), retentionGap(one)];
      return h("p", { class: gap.mean < nothing.mean ? "finding" : "finding none" }, where || null, h("strong", {}, one.method), ` has a mean gap of ${withHalf(gap)} to the retrained models; doing nothing has ${withHalf(nothing)}, and retrained models differ among themselves by ${withHalf(floor)} (the noise floor). `,
        known(kept) ? `Retain and test accuracy are within ${written(kept)} of the retrained models'.` : "");
    }
    const ranked = equal.map((row) => [row, spread([...forget(row).values()])]).filter(([, gap]) => gap.n).sort((a, b) => a[1].mean - b[1].mean);
    if (!ranked.length) {
      return h("p", { class: "finding none" }, where || null, `${where ? "no" : "No"} method keeps retain and test accuracy within ${state.tolerance} of the retrained models.`);
    }
    const [[best, gap], ...others] = ranked;
    const close = others.filter(([row]) => {
      const difference = paired(forget(row), forget(best));
      return known(difference.half) && !isDifferent(difference);
    }).map(([row]) => row.method);
    const floor = pool(best.runs, (run) => valueOf(run, "retrained", "gap_forget"));
    return h("p", { class: "finding" }, where || null, `${where ? "at" : "At"} equal retention (within ${state.tolerance} of the retrained models) `,
      h("strong", {}, best.method), ` is nearest to them in forget accuracy: gap ${withHalf(gap)}, noise floor ${withHalf(floor)}. `,
      equal.length < able.length ? `${many(able.length - equal.length, "method")} of ${able.length} ${able.length - equal.length === 1 ? "does" : "do"} not keep enough. ` : "",
      close.length ? `Not distinguishable from it on these seeds: ${close.join(", ")}.` : others.length && gap.n > 1 ? "Every other one is farther on the same seeds." : gap.n < 2 ? "One seed cannot rank methods." : "");
  }));
}

// ---- two methods in contrast -----------------------------------------------------------------------------

function drawContrast() {
  const rows = state.picked.map((key) => ROWS.find((row) => row.key === key)).filter(Boolean);
  if (rows.length < 2) {
    fill("contrast", rows.length ? h("p", { class: "muted" }, `Tick a second method to contrast it with ${rows[0].method}.`) : null);
    return;
  }
  const [a, b] = rows;
  const lines = DATA.columns.filter((column) => state.topics.has(column.topic) || PINNED.has(column.key)).map((column) => contrastLine(column, a, b)).filter(Boolean);
  fill("contrast", h("h3", {}, `${rowWords(a)} against ${rowWords(b)}`),
    a.setting !== b.setting ? h("p", { class: "caveat" }, "They did not delete the same: differences are also those of the task.") : null,
    table(["measure", a.method, b.method, "retrained", "", "difference", "nearer or better"], lines, { id: "contrast-table" }),
    h("p", { class: "muted small" }, "Difference: first less second on the seeds that both have, with its 95 % interval; on one seed there is none. More measures: tick them above. Not corrected for the number of measures."));
}

function contrastLine(column, a, b) {
  const value = (run) => valueOf(run, state.stage, column.key);
  const reference = (run) => valueOf(run, "retrained", column.key);
  const [inA, inB] = [bySeed(a.runs, value), bySeed(b.runs, value)];
  if (!inA.size || !inB.size) return null;
  const difference = paired(inA, inB);
  const target = pool([...a.runs, ...b.runs], reference);
  let good = difference;
  if (column.target === "reference") {
    const from = (runs) => bySeed(runs, (run) => (known(value(run)) && known(reference(run)) ? Math.abs(value(run) - reference(run)) : null));
    good = paired(from(a.runs), from(b.runs));
  }
  const lower = column.target !== "high";
  const judged = column.target && isDifferent(good) ? ((good.mean < 0) === lower ? a.method : b.method)
    : good.mean === 0 && known(good.half) && good.half === 0 ? "equal" : known(good.half) ? "not distinguishable" : MISSING;
  const [ownA, ownB] = [spread([...inA.values()]), spread([...inB.values()])];
  return [tipOn(h("span", { tabindex: 0 }, column.label), column.explanation), withHalf(ownA), withHalf(ownB), target.n ? written(target.mean) : MISSING,
    intervals(ownA, ownB, target, a, b), difference.n ? signed(difference.mean) + (known(difference.half) ? ` ± ${written(difference.half)}` : "") : MISSING, judged];
}

/** Both means with their intervals, and the retrained models' mean, on one scale. */
function intervals(a, b, target, rowA, rowB) {
  const ends = [a, b].flatMap(({ mean, half }) => [mean - (half || 0), mean + (half || 0)]);
  if (target.n) ends.push(target.mean);
  const x = scale(Math.min(...ends), Math.max(...ends), 7, 153);
  const one = ({ mean, half }, y, { colour, shape }) => [
    known(half) ? s("line", { x1: x(mean - half), x2: x(mean + half), y1: y, y2: y, stroke: colour, "stroke-width": 2 }) : null,
    mark(shape, x(mean), y, 4, { fill: colour }),
  ];
  return s("svg", { width: 160, height: 24, viewBox: "0 0 160 24", "aria-hidden": "true" },
    target.n ? s("line", { x1: x(target.mean), x2: x(target.mean), y1: 1, y2: 23, stroke: "var(--green)", "stroke-width": 2 }) : null,
    one(a, 7, styleOf(rowA.method)), one(b, 17, styleOf(rowB.method)));
}

views.overview.push(drawFinding, drawMethods, drawContrast);
