"use strict";
// Texts are set as text, never as markup: names of folders and failures come from outside.
const SVG = "http://www.w3.org/2000/svg";
const put = (id, text) => { document.getElementById(id).textContent = text; };
const figure = value => (value === null ? "" : value.toFixed(3));

function shape(kind, attributes, text) {
  const made = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function draw(rounds) {
  // Trainings beside the run have rounds of their own.
  const own = rounds.filter(row => !["retrain", "counterfactual"].includes(row.phase));
  const last = Math.max(1, ...own.map(row => row.round));
  const x = row => (36 + 596 * row.round / last).toFixed(1);
  const y = value => (224 - 208 * value).toFixed(1);
  const made = [0, 0.5, 1].map(value => shape("text", { x: 4, y: y(value) }, value.toFixed(1)));
  for (const row of own.filter(row => row.phase === "unlearn"))
    made.push(shape("line", { x1: x(row), x2: x(row), y1: 16, y2: 224 }));
  for (const name of ["test", "unseen"]) {
    const points = own.filter(row => row[name + "_uar"] !== null).map(row => x(row) + "," + y(row[name + "_uar"]));
    made.push(shape("polyline", { class: name, points: points.join(" ") }));
  }
  document.getElementById("curve").replaceChildren(...made);
}

function table(rounds) {
  const lines = rounds.slice(-12).reverse().map(row => {
    const line = document.createElement("tr");
    const seconds = row.seconds === null ? "" : row.seconds.toFixed(1);
    for (const text of [row.phase, row.round, figure(row.test_uar), figure(row.unseen_uar), seconds]) {
      const cell = document.createElement("td");
      cell.textContent = text;
      line.append(cell);
    }
    return line;
  });
  document.getElementById("rounds").replaceChildren(...lines);
}

function show(view) {
  const ended = !["preparing", "running"].includes(view.status);
  put("name", view.name);
  put("status", view.status + (view.failure ? ": " + view.failure : ""));
  put("phase", ended ? "" : view.phase + (view.total === null ? "" : " " + view.done + "/" + view.total));
  const requests = Object.entries(view.requests).map(([state, count]) => count + " " + state);
  put("requests", requests.length ? "Deletion requests: " + requests.join(", ") : "");
  const bar = document.getElementById("bar");
  bar.hidden = ended;
  if (view.total) { bar.max = view.total; bar.value = Math.min(view.done, view.total); } else bar.removeAttribute("value");
  draw(view.rounds);
  table(view.rounds);
  // The report is one file: it stays in the browser when the watching has ended.
  if (ended && view.has_page) location.replace("/report.html");
  return ended;
}

async function poll(ended) {
  try {
    const answer = await fetch("/state", { cache: "no-store" });
    ended = show(await answer.json());
  } catch {
    if (!ended) put("status", "fedunlearn watch has ended");
    return;
  }
  setTimeout(poll, 1000, ended);
}
poll(false);
