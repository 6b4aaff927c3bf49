// The table of all runs: sorted by any column, with a box for each run to show or hide it.

const table = document.getElementById("table");
let order = { column: null, descending: false };

function columns() {
  const time = { name: `${DATA.unit} to target`, value: run => state.target === null ? null : reached(run, state.target, "seconds") };
  return [
    ...DATA.keys.map(key => ({ name: key, value: run => run.options[key], text: true })),
    ...[DATA.objective].map(name => ({ name, value: run => run.figures[name] })),
    { name: "state", value: run => run.state, text: true },
    time,
    ...DATA.figures.map(name => ({ name: name === "seconds" ? DATA.unit : name, value: run => run.figures[name] })),
    { name: "folder", value: run => run.folder, text: true },
  ];
}

function drawTable() {
  const all = columns(), head = element("thead"), body = element("tbody"), names = element("tr");
  names.append(element("th", { scope: "col" }, "show"), ...all.map(headOf));
  head.append(names);
  body.append(...sorted(all).map(run => rowOf(run, all)));
  table.replaceChildren(head, body);
}

function headOf(column) {
  const button = element("button", { type: "button" }, column.name);
  button.onclick = () => {
    order = { column: column.name, descending: order.column === column.name && !order.descending };
    drawTable();
  };
  const [objective, best] = [column.name === DATA.objective, DATA.high ? "descending" : "ascending"];
  const now = order.column === column.name ? (order.descending ? "descending" : "ascending") : order.column === null && objective ? best : "none";
  const cell = element("th", { scope: "col", "aria-sort": now, class: column.text ? "text" : "" });
  cell.append(button);
  return cell;
}

function sorted(all) {
  const column = all.find(each => each.name === order.column);
  if (!column) return DATA.runs;
  const [some, none] = [DATA.runs.filter(run => column.value(run) !== null), DATA.runs.filter(run => column.value(run) === null)];
  some.sort((a, b) => inOrder(column.value(a), column.value(b)) * (order.descending ? -1 : 1));
  return [...some, ...none];
}

function rowOf(run, all) {
  const box = element("input", { type: "checkbox", "aria-label": `show ${titleOf(run)}` }), row = element("tr", { class: run.shown ? "" : "hidden" });
  box.checked = run.shown;
  box.onchange = () => show([run], box.checked);
  const cell = element("td");
  cell.append(box);
  row.append(cell, ...all.map(column => cellOf(run, column)));
  return row;
}

function cellOf(run, column) {
  const value = column.value(run), named = column.text ? "text" : "";
  if (column.name === "folder") {
    const cell = element("td", { class: "text" });
    cell.append(element("a", { href: run.link + "/" }, value));
    return cell;
  }
  const word = typeof value === "number" && !column.text ? figure(value) : told(value);
  return element("td", { class: column.name === "state" ? `text ${run.state}` : named }, word);
}

function element(name, attributes = {}, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== "") made.setAttribute(key, value);
  made.textContent = text;
  return made;
}
