// Single utterances: each a dot; which deleted ones can still be detected, and why.

const dots = { x: "retrained", y: "final", sets: new Set(["forget", "test"]), emotion: "", speaker: "", request: "", correct: "", chosen: null };
const SET_NAMES = { forget: "deleted", retain: "retained", test: "held-out", unseen: "unseen speakers" };
const SET_COLOURS = { forget: "var(--vermillion)", retain: "var(--blue)", test: "var(--black)", unseen: "var(--purple)" };
const SET_SHAPES = { forget: "square", retain: "circle", test: "triangle", unseen: "diamond" };
const FAR = 2; // standard deviations from the retrained models beyond which an utterance is detected

/** Every utterance that the page has of a run, as one object. */
function utterancesOf(detail) {
  let deleted = 0;
  return detail.groups.flatMap((group) => group.log_odds[0].map((_, n) => ({
    key: `${group.subset} ${group.request ?? `${group.client} ${group.speaker}`} ${n}`,
    subset: group.subset, request: group.request, client: group.client, speaker: group.speaker,
    place: group.places[n] ?? null, emotion: group.emotions.length ? detail.emotions[group.emotions[n]] : null,
    log_odds: group.log_odds.map((column) => column[n]), correct: group.correct.map((column) => column[n] === "1"),
    deviation: group.deviations[n] ?? null, index: group.subset === "forget" ? ++deleted : null,
  })));
}

const nameOf = (utterance) =>
  utterance.subset === "forget" ? `deleted utterance ${utterance.index}`
    : utterance.place === null ? `${SET_NAMES[utterance.subset]} utterance of someone who asked`
      : `utterance ${utterance.place} (${SET_NAMES[utterance.subset]}${utterance.client === null ? "" : `, client ${utterance.client}`}, ${utterance.emotion})`;

/** How far a retrained model's log-odds differ from another's on one utterance: root mean square over D_f. */
function noiseOf(run, utterances, last) {
  const rms = (values) => Math.sqrt(sum(values.map((value) => value ** 2)) / values.length);
  const own = utterances.filter(({ subset, deviation }) => subset === "forget" && known(deviation)).map(({ deviation }) => deviation);
  if (own.length) return { value: rms(own) * Math.sqrt(1 + 1 / Math.max(run.seeds.length, 2)), words: "standard deviation of one more retrained model from the mean of these" };
  const held = utterances.filter(({ subset, log_odds }) => subset === "test" && known(log_odds[last]) && known(log_odds[3])).map(({ log_odds }) => log_odds[last] - log_odds[3]);
  return held.length ? { value: rms(held), words: "distance to the one retrained model on held-out speech, root mean square" } : { value: NaN, words: "" };
}

function drawUtterances(run, detail) {
  const all = utterancesOf(detail);
  if (!all.length) {
    for (const id of ["utterances-controls", "told", "utterance"]) fill(id);
    $("utterances-note").textContent = "";
    absent("utterances-chart", "This run does not record single utterances (it is older than this view). Run it again to see them.");
    return;
  }
  const last = STAGES.indexOf(run.final), noise = noiseOf(run, all, last);
  drawDotControls(run, detail, all, () => drawDots(run, detail, all, noise));
  dots.chosen = drawTold(run, detail, all, noise)?.key ?? null;
  showUtterance(run, detail, all, noise);
  drawDots(run, detail, all, noise);
}

function drawDotControls(run, detail, all, again) {
  const stages = stagesOf(run, detail), present = Object.keys(SET_NAMES).filter((name) => all.some(({ subset }) => subset === name));
  const speakers = unique(all.filter(({ speaker }) => speaker !== null).map(({ client, speaker }) => `${client ?? "unseen"} ${speaker}`));
  const requests = unique(all.map(({ request }) => request).filter(Boolean));
  const stage = (name) => [name === run.final ? "final" : name, name];
  for (const [key, options] of [["speaker", speakers], ["request", requests], ["emotion", detail.emotions]]) if (!options.includes(dots[key])) dots[key] = "";
  const set = (key) => (value) => { dots[key] = value; again(); };
  fill("utterances-controls",
    choice("Across", "dots-x", [["retrained", "retrained"], ["original", "original"]], dots.x, set("x")),
    choice("Up", "dots-y", stages.filter((name) => name !== "retrained").map(stage), dots.y, set("y")),
    h("fieldset", {}, h("legend", {}, "Speech"), h("div", {}, present.map((name) => tick(`${SET_NAMES[name]} (${all.filter(({ subset }) => subset === name).length})`, `set-${name}`, dots.sets.has(name), (on) => { if (on) dots.sets.add(name); else dots.sets.delete(name); again(); })))),
    choice("Emotion", "dots-emotion", [["", "all"], ...detail.emotions.map((emotion) => [emotion, emotion])], dots.emotion, set("emotion")),
    choice("Speaker", "dots-speaker", [["", "all"], ...speakers.map((speaker) => [speaker, speaker.startsWith("unseen") ? `unseen speaker ${speaker.slice(7)}` : `client ${speaker.replace(" ", ", speaker ")}`])], dots.speaker, set("speaker")),
    requests.length > 1 ? choice("Request", "dots-request", [["", "all"], ...requests.map((request) => [request, requestName(detail, request)])], dots.request, set("request")) : null,
    choice("Recognised", "dots-correct", [["", "any"], ["1", "correctly"], ["0", "wrongly"]], dots.correct, set("correct")));
}

function requestName(detail, id) {
  const number = unique(detail.requests.map((request) => request.id)).indexOf(id);
  return `request ${number + 1}`;
}

function passes(run, utterance) {
  const at = STAGES.indexOf(dots.y === "final" ? run.final : dots.y);
  return dots.sets.has(utterance.subset) &&
    (!dots.emotion || utterance.emotion === dots.emotion) &&
    (!dots.speaker || `${utterance.client ?? "unseen"} ${utterance.speaker}` === dots.speaker && utterance.speaker !== null) &&
    (!dots.request || utterance.request === dots.request) &&
    (dots.correct === "" || utterance.correct[at] === (dots.correct === "1"));
}

function drawDots(run, detail, all, noise) {
  const column = (name) => STAGES.indexOf(name === "final" ? run.final : name);
  const [cx, cy] = [column(dots.x), column(dots.y)];
  const shown = all.filter((utterance) => passes(run, utterance) && known(utterance.log_odds[cx]) && known(utterance.log_odds[cy]));
  const values = all.flatMap(({ log_odds }) => [log_odds[cx], log_odds[cy]]).filter(known);
  const low = Math.floor(Math.min(...values)), high = Math.ceil(Math.max(...values));
  const order = [...shown].sort((a, b) => (a.subset === "forget") - (b.subset === "forget"));
  const choose = (utterance) => { dots.chosen = utterance.key; showUtterance(run, detail, all, noise); drawDots(run, detail, all, noise); };
  chart("utterances-chart", "Log-odds of the true emotion, one dot an utterance; arrow keys move from dot to dot", (width) => {
    const height = Math.min(560, Math.max(340, width * 0.82));
    const x = scale(low, high, 46, width - 10), y = scale(low, high, height - 46, 24);
    const band = dots.x === "retrained" && known(noise.value) ? FAR * noise.value : 0;
    const clip = (value) => Math.min(Math.max(value, low), high);
    const edge = (offset) => [[low, low + offset], [high, high + offset]];
    const polygon = [...edge(band), ...edge(-band).reverse()].map(([px, py]) => `${x(px)},${y(py)}`).join(" ");
    const marks = order.map((utterance) => {
      const chosen = utterance.key === dots.chosen, deleted = utterance.subset === "forget";
      const element = mark(SET_SHAPES[utterance.subset], x(utterance.log_odds[cx]), y(utterance.log_odds[cy]), chosen ? 7 : deleted ? 4.4 : 3, {
        class: chosen ? "mark focus" : "mark", fill: deleted || chosen ? SET_COLOURS[utterance.subset] : "none", "fill-opacity": 0.8, stroke: SET_COLOURS[utterance.subset],
        "stroke-opacity": deleted ? 1 : 0.6, "data-key": utterance.key, "data-subset": utterance.subset, tabindex: -1, role: "button",
        "aria-label": `${nameOf(utterance)}: ${dots.x} ${nats(utterance.log_odds[cx])}, ${STAGES[cy]} ${nats(utterance.log_odds[cy])}`, style: "cursor:pointer",
        onclick: () => choose(utterance),
      });
      return tipOn(element, `${nameOf(utterance)}\n${dots.x} ${nats(utterance.log_odds[cx])}, ${STAGES[cy]} ${nats(utterance.log_odds[cy])} nats`);
    });
    if (marks.length) (marks.find((element) => element.getAttribute("data-key") === dots.chosen) ?? marks.at(-1)).setAttribute("tabindex", 0);
    const along = [...marks].sort((a, b) => order[marks.indexOf(a)].log_odds[cx] - order[marks.indexOf(b)].log_odds[cx]);
    const group = s("g", { onkeydown: (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); event.target.dispatchEvent(new MouseEvent("click")); }
      if (!step) return;
      event.preventDefault();
      const next = along[along.indexOf(event.target) + step];
      if (next) { event.target.setAttribute("tabindex", -1); next.setAttribute("tabindex", 0); next.focus({ preventScroll: true }); }
    } }, marks);
    const id = "dots-clip";
    return { height, above: h("ul", { class: "legend" }, [...dots.sets].map((name) => h("li", {}, symbol(SET_SHAPES[name], SET_COLOURS[name], name !== "forget"), SET_NAMES[name]))), parts: [
      s("clipPath", { id }, s("rect", { x: x.from, y: y.to, width: x.to - x.from, height: y.from - y.to })),
      axes(x, y, [`log-odds of the true emotion, ${dots.x} (nats)`, `log-odds, ${STAGES[cy]} (nats)`]),
      s("g", { "clip-path": `url(#${id})` }, band ? s("polygon", { class: "noise", points: polygon }) : null, s("line", { class: "zero", x1: x(low), y1: y(low), x2: x(high), y2: y(high) })),
      group, clip(low) === low && !shown.length ? s("text", { x: (x.from + x.to) / 2, y: height / 2, "text-anchor": "middle" }, "no utterance passes the filters") : null] };
  });
  const held = detail.groups.filter(({ subset }) => subset !== "forget"), total = sum(held.map((group) => group.total)), have = sum(held.map((group) => group.log_odds[0].length));
  $("utterances-note").textContent = `${shown.length} of ${all.length} utterances are shown. On the dashed line an utterance is answered as by the ${dots.x} model${dots.x === "retrained" ? `; in the grey band (± ${FAR} × ${nats(noise.value)} nats) it cannot be distinguished from retraining` : ""}. ` +
    `Emotion and speaker of deleted utterances, and of all others of those who asked, are not in this file.${have < total ? ` Of the speech that is held, ${have} of ${total} utterances are in it.` : ""}`;
  document.documentElement.dataset.dots = shown.length;
}

// ---- which deleted utterances can still be detected, and why ------------------------------------------------------

const distanceOf = (utterance, last) => utterance.log_odds[last] - utterance.log_odds[3];

/** List the deleted utterances that are farthest from the retrained models; gives the farthest. */
function drawTold(run, detail, all, noise) {
  const last = STAGES.indexOf(run.final);
  const deleted = all.filter(({ subset, log_odds }) => subset === "forget" && known(log_odds[last]) && known(log_odds[3]));
  const ranked = [...deleted].sort((a, b) => Math.abs(distanceOf(b, last)) - Math.abs(distanceOf(a, last)));
  const far = ranked.filter((utterance) => Math.abs(distanceOf(utterance, last)) > FAR * noise.value);
  fill("told", h("h3", { style: "margin-top:0" }, "Which deleted utterances can still be detected?"),
    h("p", {}, h("strong", { id: "told-count" }, `${far.length} of ${deleted.length}`), ` are answered farther than ${FAR} × ${nats(noise.value)} nats from the retrained models (${noise.words}). Who can train such models, as U-LiRA does, detects these. The farthest:`),
    h("ol", { class: "told" }, ranked.slice(0, 8).map((utterance) => h("li", {}, h("button", {
      type: "button", "data-told": utterance.index, "aria-pressed": "false",
      onclick: () => { dots.chosen = utterance.key; dots.sets.add("forget"); showUtterance(run, detail, all, noise); drawDots(run, detail, all, noise); if ($("set-forget")) $("set-forget").checked = true; },
    }, h("span", {}, `deleted utterance ${utterance.index}`), h("span", {}, `${signed1(distanceOf(utterance, last))} nats, `, whyTold(run, utterance, noise).short))))));
  return ranked[0];
}

const signed1 = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;

/** Why an utterance is detected: a short word, and sentences. */
function whyTold(run, utterance, noise) {
  const [original, unlearned, , retrained] = utterance.log_odds, after = utterance.log_odds[STAGES.indexOf(run.final)];
  const distance = after - retrained, needed = retrained - original, done = after - original;
  const near = (value) => Math.abs(value) <= FAR * noise.value;
  if (near(distance)) {
    return { short: "not detected", words: `It is answered as by models that never heard it (${signed1(distance)} nats, within ${FAR} × ${nats(noise.value)}): by its answer alone it cannot be detected.` };
  }
  const side = distance > 0
    ? `It is still answered better than by models that never heard it, by ${nats(distance)} nats.`
    : `It is answered worse than by models that never heard it, by ${nats(-distance)} nats: it was pushed too far, and that gives it away, too.`;
  if (run.final === "recovered" && known(unlearned) && near(unlearned - retrained)) {
    return { short: "came back in recovery", words: `${side} Right after unlearning it was as in the retrained models (${signed1(unlearned - retrained)} nats); recovery moved it away again.` };
  }
  if (near(needed)) {
    return { short: "moved for nothing", words: `${side} The original model answered it as the retrained ones do (${signed1(-needed)} nats), so there was nothing to forget; unlearning moved it by ${signed1(done)}.` };
  }
  const share = done / needed;
  if (share < 0) return { short: "moved the wrong way", words: `${side} Retraining changes its log-odds by ${signed1(needed)} nats; unlearning moved it by ${signed1(done)}, the other way.` };
  if (share < 1) return { short: `moved ${percent(share, 0)} of the way`, words: `${side} Retraining changes its log-odds by ${signed1(needed)} nats; unlearning moved it by ${signed1(done)}, which is ${percent(share, 0)} of the way.` };
  return { short: `moved ${percent(share, 0)} of the way`, words: `${side} Retraining changes its log-odds by ${signed1(needed)} nats; unlearning moved it by ${signed1(done)}, ${percent(share, 0)} of the way.` };
}

function showUtterance(run, detail, all, noise) {
  const utterance = all.find(({ key }) => key === dots.chosen);
  document.querySelectorAll("#told button").forEach((button) => button.setAttribute("aria-pressed", String(utterance?.index !== null && Number(button.dataset.told) === utterance?.index)));
  if (!utterance) { fill("utterance"); return; }
  const stages = stagesOf(run, detail), last = STAGES.indexOf(run.final);
  const test = all.filter(({ subset, log_odds }) => subset === "test" && known(log_odds[last])).map(({ log_odds }) => log_odds[last]);
  const below = test.length ? test.filter((value) => value < utterance.log_odds[last]).length / test.length : NaN;
  const parts = [h("h3", { id: "utterance-name" }, nameOf(utterance)[0].toUpperCase() + nameOf(utterance).slice(1)), numberLine(utterance, stages, noise)];
  parts.push(table(["model", "log-odds (nats)", "recognised"], stages.map((stage) => {
    const at = STAGES.indexOf(stage);
    return [[symbol(STAGE_MARK[stage], stageColour(stage)), " ", stage], `${nats(utterance.log_odds[at])}${stage === "retrained" && known(utterance.deviation) ? ` ± ${nats(utterance.deviation)}` : ""}`, utterance.correct[at] ? "correctly" : "wrongly"];
  })));
  if (utterance.subset === "forget") {
    parts.push(h("p", { id: "why" }, whyTold(run, utterance, noise).words));
    if (known(below)) parts.push(h("p", {}, `The ${run.final} model answers it more confidently than ${percent(below, 0)} of the held-out utterances: ${below > 0.5 ? "an attack by a threshold, as above, may find it, too." : "an attack by a threshold alone, as above, does not find it."}`));
    parts.push(h("p", { class: "muted small" }, `${utterance.request ? `Deleted by ${requestName(detail, utterance.request)}. ` : ""}Of deleted speech nothing else is kept: no name, no speaker, no emotion, no sound.`));
  } else {
    const moved = distanceOf(utterance, last);
    if (known(moved)) parts.push(h("p", {}, `After unlearning it is ${signed1(utterance.log_odds[last] - utterance.log_odds[0])} nats from where it was, and ${signed1(moved)} from the retrained models.`));
    parts.push(soundOf(run, utterance));
  }
  fill("utterance", h("div", { class: "panel" }, parts));
}

/** Where each model's log-odds lie, on one line, with the noise of retraining. */
function numberLine(utterance, stages, noise) {
  const values = stages.map((stage) => utterance.log_odds[STAGES.indexOf(stage)]).filter(known), retrained = utterance.log_odds[3];
  const width = 360, x = scale(Math.min(...values, 0) - 1.5, Math.max(...values, 0) + 1.5, 12, width - 12);
  const half = known(noise.value) ? FAR * noise.value : 0;
  const clamp = (value) => Math.min(Math.max(value, x.low), x.high);
  return h("div", { class: "chart" }, s("svg", { viewBox: `0 0 ${width} 62`, role: "img", "aria-label": stages.map((stage) => `${stage} ${nats(utterance.log_odds[STAGES.indexOf(stage)])}`).join(", ") },
    known(retrained) && half ? s("rect", { class: "noise", x: x(clamp(retrained - half)), width: x(clamp(retrained + half)) - x(clamp(retrained - half)), y: 8, height: 28 }) : null,
    s("line", { class: "grid", x1: x.from, x2: x.to, y1: 36, y2: 36 }),
    ticks(x.low, x.high, 5).map((value) => s("text", { class: "axis", x: x(value), y: 53, "text-anchor": "middle" }, tickText(value))),
    stages.map((stage) => {
      const value = utterance.log_odds[STAGES.indexOf(stage)];
      return known(value) ? mark(STAGE_MARK[stage], x(value), 22, 6, { fill: stageColour(stage), stroke: "var(--card)" }) : null;
    })));
}

views.run.push(drawUtterances);
