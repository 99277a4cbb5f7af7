// One run: which one, what it is, and the views that show it.

function drawRunControls() {
  const run = DATA.runs[state.run];
  const methods = unique(DATA.runs.map((other) => other.method));
  const settings = SETTINGS.filter((setting) => setting.runs.some((other) => other.method === run.method));
  const alike = DATA.runs.filter((other) => other.method === run.method && other.setting === run.setting);
  /** The run that is most like this one among some. */
  const nearest = (runs) => runs.find((other) => other.setting === run.setting && other.seed === run.seed && other.fold === run.fold)
    ?? runs.find((other) => other.setting === run.setting) ?? runs.find((other) => other.task === run.task) ?? runs[0];
  const go = (other) => { location.hash = `#run-${other.number}`; };
  fill("run-controls",
    methods.length > 1 ? choice("Method", "run-method", methods.map((method) => [method, method]), run.method, (method) => go(nearest(DATA.runs.filter((other) => other.method === method)))) : null,
    settings.length > 1 ? choice("Deletes", "run-setting", settings.map((setting) => [setting.key, settingWords(setting.runs[0])]), run.setting, (key) => go(DATA.runs.find((other) => other.method === run.method && other.setting === key))) : null,
    alike.length > 1 ? choice("Seed", "run-seed", alike.map((other) => [other.number, other.fold ? `fold ${other.fold}, seed ${other.seed}` : `seed ${other.seed}`]), run.number, (number) => go(DATA.runs[Number(number)])) : null,
    DATA.runs.length > 1 ? h("button", { type: "button", onclick: () => go(DATA.runs[(run.number + DATA.runs.length - 1) % DATA.runs.length]) }, "← previous") : null,
    DATA.runs.length > 1 ? h("button", { type: "button", onclick: () => go(DATA.runs[(run.number + 1) % DATA.runs.length]) }, "next →") : null);
}

function drawRunAbout(run, detail) {
  const fact = (name, value) => [h("div", {}, h("dt", {}, name), h("dd", {}, value))];
  const gap = (stage) => valueOf(run, stage, "gap");
  const forget = (stage) => detail.models[stageOf(run, stage)]?.accuracies[0];
  fill("run-about",
    h("p", {}, h("strong", { id: "run-name" }, `${run.method}, ${run.task}, seed ${run.seed}`), ` (${run.name}): `, `${many(run.deleted, "utterance")} deleted by ${many(run.requesters, "request")}. `,
      run.report ? h("a", { href: run.report }, "Its report") : null),
    h("dl", { class: "facts" },
      fact("mean gap", written(gap("final"))), fact("noise floor", written(gap("retrained"))), fact("doing nothing", written(gap("original"))),
      fact("forget accuracy: original", written(forget("original"))), fact("unlearned", written(forget("unlearned"))),
      run.final === "recovered" ? fact("recovered", written(forget("recovered"))) : null, fact("retrained", written(forget("retrained")))),
    run.status !== "complete" ? h("p", { class: "caveat" }, `This run is ${run.status}.`) : null,
    detail.notes.map((note) => h("p", { class: "caveat" }, note)));
}

let turn = 0;
/** Open a run, and draw all views of it. */
async function openRun(number) {
  state.run = number;
  drawRunControls();
  const mine = ++turn;
  let detail;
  try {
    detail = await detailOf(number);
  } catch (error) {
    fill("run-about", h("p", { class: "caveat" }, `The data of this run cannot be read by this browser (${error.message}). Use a version of 2023 or later.`));
    return;
  }
  if (mine !== turn) return; // another run was opened meanwhile
  const run = DATA.runs[number];
  drawRunAbout(run, detail);
  for (const draw of views.run) draw(run, detail);
  document.documentElement.dataset.run = number;
}

/** The models that a run has, in the order of the stages; without recovery there is no recovered one. */
const stagesOf = (run, detail) => STAGES.filter((stage, number) => detail.models[number] && !(stage === "recovered" && run.final === "unlearned"));
const modelOf = (detail, stage) => detail.models[STAGES.indexOf(stage)];
const lastOf = (run) => run.final;
