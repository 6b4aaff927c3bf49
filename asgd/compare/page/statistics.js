// Means over runs, with their intervals; the same rules as asgd.results.

const known = values => values.filter(value => value !== null && value !== undefined);

// Mean, half the width of its 95 % interval (null for fewer than two), and the number of values.
function interval(values) {
  const each = known(values), n = each.length;
  if (n === 0) return { mean: null, half: null, n };
  const mean = each.reduce((sum, value) => sum + value, 0) / n;
  if (n === 1) return { mean, half: null, n };
  const variance = each.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1);
  return { mean, half: DATA.student[n - 2] * Math.sqrt(variance / n), n };
}

// The points of a run's curve that have both figures, in the order of x.
function points(run, x, y) {
  const found = run.curve[x].map((place, i) => [place, run.curve[y][i]]).filter(([a, b]) => a !== null && b !== null);
  return found.sort((a, b) => a[0] - b[0]);
}

function readAt(curve, x) {
  let i = curve.findIndex(([place]) => place >= x);
  if (i <= 0) return curve[Math.max(i, 0)][1];
  const [[x0, y0], [x1, y1]] = [curve[i - 1], curve[i]];
  return x1 === x0 ? y1 : y0 + (y1 - y0) * (x - x0) / (x1 - x0);
}

// The mean curve where all runs have one: a list of { x, mean, half, n }.
function meanCurve(runs, x, y) {
  const curves = runs.map(run => points(run, x, y)).filter(curve => curve.length);
  if (!curves.length) return [];
  const first = Math.max(...curves.map(curve => curve[0][0])), last = Math.min(...curves.map(curve => curve.at(-1)[0]));
  const places = [...new Set(curves.flat().map(([place]) => place))].filter(place => place >= first && place <= last);
  places.sort((a, b) => a - b);
  return thin(places, 300).map(place => ({ x: place, ...interval(curves.map(curve => readAt(curve, place))) }));
}

function thin(values, most) {
  if (values.length <= most) return values;
  return Array.from({ length: most }, (_, i) => values[Math.round(i * (values.length - 1) / (most - 1))]);
}

// x at the first evaluation that was as good as the target; null for a run that never was.
function reached(run, target, x) {
  const i = run.curve.accuracy.findIndex(accuracy => accuracy !== null && accuracy >= target);
  return i < 0 ? null : run.curve[x][i];
}

const complete = runs => runs.filter(run => run.state === "budget");

const inOrder = (a, b) => typeof a === "number" && typeof b === "number" ? a - b
  : String(a).localeCompare(String(b), "en", { numeric: true });

const distinct = values => [...new Set(values)].sort(inOrder);
