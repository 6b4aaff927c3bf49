// The other figures. Each takes what is shown and gives plotly's traces and layout, or a sentence that says why not.

const lines = labels => labels.reduce((sum, label) => sum + 1 + (label.match(/<br>/g) ?? []).length, 0);

const bars = (title, labels) => ({ xaxis: { title: { text: title }, rangemode: "tozero" },
  height: 120 + 17 * lines(labels) + 9 * labels.length,
  yaxis: { autorange: "reversed", automargin: true, type: "category" }, hovermode: "closest" });

const wrapped = name => name.length > 26 ? name.replace(/, (?=[^,]*$)/, ",<br>") : name;

function reachPlot({ groups, x, target }) {
  if (!DATA.runs.some(run => known(run.curve.accuracy).length)) return NO_CURVE.accuracy;
  if (target === null) return "Give a target accuracy above.";
  const rows = groups.map(group => {
    const times = group.runs.map(run => reached(run, target, x)), found = interval(times);
    return { group, times, found, label: wrapped(escaped(group.name)) + `<br>${found.n} of ${times.length} reached it` };
  });
  const name = row => row.label;
  const data = [
    { type: "bar", orientation: "h", y: rows.map(name), x: rows.map(row => row.found.mean), hovertemplate: "mean %{x:.4~s}<extra></extra>",
      marker: { color: rows.map(row => faint(row.group.colour, 0.35)), line: { color: rows.map(row => row.group.colour), width: 2 } },
      error_x: { type: "data", array: rows.map(row => row.found.half), color: "#111", thickness: 1.5 } },
    ...rows.map(row => ({ type: "scatter", mode: "markers", x: row.times, y: row.times.map(() => row.label),
      text: row.group.runs.map(run => escaped(titleOf(run))), hovertemplate: "%{text}<br>%{x:.4~s}<extra></extra>",
      marker: { color: row.group.colour, symbol: row.group.marker, size: 8, line: { color: "#fff", width: 1 } } })),
  ];
  return { data, layout: bars(`${xTitle(x)} to ${target}`, rows.map(name)) };
}

function stalenessPlot({ groups }) {
  const most = Math.max(0, ...groups.flatMap(group => group.runs.flatMap(run => run.staleness.map(([age]) => age))));
  const width = Math.max(1, Math.ceil((most + 1) / 100));
  const data = groups.map(group => ({ group, shares: sharesOf(group.runs, width) })).filter(({ shares }) => shares.length)
    .map(({ group, shares }) => ({ x: shares.map(s => s[0]), y: shares.map(s => s[1]), name: escaped(group.name),
      mode: shares.length > 60 ? "lines" : "lines+markers", line: { color: group.colour, dash: group.dash, width: 2 },
      marker: { color: group.colour, symbol: group.marker, size: 7 },
      hovertemplate: "<b>%{fullData.name}</b><br>staleness %{x}: %{y:.1f} %<extra></extra>" }));
  if (!data.length) return "No update has been applied in these runs.";
  const text = width > 1 ? `staleness, in steps of ${width}` : "staleness, versions";
  return { data, layout: { xaxis: { title: { text }, tick0: 0, dtick: most <= 12 ? 1 : undefined }, yaxis: { title: { text: "% of updates" }, rangemode: "tozero" } } };
}

// [age, percent] of all updates of the runs; ages in between that never came as 0.
function sharesOf(runs, width) {
  const counts = new Map();
  for (const [age, count] of runs.flatMap(run => run.staleness)) {
    const place = Math.floor(age / width) * width;
    counts.set(place, (counts.get(place) ?? 0) + count);
  }
  if (!counts.size) return [];
  const total = [...counts.values()].reduce((a, b) => a + b, 0), places = [...counts.keys()];
  const first = Math.min(...places), last = Math.max(...places), shares = [];
  for (let age = first; age <= last; age += width) shares.push([age, 100 * (counts.get(age) ?? 0) / total]);
  return shares;
}

const PARTS = [["computing", "#56B4E9", ""], ["waiting for data", "#E69F00", "."], ["waiting for the server", "#D55E00", "/"]];
const ROWS = 32;
const LEGEND = { orientation: "h", x: 0, y: -0.27, yanchor: "top", traceorder: "normal", itemclick: false, itemdoubleclick: false };

function workPlot({ groups }) {
  const each = groups.flatMap(group => distinct(group.runs.flatMap(run => run.work.map(row => row[0])))
    .map(worker => [`${wrapped(escaped(group.name))}${innerWidth < 700 ? "<br>" : " · "}worker ${worker}`, workOf(group.runs, row => row[0] === worker)]));
  const together = groups.map(group => [wrapped(escaped(group.name)), workOf(group.runs, () => true)]);
  const rows = (each.length > ROWS ? together : each).filter(([, parts]) => parts.some(part => part > 0));
  if (!rows.length) return "No worker has finished a round in these runs.";
  const shares = rows.map(([, parts]) => parts.map(part => 100 * part / parts.reduce((a, b) => a + b, 0)));
  const data = PARTS.map(([name, color, shape], i) => ({ type: "bar", orientation: "h", name, y: rows.map(row => row[0]),
    x: shares.map(share => share[i]), text: rows.map(row => figure(row[1][i])),
    hovertemplate: `%{y}<br>${name}: %{x:.1f} %, %{text} ${DATA.unit}<extra></extra>`, textposition: "none",
    marker: { color, pattern: { shape, bgcolor: color, fgcolor: "#fff", size: 7 } } })).filter(trace => trace.x.some(share => share > 0));
  const title = each.length > ROWS ? "% of time, all workers" : "% of time";
  return { data, layout: { ...bars(title, rows.map(row => row[0])), barmode: "stack", showlegend: true,
    legend: { ...LEGEND, y: 1, yanchor: "bottom" } } };
}

// The mean over the runs of the seconds computed and waited, over the workers that are asked for.
function workOf(runs, asked) {
  const rows = runs.flatMap(run => run.work.filter(asked));
  return PARTS.map((_, i) => rows.length ? rows.reduce((sum, row) => sum + (row[i + 1] ?? 0), 0) / rows.length : 0);
}

function throughputPlot({ keys, shown }) {
  const runs = complete(shown).filter(run => run.figures.samples_per_s && run.workers);
  if (!runs.length) return "Throughput is known once a run has ended; none of these has.";
  const series = groupsOf(runs, rateKeys(keys ?? []));
  const data = series.map(group => {
    const counts = distinct(group.runs.map(run => run.workers));
    const each = counts.map(count => interval(group.runs.filter(run => run.workers === count).map(run => run.figures.samples_per_s)));
    return { x: counts, y: each.map(e => e.mean), name: escaped(group.name), mode: "lines+markers", text: each.map(e => `n=${e.n}`),
      error_y: { type: "data", array: each.map(e => e.half), color: group.colour }, line: { color: group.colour, dash: group.dash, width: 2.5 },
      marker: { color: group.colour, symbol: group.marker, size: 9 },
      hovertemplate: "<b>%{fullData.name}</b><br>%{x} workers: %{y:.4~s} (%{text})<extra></extra>" };
  });
  const second = DATA.unit === "virtual seconds" ? "virtual second" : "second";
  return { data: [...proportional(runs, data), ...data], layout: { showlegend: true, legend: LEGEND,
    xaxis: { title: { text: "workers" }, tickvals: distinct(runs.map(run => run.workers)), type: "linear" },
    yaxis: { title: { text: `samples per ${second}` }, rangemode: "tozero" } } };
}

// Virtual and real seconds are never averaged.
function rateKeys(keys) {
  const some = keys.filter(key => key !== "workers" && key !== SEED);
  return DATA.mixed && DATA.keys.includes("engine") && !some.includes("engine") ? [...some, "engine"] : some;
}

// What the best at the fewest workers would give if more workers did proportionally more.
function proportional(runs, data) {
  const counts = distinct(runs.map(run => run.workers));
  if (counts.length < 2) return [];
  const start = Math.max(...data.filter(trace => trace.x[0] === counts[0]).map(trace => trace.y[0]));
  return [{ x: counts, y: counts.map(count => start * count / counts[0]), mode: "lines", name: "proportional to workers",
    line: { color: "#999", width: 1.5, dash: "dot" }, hoverinfo: "skip" }];
}

function mapPlot({ shown, across, down }) {
  if (!across || !down) return "A heat map needs two options that differ between runs (other than the seed).";
  if (across === down) return "Choose two different options.";
  const judged = shown.filter(run => run.figures[DATA.objective] !== null && !["running", "killed"].includes(run.state));
  if (!judged.length) return `None of these runs has a ${DATA.objective}.`;
  const [columns, rows] = [across, down].map(key => distinct(judged.map(run => told(run.options[key]))));
  const cells = rows.map(row => columns.map(column => interval(judged
    .filter(run => told(run.options[across]) === column && told(run.options[down]) === row).map(run => run.figures[DATA.objective]))));
  const z = cells.map(line => line.map(cell => cell.mean));
  const text = cells.map(line => line.map(cell => cell.n ? `${figure(cell.mean)}<br>n=${cell.n}` : ""));
  const data = [{ type: "heatmap", x: columns.map(escaped), y: rows.map(escaped), z, text, texttemplate: "%{text}", xgap: 2, ygap: 2,
    colorscale: "Cividis", reversescale: !DATA.high, colorbar: { title: { text: DATA.objective, side: "right" }, thickness: 14 },
    hovertemplate: `${short(across)}=%{x}, ${short(down)}=%{y}<br>${DATA.objective} %{text}<extra></extra>` }];
  return { data, layout: { height: Math.max(260, 120 + 60 * rows.length), xaxis: { type: "category", title: { text: across } },
    yaxis: { type: "category", title: { text: down }, automargin: true, autorange: "reversed" } } };
}
