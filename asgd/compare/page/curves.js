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

function singles(group, runs, x, y) {
  return runs.map(run => ({ run, curve: points(run, x, y) })).filter(({ curve }) => curve.length).map(({ run, curve }) => {
    const ended = run.state === "budget" ? "" : ` (${run.state})`, last = curve.length - 1;
    return { x: curve.map(p => p[0]), y: curve.map(p => p[1]), name: escaped(titleOf(run) + ended), mode: "lines+markers",
      line: { color: group.colour, width: 1, dash: group.dash }, opacity: 0.75,
      marker: { color: group.colour, symbol: "x-thin-open", size: curve.map((_, i) => ended && i === last ? 11 : 0.1), line: { width: 2, color: group.colour } },
      hovertemplate: "%{fullData.name}<br>%{x}: %{y:.4~g}<extra></extra>" };
  });
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
