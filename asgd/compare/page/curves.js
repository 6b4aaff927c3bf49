// Loss and accuracy: the mean of each group with its interval, and runs by themselves.

function curveTraces(groups, x, y, single) {
  return groups.flatMap(group => {
    const whole = complete(group.runs), line = meanCurve(whole, x, y);
    const alone = group.runs.filter(run => run.state !== "budget" || !line.length || (single && whole.length > 1));
    return [...bands(group, line), ...means(group, line), ...singles(group, alone, x, y)];
  });
}

function bands(group, line) {
  const wide = line.filter(point => point.half !== null);
  if (!wide.length) return [];
  const edge = sign => ({ x: wide.map(p => p.x), y: wide.map(p => p.mean + sign * p.half), mode: "lines",
    line: { width: 0, color: group.colour }, hoverinfo: "skip", showlegend: false });
  return [edge(-1), { ...edge(1), fill: "tonexty", fillcolor: faint(group.colour, 0.14) }];
}

function means(group, line) {
  if (!line.length) return [];
  const n = line[0].n, text = line.map(p => p.half === null ? `n=${n}` : `± ${figure(p.half)}, n=${n}`);
  const mode = line.length > 60 ? "lines" : "lines+markers";
  return [{ x: line.map(p => p.x), y: line.map(p => p.mean), text, name: escaped(group.name), mode,
    line: { color: group.colour, dash: group.dash, width: 2.5 }, marker: { color: group.colour, symbol: group.marker, size: 7 },
    hovertemplate: "<b>%{fullData.name}</b><br>%{x}: %{y:.4~g} %{text}<extra></extra>" }];
}

// All runs of a group that are drawn by themselves, as one trace with gaps: a thousand traces would be slow.
function singles(group, runs, x, y) {
  const all = { x: [], y: [], text: [], size: [] };
  for (const run of runs) {
    const curve = points(run, x, y), early = run.state !== "budget", last = curve.length - 1;
    const name = escaped(titleOf(run) + (early ? ` (${run.state})` : ""));
    curve.forEach(([place, value], i) => add(all, place, value, name, early && i === last ? 11 : 0.1));
    if (curve.length) add(all, null, null, "", 0.1);
  }
  if (!all.x.length) return [];
  return [{ x: all.x, y: all.y, text: all.text, mode: "lines+markers", opacity: 0.75,
    line: { color: group.colour, width: 1, dash: group.dash },
    marker: { color: group.colour, symbol: "x-thin-open", size: all.size, line: { width: 2, color: group.colour } },
    hovertemplate: "%{text}<br>%{x}: %{y:.4~g}<extra></extra>" }];
}

function add(all, x, y, text, size) {
  all.x.push(x);
  all.y.push(y);
  all.text.push(text);
  all.size.push(size);
}

const xTitle = x => x === "seconds" ? DATA.unit : x;

const NO_CURVE = { loss: "No loss on validation data is on record: these runs were not evaluated (evaluate.every=0), or not yet.",
  accuracy: "No accuracy is on record: these runs were not evaluated, or their task has no classes." };

function curvePlot(y) {
  return ({ groups, x, single, scale }) => {
    const data = curveTraces(groups, x, y, single);
    if (!data.length) return NO_CURVE[y];
    const type = y === "loss" ? scale : "linear";
    return { data, layout: { xaxis: { title: { text: xTitle(x) } }, yaxis: { title: { text: `validation ${y}` }, type } } };
  };
}
