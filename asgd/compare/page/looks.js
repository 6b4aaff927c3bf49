// Names, and looks that do not rest on colour alone: the colours of Okabe and Ito, with a dash and a marker each.

const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const MARKERS = ["circle", "square", "diamond", "triangle-up", "x", "cross", "star", "triangle-down"];
const SHAPES = { square: "M-3.5-3.5h7v7h-7z", diamond: "M0-5l5 5-5 5-5-5z",
  "triangle-up": "M0-5l5 9h-10z", "triangle-down": "M0 5l5-9h-10z", x: "M-4-4l8 8m0-8l-8 8", cross: "M0-5v10m-5-5h10",
  star: "M0-5l1.5 3.3 3.5.3-2.7 2.4.8 3.6-3.1-2-3.1 2 .8-3.6-2.7-2.4 3.5-.3z" };
const STROKES = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3", longdash: "11 4" };
const MANY = 24; // groups are drawn at most
const SEED = "seed";

const look = i => ({ colour: COLOURS[i % COLOURS.length], dash: DASHES[i % DASHES.length], marker: MARKERS[i % MARKERS.length] });

const faint = (colour, share) => colour + Math.round(share * 255).toString(16).padStart(2, "0");

// "optimizer.lr" -> "lr", unless another key ends like that.
function short(key) {
  const last = key.split(".").at(-1);
  return DATA.keys.filter(each => each.split(".").at(-1) === last).length > 1 ? key : last;
}

const told = value => value === null ? "–" : typeof value === "number" && Math.abs(value) >= 1e9 ? value.toExponential() : String(value);

const escaped = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function nameOf(run, keys) {
  return keys.map(key => `${short(key)}=${told(run.options[key])}`).join(", ") || "all runs";
}

function titleOf(run) {
  return DATA.keys.length ? nameOf(run, DATA.keys) : run.folder;
}

// The groups of all runs, with a look each that does not change when runs are hidden. No keys: each run by itself.
function groupsOf(runs, keys) {
  const found = new Map(), titles = keys === null ? tally(DATA.runs.map(titleOf)) : null;
  for (const run of runs) {
    const title = keys === null ? titleOf(run) : nameOf(run, keys), name = titles?.get(title) > 1 ? `${title} (${run.folder})` : title;
    if (!found.has(name)) found.set(name, { name, runs: [], values: (keys ?? DATA.keys).map(key => run.options[key]) });
    found.get(name).runs.push(run);
  }
  const groups = [...found.values()].sort(byValues);
  return groups.map((group, i) => ({ ...group, ...look(i) }));
}

function tally(names) {
  const counts = new Map();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return counts;
}

function byValues(a, b) {
  for (let i = 0; i < a.values.length; i++) {
    const order = inOrder(a.values[i], b.values[i]);
    if (order) return order;
  }
  return 0;
}

// "n=3, 1 diverged"
function counted(runs) {
  const states = distinct(runs.map(run => run.state)).filter(state => state !== "budget");
  const others = states.map(state => `${runs.filter(run => run.state === state).length} ${state}`);
  return [`n=${complete(runs).length}`, ...others].join(", ");
}

function figure(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}

function swatch({ colour, dash, marker }) {
  const solid = !["x", "cross"].includes(marker);
  const mark = marker === "circle" ? `<circle r="4" fill="${colour}"/>`
    : `<path d="${SHAPES[marker]}" fill="${solid ? colour : "none"}" stroke="${colour}" stroke-width="${solid ? 0 : 2.5}"/>`;
  return `<svg width="38" height="12" viewBox="-19 -6 38 12" aria-hidden="true"><path d="M-19 0h38" stroke="${colour}"
    stroke-width="2.5" stroke-dasharray="${STROKES[dash]}" fill="none"/>${mark}</svg>`;
}
