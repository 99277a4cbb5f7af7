// Means over seeds with 95 % intervals of Student's t, as the tables of `fedunlearn compare` have them.

/** Quantile of Student's t for a 95 % interval. */
const quantile = (free) => (free < 1 ? NaN : DATA.t[Math.min(free, DATA.t.length) - 1]);

/** Mean, half the width of its interval (NaN with one value), and number of values. */
function spread(values) {
  const n = values.length;
  if (n === 0) return { mean: NaN, half: NaN, n };
  const mean = sum(values) / n;
  if (n === 1) return { mean, half: NaN, n };
  const deviation = Math.sqrt(sum(values.map((value) => (value - mean) ** 2)) / (n - 1));
  return { mean, half: (quantile(n - 1) * deviation) / Math.sqrt(n), n };
}

/** Fold and seed -> mean value of those runs; runs without a value count for nothing. */
function bySeed(runs, value) {
  const found = new Map();
  for (const run of runs) {
    const own = value(run);
    if (!known(own)) continue;
    const unit = `${run.fold}/${run.seed}`;
    if (!found.has(unit)) found.set(unit, []);
    found.get(unit).push(own);
  }
  return new Map([...found].map(([unit, values]) => [unit, sum(values) / values.length]));
}

const pool = (runs, value) => spread([...bySeed(runs, value).values()]);

/** Differences on the seeds that both have. */
function paired(a, b) {
  return spread([...a].filter(([unit]) => b.has(unit)).map(([unit, value]) => value - b.get(unit)));
}

/** Whether a difference has an interval, and 0 is not in it. */
const isDifferent = (difference) => !Number.isNaN(difference.half) && Math.abs(difference.mean) > difference.half;

/** Ellipse that holds 95 % of retrained models, were they Gaussian; null with too few of them. */
function noiseEllipse(runs, column) {
  let free = 0, xx = 0, xy = 0, yy = 0;
  const seen = new Set();
  for (const run of runs) {
    const unit = JSON.stringify([run.task, run.size, run.requesters, run.fold, run.seed, run.seeds]);
    if (run.seeds.length < 2 || seen.has(unit)) continue;
    seen.add(unit);
    for (const deviation of run.seeds) {
      const [x, y] = [deviation[column], deviation[0]];
      xx += x * x; xy += x * y; yy += y * y;
    }
    free += run.seeds.length - 1;
  }
  if (free < 2) return null;
  xx /= free; xy /= free; yy /= free;
  const middle = (xx + yy) / 2, apart = Math.hypot((xx - yy) / 2, xy);
  const scale = 5.991; // 95 % quantile of chi-square with two degrees of freedom
  return {
    long: Math.sqrt(scale * (middle + apart)),
    short: Math.sqrt(scale * Math.max(middle - apart, 0)),
    angle: 0.5 * Math.atan2(2 * xy, xx - yy),
    right: Math.sqrt(scale * xx),
    top: Math.sqrt(scale * yy),
  };
}

// ---- runs of one setting, and the rows of the table ------------------------------------------------------

const settingOf = (run) => JSON.stringify([run.task, run.size, run.requesters, run.aggregation, run.recovery, run.window]);
const axisOf = (run) => JSON.stringify([run.task, run.requesters, run.aggregation, run.recovery, run.window]);
const COLUMN = Object.fromEntries(DATA.columns.map((column, number) => [column.key, number]));

DATA.runs.forEach((run, number) => {
  run.number = number;
  run.setting = settingOf(run);
  run.axis = axisOf(run);
});

const stageOf = (run, stage) => STAGES.indexOf(stage === "final" ? run.final : stage);
const valueOf = (run, stage, key) => run.values[stageOf(run, stage)][COLUMN[key]];

const SETTINGS = [...Map.groupBy(DATA.runs, (run) => run.setting)].map(([key, runs]) => ({
  key, runs, task: runs[0].task, axis: runs[0].axis, size: runs[0].size,
  deleted: sum(runs.map((run) => run.deleted)) / runs.length / Math.max(runs[0].requesters, 1),
  methods: unique(runs.map((run) => run.method)).length,
}));
SETTINGS.sort((a, b) => a.task.localeCompare(b.task) || a.deleted - b.deleted || a.key.localeCompare(b.key));

const varies = (part) => unique(DATA.runs.map((run) => run[part])).length > 1;
const sizeWords = (size) => (size === "all" ? "whole client" : /^\d+$/.test(size) ? many(Number(size), "utterance") : `${size}`);

/** What a setting is about, in words; what all have in common is left out. */
function settingWords(run, withTask = true) {
  return [
    withTask && varies("task") ? run.task : null,
    sizeWords(run.size),
    run.requesters > 1 || varies("requesters") ? many(run.requesters, "request") : null,
    varies("aggregation") ? `aggregated by ${run.aggregation}` : null,
    varies("recovery") ? (run.recovery.startsWith("no") ? "no recovery" : `recovery ${run.recovery}`) : null,
    varies("window") ? `window ${run.window}` : null,
  ].filter(Boolean).join(", ");
}

const METHODS = unique(DATA.runs.map((run) => run.method));
const ROWS = [...Map.groupBy(DATA.runs, (run) => JSON.stringify([run.setting, run.method]))].map(([key, runs]) => ({
  key, runs, method: runs[0].method, group: runs[0].group, setting: runs[0].setting, axis: runs[0].axis, task: runs[0].task,
}));
const rowWords = (row) => (SETTINGS.length > 1 ? `${row.method}, ${settingWords(row.runs[0])}` : row.method);

/** The rows that the filters leave. */
function shownRows(everySetting = false) {
  const wanted = state.search.trim().toLowerCase();
  return ROWS.filter((row) =>
    (everySetting ? row.task === state.task : state.setting === "all" ? row.task === state.task : row.setting === state.setting) &&
    (state.controls || row.group !== "control") &&
    (!wanted || row.method.toLowerCase().includes(wanted)) &&
    (everySetting || !state.equal || keepsAsRetrained(row)));
}

/** Mean distance of retain and of test accuracy to the retrained models, whichever is larger; NaN if unknown. */
function retentionGap(row) {
  const away = [1, 2].map((column) =>
    Math.abs(pool(row.runs, (run) => run.away[stageOf(run, state.stage)][column]).mean));
  return Math.max(...away);
}

const keepsAsRetrained = (row) => retentionGap(row) <= state.tolerance + 1e-9;
