// The page opens: first state, first drawing, what the address says.

function about() {
  const corpora = unique(DATA.runs.map((run) => run.task));
  const seeds = unique(DATA.runs.map((run) => `${run.fold}/${run.seed}`));
  return `${many(DATA.runs.length, "run")} of ${many(METHODS.length, "method")}, ${many(seeds.length, "seed")}: ${corpora.join("; ")}.`;
}

/** Open the run that the address names; whether it names one. */
function followAddress() {
  const found = /^#run-(\d+)$/.exec(location.hash);
  if (!found || Number(found[1]) >= DATA.runs.length) return false;
  openRun(Number(found[1])).then(() => $("run").scrollIntoView());
  return true;
}

function themes() {
  const button = $("theme"), order = ["system", "light", "dark"];
  let at = 0;
  button.addEventListener("click", () => {
    at = (at + 1) % order.length;
    document.documentElement.style.colorScheme = order[at] === "system" ? "" : order[at];
    button.textContent = `Theme: ${order[at]}`;
  });
}

$("about").textContent = about();
if (METHODS.length === 1) $("methods-title").textContent = "How well did it forget?";
document.querySelectorAll("form").forEach((form) => form.addEventListener("submit", (event) => event.preventDefault()));
state.task = SETTINGS.reduce((best, setting) => (setting.methods > best.methods ? setting : best)).task;
state.setting = richest(state.task);
// The first run to be shown is of the method with the lowest gap.
const candidates = ROWS.filter((row) => row.setting === state.setting && row.group !== "control");
const firstShown = sorted(candidates.length ? candidates : ROWS.filter((row) => row.setting === state.setting))[0];
themes();
drawFilters();
drawPlaneControls();
refresh();
addEventListener("hashchange", followAddress);
document.addEventListener("click", (event) => { // the address does not change where the run is open already
  const link = event.target.closest?.('a[href^="#run-"]');
  if (link && link.getAttribute("href") === location.hash) $("run").scrollIntoView();
});
if (!followAddress()) openRun(firstShown.runs[0].number);
document.querySelectorAll(".chart").forEach((place) => watcher.observe(place));
document.documentElement.dataset.ready = "yes";
