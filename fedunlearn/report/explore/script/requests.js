// The rounds of a run: how the model learned and forgot, and what became of each request.

const PHASES = { learn: "learning", unlearn: "unlearning", recover: "recovery", listen: "listening" };
const STATE_COLOURS = { raised: "black", accepted: "orange", unlearned: "purple", applied: "blue", purged: "vermillion", verified: "green", withdrawn: "olive", refused: "olive" };
const STATE_SHAPES = { raised: "circle", accepted: "circle", unlearned: "triangle", applied: "square", purged: "down", verified: "diamond", withdrawn: "square", refused: "triangle" };

function drawRequests(run, detail) {
  const rounds = detail.rounds, requests = detail.requests;
  if (!requests.length) {
    absent("requests-chart", "Nobody asked for a deletion in this run.");
    fill("requests-table");
    return;
  }
  const stepRounds = requests.flatMap((request) => (request.history ?? []).map((step) => step.round));
  const first = 0, end = Math.max(1, ...rounds.map(([round]) => round), ...stepRounds, ...detail.absences.map(([, , until]) => until));
  const curves = [[2, "test UAR", "var(--black)", null], [4, "retain accuracy", "var(--blue)", "6 3"], [5, "forget accuracy", "var(--vermillion)", "2 2"]];
  const names = unique(requests.map((request) => request.id));
  chart("requests-chart", "Measures of the global model by round, and the life of each request below", (width) => {
    const left = Math.min(190, width * 0.34), top = rounds.length ? 190 : 0, lane = 30;
    const height = top + 34 + requests.length * lane + (detail.unreachable.length ? 40 : 0) + 44;
    const x = scale(first, end + 0.5, left, width - 12), y = scale(0, 1, top, 24), lanes = top + 30, foot = lanes + requests.length * lane;
    const spans = [];
    for (const [round, phase] of rounds) {
      if (spans.at(-1)?.phase === phase && spans.at(-1).to >= round - 1) spans.at(-1).to = round;
      else spans.push({ phase, from: round - 1, to: round });
    }
    const band = (span) => [
      !["unlearn", "recover"].includes(span.phase) ? null : s("rect", { x: x(span.from), width: Math.max(1, x(span.to) - x(span.from)), y: 20, height: foot - 20, fill: `var(--${span.phase === "unlearn" ? "orange" : "blue"})`, "fill-opacity": span.phase === "unlearn" ? 0.3 : 0.11 }),
      span.from >= first && x(span.to) - x(span.from) > 62 ? s("text", { class: "axis", x: (x(span.from) + x(span.to)) / 2, y: 14, "text-anchor": "middle" }, PHASES[span.phase] ?? span.phase) : null];
    const path = (column) => {
      const points = rounds.filter((entry) => known(entry[column])).map((entry) => `${x(entry[0]).toFixed(1)},${y(entry[column]).toFixed(1)}`);
      return points.join(" ");
    };
    return { height, above: rounds.length ? h("ul", { class: "legend" }, curves.map(([, name, colour, dash]) => h("li", {}, s("svg", { width: 26, height: 10, "aria-hidden": "true" }, s("line", { x1: 0, x2: 26, y1: 5, y2: 5, stroke: colour, "stroke-width": 2, "stroke-dasharray": dash })), name)),
      h("li", {}, h("span", { style: "display:inline-block;width:14px;height:12px;background:var(--orange);opacity:.45" }), "unlearning"), h("li", {}, h("span", { style: "display:inline-block;width:14px;height:12px;background:var(--blue);opacity:.25" }), "recovery")) : null, parts: [
      spans.map(band),
      rounds.length ? [0, 0.5, 1].map((value) => [s("line", { class: "grid", x1: left, x2: x.to, y1: y(value), y2: y(value) }), s("text", { class: "axis", x: left - 7, y: y(value) + 4, "text-anchor": "end" }, tickText(value))]) : null,
      curves.map(([column, name, colour, dash]) => s("polyline", { points: path(column), fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dash, role: "img", "aria-label": name })),
      ticks(first, end, Math.max(3, (width - left) / 70)).filter(Number.isInteger).map((value) => s("text", { class: "axis", x: x(value), y: foot + (detail.unreachable.length ? 57 : 17), "text-anchor": "middle" }, value)),
      s("text", { x: (x.from + x.to) / 2, y: foot + (detail.unreachable.length ? 76 : 36), "text-anchor": "middle" }, "round"),
      requests.map((request, number) => {
        const at = lanes + number * lane + lane / 2, steps = request.history ?? [];
        const raised = request.round_raised ?? steps[0]?.round ?? 0, done = steps.at(-1)?.round ?? raised;
        const applied = request.round_applied ?? done;
        const words = `request ${names.indexOf(request.id) + 1}, client ${request.client}: ${request.what === "all" ? "all, " : ""}${many(request.utterances ?? 0, "utterance")}; ${request.state}; waited ${many(request.rounds_waited ?? 0, "round")}. ${steps.map((step) => `${step.state} in round ${step.round}`).join(", ")}${request.reason_open ? `; open: ${request.reason_open}` : ""}`;
        const sameRound = new Map();
        return tipOn(s("g", { role: "img", "aria-label": words, tabindex: 0, "data-request": number },
          s("rect", { class: "hit", x: 0, width, y: at - lane / 2, height: lane }),
          s("text", { x: left - 10, y: at + 4, "text-anchor": "end" }, `${names.indexOf(request.id) + 1}: client ${request.client}, ${request.what === "all" ? "all " : ""}${request.utterances ?? ""}`),
          s("line", { class: "grid", x1: left, x2: x.to, y1: at, y2: at }),
          s("line", { x1: x(raised), x2: x(applied), y1: at, y2: at, stroke: "var(--orange)", "stroke-width": 6, "stroke-dasharray": "4 2" }),
          s("line", { x1: x(applied), x2: x(done), y1: at, y2: at, stroke: "var(--green)", "stroke-width": 6 }),
          detail.absences.filter(([client]) => client === request.client).map(([, from, until]) => s("rect", { x: x(from), width: Math.max(2, x(until) - x(from)), y: at - 9, height: 18, fill: "none", stroke: "var(--ink)", "stroke-dasharray": "2 2", "data-absence": request.client })),
          steps.map((step) => {
            const before = sameRound.get(step.round) ?? 0;
            sameRound.set(step.round, before + 1);
            return mark(STATE_SHAPES[step.state] ?? "circle", x(step.round) + before * 9, at, 5, { fill: `var(--${STATE_COLOURS[step.state] ?? "black"})`, stroke: "var(--card)", "data-state": step.state });
          })), words);
      }),
      detail.unreachable.length ? [
        s("text", { class: "axis", x: left - 10, y: foot + 28, "text-anchor": "end" }, "unreachable"),
        detail.unreachable.map(([round, count]) => { const most = Math.max(...detail.unreachable.map((row) => row[1])); return tipOn(s("rect", { x: x(round - 1), width: Math.max(1.5, x(1) - x(0) - 1), y: foot + 36 - (26 * count) / most, height: (26 * count) / most, fill: "var(--muted)" }), `round ${round}: ${many(count, "client")} unreachable`); })] : null,
    ] };
  }, h("ul", { class: "legend" }, unique(requests.flatMap((request) => (request.history ?? []).map((step) => step.state))).map((name) => h("li", {}, symbol(STATE_SHAPES[name] ?? "circle", `var(--${STATE_COLOURS[name] ?? "black"})`), name)),
    h("li", {}, "orange bar: waiting; green: applied to verified", detail.absences.length ? "; dashed box: its device is away" : "")));
  fill("requests-table", table(["request", "client", "utterances", "raised", "applied", "waited", "state", "own forget accuracy"],
    requests.map((request) => [names.indexOf(request.id) + 1, request.client, `${request.utterances ?? MISSING}${request.what === "all" ? " (all)" : ""}`, request.round_raised ?? MISSING, request.round_applied ?? MISSING,
      request.rounds_waited ?? MISSING, `${request.state}${request.overdue ? ", overdue" : ""}`, request.forget_accuracy ? request.forget_accuracy.map(written).join(" → ") : MISSING])));
}

views.run.push(drawRequests);
