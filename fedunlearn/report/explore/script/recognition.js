// Recall of each emotion, confusion matrices side by side, and the speakers who stay.

const recognition = { set: "test", order: "change" };

function drawEmotions(run, detail) {
  const stages = stagesOf(run, detail);
  fill("emotions-controls", choice("Speech", "emotions-set", [["test", "held-out speech of client speakers"], ["unseen", "unseen speakers"]], recognition.set,
    (set) => { recognition.set = set; drawEmotions(run, detail); }));
  const matrices = Object.fromEntries(stages.map((stage) => [stage, modelOf(detail, stage)[recognition.set]]));
  if (!stages.some((stage) => matrices[stage].length)) {
    absent("recalls", "This run has no confusion matrices of this speech.");
    fill("matrices"); $("matrix-cell").textContent = "";
    return;
  }
  const recall = (stage, k) => { const row = matrices[stage][k] ?? []; return sum(row) ? row[k] / sum(row) : NaN; };
  const emotions = detail.emotions;
  chart("recalls", "Recall of each emotion by each model", (width) => {
    const bar = 11, gap = 14, left = Math.min(110, width * 0.28);
    const band = stages.length * bar + gap, height = emotions.length * band + 52;
    const x = scale(0, 1, left, width - 44), y = scale(0, emotions.length * band, 8, emotions.length * band + 8);
    return { height, above: stageLegend(stages), parts: [
      ticks(0, 1, 5).map((value) => [s("line", { class: "grid", x1: x(value), x2: x(value), y1: 4, y2: y.to }), s("text", { class: "axis", x: x(value), y: y.to + 17, "text-anchor": "middle" }, tickText(value))]),
      s("text", { x: (x.from + x.to) / 2, y: y.to + 36, "text-anchor": "middle" }, "recall (share of the emotion's utterances that is recognised)"),
      emotions.map((emotion, k) => [
        s("text", { x: left - 8, y: y(k * band) + (stages.length * bar) / 2 + 4, "text-anchor": "end" }, emotion),
        stages.map((stage, n) => {
          const value = recall(stage, k);
          if (!known(value)) return null;
          const top = y(k * band) + n * bar;
          return tipOn(s("g", { role: "img", "aria-label": `${emotion}, ${stage}: recall ${value.toFixed(2)}`, "data-recall": `${stage} ${emotion}` },
            s("rect", { x: left, y: top, width: Math.max(1, x(value) - left), height: bar - 1.5, fill: stageColour(stage) }),
            mark(STAGE_MARK[stage], x(value) + 8, top + bar / 2 - 0.5, 3.2, { fill: stageColour(stage) }),
            s("text", { class: "axis", x: x(value) + 16, y: top + bar - 2, style: "font-size:10px" }, value.toFixed(2))), `${emotion}, ${stage}: ${matrices[stage][k][k]} of ${sum(matrices[stage][k])}`);
        })]),
    ] };
  }, asTable("As a table", ["emotion", ...stages], emotions.map((emotion, k) => [emotion, ...stages.map((stage) => written(recall(stage, k)))])));
  drawMatrices(unique(["original", lastOf(run), "retrained"]).filter((stage) => matrices[stage]?.length), matrices, emotions);
}

function drawMatrices(stages, matrices, emotions) {
  const cells = new Map();
  const show = (i, j) => {
    document.querySelectorAll("#matrices td.same").forEach((cell) => cell.classList.remove("same"));
    cells.get(`${i} ${j}`).forEach((cell) => cell.classList.add("same"));
    $("matrix-cell").textContent = `${emotions[i]} recognised as ${emotions[j]}: ${stages.map((stage) => `${stage} ${matrices[stage][i][j]} of ${sum(matrices[stage][i])} (${percent(matrices[stage][i][j] / (sum(matrices[stage][i]) || 1), 0)})`).join(", ")}`;
  };
  const one = (stage) => h("figure", {}, h("figcaption", {}, symbol(STAGE_MARK[stage], stageColour(stage)), " ", stage),
    h("table", { "data-matrix": stage },
      h("caption", { class: "skip" }, `Confusion matrix of the ${stage} model: rows true, columns recognised`),
      h("thead", {}, h("tr", {}, h("td"), emotions.map((emotion) => h("th", { scope: "col", title: emotion }, emotion)))),
      h("tbody", {}, emotions.map((emotion, i) => h("tr", {}, h("th", { scope: "row", title: emotion }, emotion), emotions.map((_, j) => {
        const share = matrices[stage][i][j] / (sum(matrices[stage][i]) || 1);
        const cell = h("td", {
          tabindex: i === 0 && j === 0 ? 0 : -1, "data-cell": `${i} ${j}`,
          style: `background:light-dark(rgb(0 114 178 / ${(0.75 * share).toFixed(3)}), rgb(86 180 233 / ${(0.62 * share).toFixed(3)}))${share > 0.6 ? ";font-weight:650" : ""}`,
          onpointerenter: () => show(i, j), onfocus: () => show(i, j),
          onkeydown: (event) => {
            const [di, dj] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
            const next = cell.closest("table").querySelector(`[data-cell="${i + di} ${j + dj}"]`);
            if (next && next !== cell) { event.preventDefault(); cell.tabIndex = -1; next.tabIndex = 0; next.focus(); }
          },
        }, matrices[stage][i][j]);
        if (!cells.has(`${i} ${j}`)) cells.set(`${i} ${j}`, []);
        cells.get(`${i} ${j}`).push(cell);
        return cell;
      }))))));
  $("matrices").classList.toggle("many", emotions.length > 6);
  fill("matrices", stages.map(one));
  $("matrix-cell").textContent = "";
}

// ---- speakers --------------------------------------------------------------------------------------------

function drawSpeakers(run, detail) {
  const stage = lastOf(run), at = STAGES.indexOf(stage);
  const people = detail.speakers.filter((speaker) => known(speaker.accuracies[0]) && known(speaker.accuracies[at]));
  if (!people.length) {
    fill("speakers-controls");
    absent("speakers-chart", "This run does not record single speakers (it is older than this view).");
    return;
  }
  fill("speakers-controls", choice("Order", "speakers-order", [["change", "who loses most first"], ["retrained", "farthest below the retrained models first"], ["client", "by client"]], recognition.order,
    (order) => { recognition.order = order; drawSpeakers(run, detail); }));
  const [, , , last] = STAGES.keys();
  const change = (speaker) => speaker.accuracies[at] - speaker.accuracies[0];
  const key = { change, retrained: (speaker) => speaker.accuracies[at] - speaker.accuracies[last], client: (speaker) => speaker.client * 1000 + speaker.speaker }[recognition.order];
  people.sort((a, b) => key(a) - key(b));
  const brief = (speaker) => `client ${speaker.client}${people.some((other) => other.speaker) ? `, ${speaker.speaker}` : ""}`;
  const name = (speaker) => `client ${speaker.client}${people.some((other) => other.speaker) ? `, speaker ${speaker.speaker}` : ""}${speaker.gender ? ` (${speaker.gender})` : ""}`;
  chart("speakers-chart", "Test accuracy of each speaker who stays", (width) => {
    const row = 22, wide = width > 520, left = wide ? 210 : 96, height = people.length * row + 58;
    const x = scale(0, 1, left, width - 66), foot = people.length * row + 8;
    return { height, above: stageLegend(unique(["original", stage, "retrained"])), parts: [
      ticks(0, 1, 5).map((value) => [s("line", { class: "grid", x1: x(value), x2: x(value), y1: 2, y2: foot }), s("text", { class: "axis", x: x(value), y: foot + 17, "text-anchor": "middle" }, tickText(value))]),
      s("text", { x: (x.from + x.to) / 2, y: foot + 36, "text-anchor": "middle" }, "test accuracy"),
      people.map((speaker, number) => {
        const y = number * row + 16, [before, after, retrained] = [speaker.accuracies[0], speaker.accuracies[at], speaker.accuracies[last]];
        const words = `${name(speaker)}, ${many(speaker.n ?? 0, "utterance")}: original ${written(before)}, ${stage} ${written(after)}, retrained ${written(retrained)}`;
        const theirs = `${speaker.client} ${speaker.speaker}`;
        const here = detail.groups.some((group) => group.client === speaker.client && group.speaker === speaker.speaker);
        const look = () => { dots.speaker = theirs; dots.sets = new Set(["retain", "test"]); drawUtterances(run, detail); };
        return tipOn(s(here ? "a" : "g", { role: here ? null : "img", href: here ? "#utterances" : null, onclick: here ? look : null, "aria-label": here ? `${words}. Show their utterances` : words, "data-speaker": theirs },
          s("rect", { class: "hit", x: 0, y: y - row / 2, width, height: row }),
          s("text", { x: left - 10, y: y + 4, "text-anchor": "end" }, wide ? name(speaker) : brief(speaker)),
          s("line", { x1: x(before), x2: x(after), y1: y, y2: y, stroke: after < before ? "var(--vermillion)" : "var(--blue)", "stroke-width": 3, "stroke-opacity": 0.5 }),
          known(retrained) ? mark(STAGE_MARK.retrained, x(retrained), y, 4.6, { fill: "none", stroke: stageColour("retrained"), "stroke-width": 2 }) : null,
          mark(STAGE_MARK.original, x(before), y, 4.6, { fill: "none", stroke: stageColour("original"), "stroke-width": 2 }),
          mark(STAGE_MARK[stage], x(after), y, 5, { fill: stageColour(stage) }),
          s("text", { class: "axis", x: width, y: y + 4, "text-anchor": "end" }, signed(change(speaker)))), words);
      })] };
  }, asTable("As a table", ["speaker", "utterances", "original", stage, "retrained", "change"],
    people.map((speaker) => [name(speaker), speaker.n ?? MISSING, written(speaker.accuracies[0]), written(speaker.accuracies[at]), written(speaker.accuracies[last]), signed(change(speaker))])),
  h("p", { class: "muted small" }, "Right: change from the original. Few utterances a speaker: one more or less moves an accuracy by 1 divided by their number. Click a speaker to see their utterances."));
}

views.run.push(drawEmotions, drawSpeakers);
