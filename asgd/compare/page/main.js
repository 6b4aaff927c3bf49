// What is chosen above the plots, and drawing all of it anew whenever that changes.

const DATA = JSON.parse(document.getElementById("data").textContent);
const get = id => document.getElementById(id);
const PLOTS = { loss: curvePlot("loss"), accuracy: curvePlot("accuracy"), reach: reachPlot, staleness: stalenessPlot,
  work: workPlot, throughput: throughputPlot, map: mapPlot };
const FONT = { family: 'system-ui, "Helvetica Neue", Arial, sans-serif', size: 13, color: "#111" };
const CONFIG = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "resetScale2d"]], toImageButtonOptions: { format: "svg" } };
const swept = DATA.settings;
const GROUPINGS = [...new Map([DATA.group, swept, ...DATA.keys.map(key => [key]), null].map(keys => [JSON.stringify(keys), keys])).values()];
const state = { x: DATA.x, keys: GROUPINGS[0], target: DATA.target, single: false, scale: "linear", across: swept[0], down: swept[1] };
let groups = [];

function redraw() {
  groups = groupsOf(DATA.runs, state.keys);
  const shown = DATA.runs.filter(run => run.shown);
  const there = groups.map(group => ({ ...group, runs: group.runs.filter(run => run.shown) })).filter(group => group.runs.length);
  const drawn = best(there);
  get("note").textContent = [
    drawn.length < there.length && `Curves and bars show the ${MANY} best of ${there.length} groups by ${DATA.objective}. Group by another option, or hide runs, to see others.`,
    DATA.mixed && !state.keys?.includes("engine") && "Some runs are in virtual time and some in real time: group by engine before you compare seconds.",
  ].filter(Boolean).join(" ");
  for (const [id, plot] of Object.entries(PLOTS)) draw(get(id), shown.length ? plot({ ...state, groups: drawn, shown }) : "All runs are hidden.");
  drawLegend();
  drawTable();
  get("shown").textContent = `${shown.length} of ${DATA.runs.length} runs shown`;
}

function best(there) {
  if (there.length <= MANY) return there;
  const worst = DATA.high ? -Infinity : Infinity;
  const value = group => interval(group.runs.map(run => run.figures[DATA.objective])).mean ?? worst;
  const chosen = new Set([...there].sort((a, b) => (value(b) - value(a)) * (DATA.high ? 1 : -1)).slice(0, MANY));
  return there.filter(group => chosen.has(group));
}

function draw(place, plot) {
  place.classList.toggle("empty", typeof plot === "string");
  if (typeof plot === "string") {
    Plotly.purge(place);
    place.textContent = plot;
    return;
  }
  if (!place.classList.contains("js-plotly-plot")) place.textContent = "";
  const layout = { font: FONT, margin: { l: 60, r: 12, t: 30, b: 48 }, modebar: { bgcolor: "#fff0", color: "#777", activecolor: "#111" }, showlegend: false, height: 380, autosize: true, hovermode: "closest",
    paper_bgcolor: "#fff", plot_bgcolor: "#fff", ...plot.layout };
  for (const name of ["xaxis", "yaxis"]) layout[name] = { gridcolor: "#ddd", linecolor: "#555", zerolinecolor: "#999", ticks: "outside", automargin: true, ...layout[name] };
  Plotly.react(place, plot.data, layout, CONFIG);
}

function drawLegend() {
  get("legend").replaceChildren(...groups.map(group => {
    const on = group.runs.some(run => run.shown), button = element("button", { type: "button", "aria-pressed": String(on) });
    button.innerHTML = swatch(group);
    button.append(`${group.name} (${counted(on ? group.runs.filter(run => run.shown) : group.runs)})`);
    button.onclick = () => show(group.runs, !on);
    return button;
  }));
}

function show(runs, shown) {
  for (const run of runs) run.shown = shown;
  redraw();
}

function find(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const run of DATA.runs) {
    const line = `${DATA.keys.map(key => `${key}=${told(run.options[key])}`).join(" ")} ${run.state} ${run.folder}`.toLowerCase();
    run.shown = words.every(word => line.includes(word));
  }
  redraw();
}

function choice(id, options, change) {
  get(id).replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  get(id).onchange = event => { change(event.target.value); redraw(); };
}

function groupingName(keys) {
  if (keys === null) return "each run";
  return keys.map(short).join(" and ") || "nothing, all together";
}

function facts() {
  const values = key => distinct(DATA.runs.map(run => told(run.options[key])));
  const listed = key => values(key).length > 8 ? `${values(key).length} values` : values(key).join(", ");
  const said = { budget: "reached the end of the budget", running: "still running", error: "ended in an error" };
  const states = distinct(DATA.runs.map(run => run.state)).map(name => `${DATA.runs.filter(run => run.state === name).length} ${said[name] ?? name}`);
  const common = Object.entries(DATA.common).map(([name, value]) => `${name} ${value}`).join(", ");
  const lines = [
    DATA.runs.length === 1 ? "There is nothing to compare it with." : DATA.keys.length ? `They differ in ${DATA.keys.map(key => `${key} (${listed(key)})`).join("; ")}.` : "They do not differ in any option.",
    common && `${DATA.runs.length === 1 ? "" : "In all: "}${common}.`,
    `${states.join(", ")}. Seconds are ${DATA.mixed ? "virtual or real, as each run's engine has them" : DATA.unit === "seconds" ? "real time" : "virtual"}.`,
  ];
  get("facts").replaceChildren(...lines.filter(Boolean).map(line => element("span", {}, line)));
}

function begin() {
  for (const run of DATA.runs) run.shown = true;
  facts();
  choice("x", [["updates", "updates"], ["samples", "samples"], ["seconds", DATA.unit]], value => { state.x = value; });
  choice("group", GROUPINGS.map((keys, i) => [String(i), groupingName(keys)]), value => { state.keys = GROUPINGS[value]; });
  for (const id of ["across", "down"]) choice(id, swept.map(key => [key, key]), value => { state[id] = value; });
  [get("x").value, get("down").value, get("target").value] = [state.x, state.down ?? "", state.target ?? ""];
  get("target").onchange = event => { state.target = event.target.value === "" ? null : Number(event.target.value); redraw(); };
  get("scale").onchange = event => { state.scale = event.target.value; redraw(); };
  get("single").onchange = event => { state.single = event.target.checked; redraw(); };
  get("find").oninput = event => find(event.target.value);
  get("show-all").onclick = () => show(DATA.runs, true);
  get("hide-all").onclick = () => show(DATA.runs, false);
  redraw();
  const plots = () => document.querySelectorAll(".js-plotly-plot");
  addEventListener("beforeprint", () => plots().forEach(plot => Plotly.relayout(plot, { width: 680, height: Math.min(plot.layout.height, 320) })));
  addEventListener("afterprint", redraw);
}

begin();
