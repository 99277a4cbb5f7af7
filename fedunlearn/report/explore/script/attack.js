// The attack: a threshold to drag, the rates that it gives, and ROC curves with the low end.

const attack = { statistic: "log_odds", model: "final", edge: null, low: false };
const STATISTICS = {
  losses: { name: "loss", words: "loss of the true emotion (nats)", lower: true, edges: (detail) => detail.loss_edges },
  log_odds: { name: "log-odds", words: "log-odds of the true emotion (nats)", lower: false, edges: (detail) => detail.log_odds_edges },
};

/** Rates of the attack that takes a loss below, or log-odds above, the threshold for those of a deleted utterance. */
function ratesAt(histogram, edge, lower) {
  const share = (counts) => { const total = sum(counts); return total ? sum(lower ? counts.slice(0, edge) : counts.slice(edge)) / total : NaN; };
  return { tpr: share(histogram.forget), fpr: share(histogram.test) };
}

function drawAttack(run, detail) {
  const stages = stagesOf(run, detail);
  if (!stages.some((stage) => sum(modelOf(detail, stage).losses.forget))) {
    for (const id of ["attack-histogram", "attack-roc"]) absent(id, "Nothing was deleted in this run, or its losses are not recorded.");
    for (const id of ["attack-controls", "attack-rates", "attack-auc"]) fill(id);
    return;
  }
  const hasOdds = stages.every((stage) => modelOf(detail, stage).log_odds);
  if (!hasOdds) attack.statistic = "losses";
  if (!stages.includes(attack.model === "final" ? run.final : attack.model)) attack.model = "final";
  const { lower, edges: edgesOf, words } = STATISTICS[attack.statistic];
  const edges = edgesOf(detail), stage = attack.model === "final" ? run.final : attack.model;
  const histogramOf = (name) => modelOf(detail, name)[attack.statistic];
  const again = () => drawAttack(run, detail);
  fill("attack-controls",
    hasOdds ? choice("Statistic", "statistic", Object.entries(STATISTICS).map(([key, { name }]) => [key, name]), attack.statistic, (key) => { attack.statistic = key; attack.edge = null; again(); }) : null,
    choice("Model", "attack-model", stages.filter((name) => name !== "retrained").map((name) => [name === run.final ? "final" : name, name === run.final ? `${name} (at the end)` : name]), attack.model, (model) => { attack.model = model; again(); }),
    tick("ROC: only the low end (logarithmic)", "roc-low", attack.low, (on) => { attack.low = on; drawRoc(run, detail, stages, stage); }));
  const best = [...edges.keys()].reduce((a, b) => {
    const gain = (edge) => { const { tpr, fpr } = ratesAt(histogramOf("original"), edge, lower); return tpr - fpr; };
    return gain(b) > gain(a) ? b : a;
  });
  attack.edge = attack.edge ?? best;
  const slider = $("threshold");
  slider.max = edges.length - 1;
  slider.value = attack.edge;
  slider.oninput = () => moveThreshold(Number(slider.value));
  let line = null, x = null;
  const two = [stage, "retrained"].filter((name) => stages.includes(name));
  chart("attack-histogram", `Histograms of the ${words} of deleted and of held-out utterances`, (width) => {
    const panel = 140, height = two.length * panel + 62, parts = [];
    x = scale(edges[0], edges.at(-1), 44, width - 10);
    two.forEach((name, n) => {
      const { forget, test } = histogramOf(name), base = 22 + n * panel + panel / 2;
      const share = (counts) => counts.map((count) => count / (sum(counts) || 1));
      const [up, down] = [share(forget), share(test)].map((shares) => (lower ? shares.map(Math.sqrt) : shares)), most = Math.max(...up, ...down, 1e-9), half = panel / 2 - 14;
      const bars = (shares, direction, colour, counts, what) => shares.map((value, bin) => counts[bin] ? s("rect", {
        x: x(edges[bin]) + 0.5, width: Math.max(1, x(edges[bin + 1]) - x(edges[bin]) - 1), y: direction > 0 ? base - (value / most) * half : base,
        height: (value / most) * half, fill: colour, "data-bin": `${name} ${what} ${bin}`, "data-count": counts[bin] }) : null);
      parts.push(s("g", { role: "img", "aria-label": `${name}: deleted above, held-out below the line` },
        bars(up, 1, stageColour(name), forget, "forget"), bars(down, -1, "var(--black)", test, "test"),
        s("line", { x1: x.from, x2: x.to, y1: base, y2: base, stroke: "var(--ink)" }),
        s("text", { x: x.from, y: 22 + n * panel + 2, style: "font-weight:650" }, name),
        s("text", { class: "axis", x: x.to, y: base - half + 2, "text-anchor": "end" }, `deleted (${sum(forget)}) ↑`),
        s("text", { class: "axis", x: x.to, y: base + half + 4, "text-anchor": "end" }, `held-out (${sum(test)}) ↓`)));
    });
    const foot = 22 + two.length * panel;
    const taken = s("rect", { id: "taken", y: 8, height: foot - 8, fill: "var(--muted)", "fill-opacity": 0.13, "pointer-events": "none" });
    const rule = s("line", { y1: 8, y2: foot, stroke: "var(--ink)", "stroke-width": 2 });
    const grip = s("g", { class: "handle", id: "threshold-handle", "aria-hidden": "true" },
      s("rect", { class: "hit", x: -14, width: 28, y: 0, height: foot }), s("path", { d: "M-7 2H7V10L0 18L-7 10Z", fill: "var(--ink)" }));
    line = () => {
      const at = x(edges[attack.edge]);
      rule.setAttribute("x1", at); rule.setAttribute("x2", at); grip.setAttribute("transform", `translate(${at} 0)`);
      taken.setAttribute("x", lower ? x.from : at); taken.setAttribute("width", Math.max(0, lower ? at - x.from : x.to - at));
    };
    const svgX = (event) => { const box = grip.ownerSVGElement.getBoundingClientRect(); return ((event.clientX - box.left) / box.width) * width; };
    grip.addEventListener("pointerdown", (event) => { grip.setPointerCapture(event.pointerId); event.preventDefault(); });
    grip.addEventListener("pointermove", (event) => {
      if (!grip.hasPointerCapture(event.pointerId)) return;
      const value = x.value(svgX(event));
      moveThreshold(edges.reduce((near, edge, n) => (Math.abs(edge - value) < Math.abs(edges[near] - value) ? n : near), 0));
    });
    line();
    return { height, parts: [parts, ticks(edges[0], edges.at(-1), width / 90).map((value) => s("text", { class: "axis", x: x(value), y: foot + 17, "text-anchor": "middle" }, tickText(value))),
      s("text", { x: (x.from + x.to) / 2, y: foot + 36, "text-anchor": "middle" }, words), taken, rule, grip] };
  }, h("p", { class: "muted small" }, `Drag the handle, or use the slider with the arrow keys. What is ${lower ? "below" : "above"} the threshold is taken for deleted speech. Beyond the ends: in the outer bins.${lower ? " Heights: square root of the share." : " Of several retrained models: their mean log-odds."}`));

  function moveThreshold(edge) {
    attack.edge = edge;
    slider.value = edge;
    line();
    showRates();
  }
  function showRates() {
    const rates = stages.map((name) => [name, ratesAt(histogramOf(name), attack.edge, lower)]);
    $("threshold-value").textContent = `${lower ? "<" : "≥"} ${tickText(edges[attack.edge])} nats`;
    slider.setAttribute("aria-valuetext", `${tickText(edges[attack.edge])} nats`);
    const own = rates.find(([name]) => name === stage)[1], reference = rates.find(([name]) => name === "retrained")?.[1];
    fill("attack-rates", table(["model", "TPR: deleted that are detected", "FPR: held-out taken for deleted", "TPR − FPR"],
      rates.map(([name, { tpr, fpr }]) => [[symbol(STAGE_MARK[name], stageColour(name)), " ", name], h("span", { "data-tpr": name }, percent(tpr)), h("span", { "data-fpr": name }, percent(fpr)), signed(tpr - fpr)])),
      reference ? h("p", {}, `At this threshold the ${stage} model gives away ${percent(own.tpr)} of the deleted utterances at ${percent(own.fpr)} false alarms; the retrained model, which never heard them, ${percent(reference.tpr)} at ${percent(reference.fpr)}.`) : null);
    drawRoc(run, detail, stages, stage);
  }
  showRates();
}

function drawRoc(run, detail, stages, stage) {
  const { lower } = STATISTICS[attack.statistic];
  const names = unique([stage, "retrained", "original"]).filter((name) => stages.includes(name));
  const curves = names.map((name) => [name, modelOf(detail, name).roc, false]).concat(names.map((name) => [name, modelOf(detail, name).ulira, true])).filter(([, roc]) => roc?.fpr.length);
  const least = 0.002;
  chart("attack-roc", "ROC curves of the attack by loss", (width) => {
    const side = Math.min(width, 430), height = side - 10;
    const place = attack.low ? (value) => Math.log10(Math.max(value, least)) : (value) => value;
    const x = scale(attack.low ? place(least) : 0, attack.low ? 0 : 1, 46, side - 12), y = scale(attack.low ? place(least) : 0, attack.low ? 0 : 1, height - 46, 24);
    const at = attack.low ? [0.002, 0.01, 0.05, 0.1, 0.3, 1].map(Math.log10) : undefined;
    const text = attack.low ? (value) => tickText(Number((10 ** value).toPrecision(2))) : undefined;
    const line = (fpr, tpr) => {
      const points = [];
      fpr.forEach((value, n) => { // steps up before steps right, as the curve is empirical
        points.push([x(place(value)), y(place(tpr[n]))]);
      });
      return points.map(([px, py]) => `${px.toFixed(1)},${py.toFixed(1)}`).join(" ");
    };
    const diagonal = Array.from({ length: 60 }, (_, n) => (attack.low ? least * (1 / least) ** (n / 59) : n / 59));
    return { height, parts: [
      axes(x, y, ["false positive rate", "true positive rate"], { xTicks: at, yTicks: at, xText: text, yText: text }),
      s("polyline", { class: "zero", fill: "none", points: line(diagonal, diagonal) }),
      curves.map(([name, roc, shadow]) => s("polyline", { points: line(roc.fpr, roc.tpr), fill: "none", stroke: stageColour(name), "stroke-width": name === "original" ? 1.4 : 2.4, "stroke-dasharray": shadow ? "6 4" : name === "original" ? "2 3" : null, "data-roc": `${name}${shadow ? " U-LiRA" : ""}` })),
      names.map((name) => {
        const { tpr, fpr } = ratesAt(modelOf(detail, name)[attack.statistic], attack.edge, lower);
        return known(tpr) && known(fpr) ? mark(STAGE_MARK[name], x(place(fpr)), y(place(tpr)), 5.5, { fill: stageColour(name), stroke: "var(--card)", "stroke-width": 1.5, "data-point": name }) : null;
      })] };
  }, h("ul", { class: "legend" }, curves.map(([name, , shadow]) => h("li", {}, s("svg", { width: 26, height: 10, "aria-hidden": "true" }, s("line", { x1: 0, x2: 26, y1: 5, y2: 5, stroke: stageColour(name), "stroke-width": 2.4, "stroke-dasharray": shadow ? "6 4" : name === "original" ? "2 3" : null })), `${name}${shadow ? ", U-LiRA" : ""}`))),
  h("p", { class: "muted small" }, `Marks: at the threshold${attack.statistic === "losses" ? "" : " of the log-odds, which order utterances as the loss does"}.`));
  const auc = (curve) => (curve && known(curve.auc) ? `${written(curve.auc)}${known(curve.low) ? ` [${written(curve.low)}, ${written(curve.high)}]` : ""}` : MISSING);
  fill("attack-auc", table(["model", "AUC by loss [95 %]", "U-LiRA AUC [95 %]"], stages.map((name) => [name, auc(modelOf(detail, name).roc), auc(modelOf(detail, name).ulira)])),
    stages.some((name) => modelOf(detail, name).ulira) ? null : h("p", { class: "muted small" }, detail.why_no_ulira || "U-LiRA was not run: it needs shadow models (evaluation.shadows)."));
}

views.run.push(drawAttack);
