// The table of points. Only the lines on the screen are in the document.

import { debounce, difference, el, empty, figure, options, plural, say, seconds, statusBadge, when } from "./dom.js";
import { tagForm, tags } from "./notes.js";

const LINE = 32;
const BEYOND = 12;
/** Parameters that are shown at first. */
const MOST_PARAMETERS = 4;

/** The columns beside those of the pipelines. */
const FIXED = [
  { key: "status", label: "status", kind: "fixed", of: (row) => row.status, width: 7.5 },
  { key: "epoch", label: "epoch", kind: "fixed", of: (row) => row.epoch, text: (row) => (row.epochs ? (row.epoch === row.epochs ? String(row.epochs) : `${row.epoch} / ${row.epochs}`) : ""), width: 6.5, number: true },
];
const LAST = [
  { key: "seconds", label: "time", kind: "fixed", of: (row) => row.seconds, text: (row) => seconds(row.seconds), width: 5, number: true },
  { key: "finished_at", label: "finished", kind: "fixed", of: (row) => row.finished_at, text: (row) => when(row.finished_at), width: 9, number: true },
];

const TAGS = { key: "tags", label: "tags", kind: "fixed", of: (row) => row.tags?.join(", ") ?? null, node: (row) => tags(row.tags), width: 9 };
const NOTE = { key: "note", label: "note", kind: "fixed", of: (row) => row.note ?? null, text: (row) => row.note ?? "", width: 12 };

/** Numbers before texts, missing and NaN last. */
function compare(a, b, down) {
  const rank = (v) => (typeof v === "number" ? 0 : v === null || v === undefined || v === "nan" ? 2 : 1);
  const [x, y] = [rank(a), rank(b)];
  if (x === 2 || y === 2) return x - y;
  const order = x !== y ? x - y : x === 0 ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  return down ? -order : order;
}

export function show(main, state) {
  let columns = [], items = [], active = -1, longest = 8, drawn = "", headed = "", picked = "";
  const all = el("input", { type: "checkbox", "aria-label": "Select all", tabindex: -1, onchange: (event) => { for (const id of state.ids) { if (event.target.checked) state.selected.add(id); else state.selected.delete(id); } update({ rows: true }); } });
  const head = el("div", { class: "head", role: "row", "aria-rowindex": 1 });
  const body = el("div", { class: "lines" });
  const pinned = el("div", { class: "pinned" });
  const grid = el("div", { class: "grid", role: "grid", tabindex: 0, "aria-label": "Points", "aria-multiselectable": true, onkeydown: key }, head, pinned, body);
  const group = el("select", { onchange: (event) => { state.group = event.target.value; update({ filter: true }); } });
  const picker = el("div", { class: "picker" });
  const chosen = el("p", { class: "count", role: "status" });
  const problem = el("p", { class: "problem", role: "alert" });
  const tagging = tagForm(state, (text) => say(problem, text));
  const bar = el("div", { class: "bar" },
    el("label", {}, el("span", {}, "Group by"), group),
    el("details", { class: "columns" }, el("summary", {}, "Columns"), picker),
    chosen, tagging, problem,
    el("span", { class: "keys" }, "↑ ↓ move, Enter opens, Space selects, B sets the baseline, / filters"));
  main.append(bar, grid);
  grid.addEventListener("scroll", () => draw(), { passive: true });
  const resized = new ResizeObserver(() => { drawn = ""; draw(); });
  resized.observe(grid);

  function layout() {
    const rows = state.ids.map((id) => state.rows.get(id)).filter(Boolean);
    const own = state.columns.map((column, at) => ({ ...column, key: `v${at}`, at, of: (row) => row.values[at] }));
    const used = own.filter((column) => rows.some((row) => row.values[column.at] !== null));
    let parameters = 0;
    for (const column of used) {
      column.number = rows.every((row) => typeof row.values[column.at] !== "string" || /^-?(nan|inf)$/.test(row.values[column.at]));
      column.width = Math.min(Math.max(column.label.length * 0.56 + 1.8, 5.6), 12);
      column.extra = column.kind === "parameter" && ++parameters > MOST_PARAMETERS;
    }
    const noted = [TAGS, NOTE].filter((column) => rows.some((row) => column.of(row) !== null));
    const every = [...FIXED, ...noted, ...used, ...LAST];
    const isHidden = (c) => (state.hidden.has(c.label) ? true : c.extra && !state.hidden.has(`+${c.label}`));
    columns = every.filter((column) => !isHidden(column));
    const boxes = JSON.stringify(every.map((column) => [column.label, isHidden(column)]));
    if (boxes !== picked) {
      picked = boxes;
      const focused = picker.contains(document.activeElement) ? document.activeElement.dataset.column : null;
      picker.replaceChildren(...every.map((column) => el("label", {}, el("input", {
        type: "checkbox", "data-column": column.label, checked: !isHidden(column), onchange: (event) => {
          state.hidden.delete(column.label);
          state.hidden.delete(`+${column.label}`);
          if (!event.target.checked) state.hidden.add(column.label);
          else if (column.extra) state.hidden.add(`+${column.label}`);
          update({ filter: true });
        },
      }), column.label)));
      if (focused) [...picker.querySelectorAll("input")].find((box) => box.dataset.column === focused)?.focus();
    }
    const axes = used.filter((column) => column.kind !== "metric").map((column) => column.label);
    if (!["stage", "status", ...axes].includes(state.group)) state.group = "";
    options(group, [["", "nothing"], ...["stage", "status", ...axes].map((name) => [name, name])], state.group);
    longest = Math.max(8, ...rows.map((row) => row.point.length));
    setWidths();
    grid.setAttribute("aria-colcount", columns.length + 2);
    all.checked = rows.length > 0 && rows.every((row) => state.selected.has(row.id));
    const heads = JSON.stringify([columns.map((column) => [column.label, column.number, column.kind]), state.sort]);
    if (heads !== headed) {
      headed = heads;
      // A button that was pressed keeps the focus.
      const focused = head.contains(document.activeElement) ? document.activeElement.dataset.column : null;
      head.replaceChildren(
        el("span", { class: "cell", role: "columnheader" }, all),
        header({ key: "point", label: "point", kind: "fixed", of: (row) => row.point }),
        ...columns.map(header));
      if (focused) [...head.querySelectorAll("button")].find((button) => button.dataset.column === focused)?.focus();
    }
    arrange(rows);
  }

  /** Metrics are wider while they show their difference from the baseline. */
  function setWidths() {
    const width = (column) => (column.kind === "metric" && baselineOf() ? Math.max(column.width, 9.4) : column.width);
    const name = `min(var(--name), ${longest * 0.52 + (baselineOf() ? 5.6 : 1.4)}rem)`;
    const all = `2rem ${name} ${columns.map((column) => `${width(column)}rem`).join(" ")} minmax(0, 1fr)`;
    if (grid.style.getPropertyValue("--columns") !== all) grid.style.setProperty("--columns", all);
  }

  function header(column) {
    const is = state.sort.column === column.label;
    return el("span", { class: `cell ${column.number ? "number" : ""} ${column.kind}`, role: "columnheader", "aria-sort": is ? (state.sort.down ? "descending" : "ascending") : "none" },
      el("button", { type: "button", "data-column": column.label, title: `Sort by ${column.label}`, onclick: () => {
        const { sort } = state;
        if (!is) state.sort = { column: column.label, down: false };
        else if (!sort.down) sort.down = true;
        else state.sort = { column: null, down: false };
        update({ filter: true });
      } }, column.label, is ? (state.sort.down ? " ↓" : " ↑") : ""));
  }

  /** The lines in their order, with those of groups. */
  function arrange(rows) {
    const by = state.sort.column === "point" ? { of: (row) => row.point } : columns.find((column) => column.label === state.sort.column);
    if (by) rows.sort((a, b) => compare(by.of(a), by.of(b), state.sort.down) || a.id - b.id);
    if (!state.group) {
      items = rows.map((row) => ({ row }));
    } else {
      const at = state.columns.findIndex((column) => column.label === state.group);
      const of = (row) => (at >= 0 ? row.values[at] : row[state.group]);
      const groups = new Map();
      for (const row of rows) {
        const value = of(row);
        if (!groups.has(value)) groups.set(value, []);
        groups.get(value).push(row);
      }
      const sorted = [...groups].sort(([a], [b]) => compare(a, b, false));
      items = sorted.flatMap(([value, members]) => [{ value, members }, ...members.map((row) => ({ row }))]);
    }
    grid.setAttribute("aria-rowcount", items.length + 1);
    active = Math.min(active, items.length - 1);
    body.style.setProperty("--height", `${items.length * LINE}px`);
    drawn = "";
    draw();
  }

  function baselineOf() {
    return state.baseline === null ? null : state.rows.get(state.baseline);
  }

  function cells(row, baseline) {
    return columns.map((column) => {
      const value = column.of(row);
      const parts = [column.key === "status" ? statusBadge(value) : column.node ? column.node(row) : column.text ? column.text(row) : figure(value)];
      if (column.key === "status" && row.why) parts[0].title = row.why;
      const title = column === NOTE ? row.note : null;
      if (baseline && column.kind === "metric" && baseline.id !== row.id && typeof value === "number") {
        const other = column.of(baseline);
        if (typeof other === "number") parts.push(el("small", { class: "difference" }, difference(value - other)));
      }
      const progress = column.key === "epoch" && row.epochs && row.epoch < row.epochs;
      return el("span", { class: `cell ${column.number ? "number" : ""} ${progress ? "progress" : ""}`, role: "gridcell", title, vars: progress ? { "--done": `${(100 * row.epoch) / row.epochs}%` } : {} }, ...parts);
    });
  }

  function line(item, at) {
    const vars = at === null ? {} : { "--top": `${at * LINE}px` };
    if (item.members) {
      const means = columns.map((column) => {
        const values = column.kind === "metric" ? item.members.map(column.of).filter((v) => typeof v === "number") : [];
        const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
        return el("span", { class: `cell ${column.number ? "number" : ""}`, role: "gridcell", title: values.length ? `mean of ${values.length}` : null }, values.length ? figure(mean) : "");
      });
      return el("div", { class: "line group", role: "row", id: `line-${at}`, "aria-rowindex": at + 2, vars }, el("span", { class: "cell", role: "gridcell" }),
        el("span", { class: "cell name", role: "rowheader" }, `${state.group} ${figure(item.value) || "unset"} `, el("small", {}, plural(item.members.length, "point"))), ...means);
    }
    const { row } = item;
    const is = { active: at !== null && at === active, selected: state.selected.has(row.id), baseline: row.id === state.baseline };
    const classes = Object.keys(is).filter((name) => is[name]).join(" ");
    const box = el("input", { type: "checkbox", tabindex: -1, checked: is.selected, "aria-label": `Select ${row.point}`, onclick: (event) => { event.stopPropagation(); select(row.id); } });
    const name = el("a", { href: `#point/${row.id}`, tabindex: -1, title: `${row.pipeline}: ${row.point}` }, row.point);
    return el("div", { class: `line ${classes}`, role: "row", id: at === null ? null : `line-${at}`, "aria-rowindex": at === null ? null : at + 2, "aria-selected": is.selected, vars, onclick: () => { if (at !== null) { active = at; drawn = ""; draw(); } } },
      el("span", { class: "cell", role: "gridcell" }, box), el("span", { class: "cell name", role: "rowheader" }, name), ...cells(row, baselineOf()));
  }

  function draw() {
    const first = Math.max(0, Math.floor(grid.scrollTop / LINE) - BEYOND);
    const last = Math.min(items.length, Math.ceil((grid.scrollTop + grid.clientHeight) / LINE) + BEYOND);
    const now = `${first}-${last}`;
    if (now === drawn) return;
    drawn = now;
    const baseline = baselineOf();
    setWidths();
    pinned.replaceChildren(...(baseline ? [line({ row: baseline }, null)] : []));
    const lines = [];
    for (let at = first; at < last; at += 1) lines.push(line(items[at], at));
    // A box or a link of a line that had the focus leaves it to the table.
    const hadFocus = body.contains(document.activeElement);
    body.replaceChildren(...lines);
    if (hadFocus) grid.focus({ preventScroll: true });
    if (!items.length) body.replaceChildren(empty(state.rows.size ? "No point meets the filter." : "The cache has no point yet. Start `vadpipe run`, and it appears here."));
    grid.setAttribute("aria-activedescendant", active >= 0 ? `line-${active}` : "");
    say(chosen, state.selected.size ? `${plural(state.selected.size, "point")} selected` : "");
    tagging.hidden = !state.selected.size;
  }

  function select(id) {
    if (state.selected.has(id)) state.selected.delete(id); else state.selected.add(id);
    drawn = "";
    draw();
  }

  function key(event) {
    if (event.target !== grid && event.target.tagName !== "INPUT") return;
    const page = Math.max(1, Math.floor(grid.clientHeight / LINE) - 2);
    const to = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: items.length - 1 }[event.key];
    const row = items[active]?.row;
    if (to !== undefined) {
      active = Math.min(Math.max(to, 0), items.length - 1);
      const top = active * LINE;
      const room = grid.clientHeight - head.offsetHeight - pinned.offsetHeight - LINE;
      if (top < grid.scrollTop) grid.scrollTop = top;
      else if (top > grid.scrollTop + room) grid.scrollTop = top - room;
      drawn = "";
      draw();
    } else if (event.key === "Enter" && row) {
      state.open(`point/${row.id}`);
    } else if (event.key === " " && row) {
      select(row.id);
    } else if (event.key.toLowerCase() === "b" && row) {
      state.baseline = state.baseline === row.id ? null : row.id;
      drawn = "";
      draw();
    } else {
      return;
    }
    event.preventDefault();
  }

  const relayout = debounce(layout, 0);
  function update(change) {
    // The order may change with a value, so all is arranged again; only what is on the screen is drawn.
    if (change.filter || change.rows || change.columns) relayout();
  }
  layout();
  return { update, close: () => resized.disconnect() };
}
