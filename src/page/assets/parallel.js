// Parallel coordinates of parameters and a metric, with brushes that select points, and the importance of each parameter.

import { get, newest, parts } from "./api.js";
import { colour, debounce, el, empty, figure, options, plural, say, scale, svg, throttle } from "./dom.js";

const settings = { metric: "" };
const TOP = 46, BOTTOM = 26, HEIGHT = 420;

export function show(main, state) {
  const metric = el("select", { onchange: (event) => { settings.metric = event.target.value; draw(); } });
  const clear = el("button", { type: "button", onclick: () => { state.brushes.clear(); drawn = ""; draw(); } }, "Clear the brushes");
  const keep = el("button", { type: "button", onclick: () => { state.selected = new Set(inside().map((row) => row.id)); state.open("curves"); } }, "Show the curves of the selection");
  const note = el("p", { class: "note", role: "status" });
  const loading = newest();
  const drawing = el("div", { class: "wide", tabindex: 0 });
  const shares = el("section", { class: "importance", "aria-label": "Importance" });
  main.append(el("div", { class: "bar" }, el("label", {}, el("span", {}, "Metric"), metric), clear, keep), note, drawing, shares);
  let axes = [], rows = [], canvas = null, frame = 0, compared = "", drawn = "", isDragged = false, isLate = false, isClosed = false;
  const resized = new ResizeObserver(debounce(() => draw(), 80));
  resized.observe(main);

  /** The columns with more than one value, and the metric at the end. */
  function layout() {
    rows = state.ids.map((id) => state.rows.get(id)).filter(Boolean);
    const own = state.columns.map((column, at) => ({ ...column, at }));
    const metrics = own.filter((c) => c.kind === "metric" && rows.some((row) => typeof row.values[c.at] === "number"));
    if (!metrics.some((c) => c.label === settings.metric)) settings.metric = (metrics.find((c) => c.label === "loss") ?? metrics[0])?.label ?? "";
    options(metric, metrics.map((c) => [c.label, c.label]), settings.metric);
    const last = metrics.find((c) => c.label === settings.metric);
    if (last) rows = rows.filter((row) => typeof row.values[last.at] === "number");
    // Points of other stages have other parameters: the stage with the most points is compared.
    const stages = new Map();
    for (const row of rows) {
      const name = `${row.pipeline}: ${row.stage}`;
      if (!stages.has(name)) stages.set(name, []);
      stages.get(name).push(row);
    }
    const [most, ...others] = [...stages].sort((a, b) => b[1].length - a[1].length);
    rows = most?.[1] ?? [];
    compared = others.length ? ` of ${most[0]} (choose another stage with the filter)` : "";
    const first = own.filter((c) => c.kind !== "metric" && new Set(rows.map((row) => row.values[c.at])).size > 1).slice(0, 12);
    axes = [...first, last].filter(Boolean).map(axis);
  }

  function axis(column) {
    const values = [...new Set(rows.map((row) => row.values[column.at]).filter((v) => v !== null))];
    const numbers = values.length > 0 && values.every((v) => typeof v === "number");
    if (!numbers) {
      values.sort((a, b) => String(a).localeCompare(String(b)));
      const order = new Map(values.map((v, at) => [v, at]));
      const place = (v) => (order.has(v) ? (values.length < 2 ? 0.5 : order.get(v) / (values.length - 1)) : null);
      return { ...column, place, ticks: values.slice(0, 16).map((v) => [place(v), figure(v)]) };
    }
    const [low, high] = values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
    const isLog = low > 0 && high / low >= 20;
    const to = isLog ? Math.log : (v) => v;
    const span = to(high) - to(low) || 1;
    const place = (v) => (v === null ? null : (to(v) - to(low)) / span);
    const few = values.length <= 7 ? values : [0, 0.25, 0.5, 0.75, 1].map((t) => (isLog ? Math.exp(to(low) + t * span) : low + t * span));
    return { ...column, place, isLog, ticks: few.map((v) => [place(v), figure(v)]) };
  }

  function inside() {
    const held = axes.filter((a) => state.brushes.has(a.label));
    return rows.filter((row) => held.every((a) => {
      const [from, to] = state.brushes.get(a.label);
      const at = a.place(row.values[a.at]);
      return at !== null && at >= from - 1e-9 && at <= to + 1e-9;
    }));
  }

  /** Draws the axes again only if they are others, so that a brush keeps the focus. */
  function draw() {
    if (isDragged) { isLate = true; return; }
    layout();
    if (axes.length < 2) {
      drawn = "";
      drawing.replaceChildren(empty("There is nothing to compare yet: no parameter differs between points with a metric."));
      note.textContent = "";
      shares.replaceChildren();
      return;
    }
    const width = Math.max(drawing.clientWidth, axes.length * 104);
    const look = JSON.stringify([width, axes.map((a) => [a.label, a.isLog, a.ticks])]);
    if (look === drawn) { repaint(); return; }
    drawn = look;
    const focused = document.activeElement?.dataset?.axis;
    const step = (width - 90) / (axes.length - 1);
    const x = (at) => 45 + at * step;
    const y = (place) => HEIGHT - BOTTOM - place * (HEIGHT - TOP - BOTTOM);
    canvas = el("canvas", { width: width * devicePixelRatio, height: HEIGHT * devicePixelRatio, vars: { width: `${width}px`, height: `${HEIGHT}px` }, "aria-hidden": "true" });
    const marks = svg("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "group", "aria-label": "Axes: drag on one to select, or use the arrow keys" });
    axes.forEach((a, at) => {
      const brush = svg("rect", { class: "brush", x: x(at) - 9, width: 18, y: 0, height: 0 });
      const area = svg("rect", { class: "axis-area", x: x(at) - 22, width: 44, y: TOP - 8, height: HEIGHT - TOP - BOTTOM + 16, tabindex: 0, role: "slider", "data-axis": a.label, "aria-orientation": "vertical", "aria-label": `Range of ${a.label}`, "aria-valuemin": 0, "aria-valuemax": 100 });
      const show = () => {
        const range = state.brushes.get(a.label);
        brush.setAttribute("y", range ? y(range[1]) - 2 : 0);
        brush.setAttribute("height", range ? y(range[0]) - y(range[1]) + 4 : 0);
        area.setAttribute("aria-valuenow", range ? Math.round(range[0] * 100) : 0);
        area.setAttribute("aria-valuetext", range ? `${Math.round(range[0] * 100)} to ${Math.round(range[1] * 100)} percent of the axis` : "all");
      };
      show();
      drag(area, (event) => 1 - (event.offsetY - TOP) / (HEIGHT - TOP - BOTTOM), (range) => { if (range) state.brushes.set(a.label, range); else state.brushes.delete(a.label); show(); repaint(); }, (is) => { isDragged = is; if (!is && isLate) { isLate = false; draw(); } });
      area.addEventListener("keydown", (event) => {
        const by = { ArrowUp: 0.05, ArrowDown: -0.05 }[event.key];
        if (event.key === "Escape" || event.key === "Delete") state.brushes.delete(a.label);
        else if (by) {
          const [from, to] = state.brushes.get(a.label) ?? [0, 1];
          // With Shift the upper end moves, else the lower one.
          state.brushes.set(a.label, event.shiftKey ? [from, Math.min(Math.max(to + by, from), 1)] : [Math.max(Math.min(from + by, to), 0), to]);
        } else return;
        event.preventDefault();
        show();
        repaint();
      });
      const stagger = at % 2 && step < 120 ? 14 : 0;
      marks.append(
        svg("line", { class: "axis", x1: x(at), x2: x(at), y1: TOP, y2: HEIGHT - BOTTOM }),
        svg("text", { class: "axis-name", x: x(at), y: 14 + stagger }, a.label + (a.isLog ? " (log)" : "")),
        ...a.ticks.map(([place, text]) => svg("text", { class: "tick", x: x(at) + (at === axes.length - 1 ? -8 : 8), y: y(place) + 4, "text-anchor": at === axes.length - 1 ? "end" : "start" }, text)),
        brush, area);
    });
    drawing.replaceChildren(el("div", { class: "parallel", vars: { width: `${width}px`, height: `${HEIGHT}px` } }, canvas, marks));
    if (focused) [...marks.querySelectorAll(".axis-area")].find((area) => area.dataset.axis === focused)?.focus();
    paint();
    importance();

    function paint() {
      const context = canvas.getContext("2d");
      context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
      context.clearRect(0, 0, width, HEIGHT);
      const chosen = new Set(inside().map((row) => row.id));
      const last = axes.at(-1);
      const path = (row) => {
        context.beginPath();
        let pen = false;
        axes.forEach((a, at) => {
          const place = a.place(row.values[a.at]);
          if (place === null || place < 0) { pen = false; return; }
          if (pen) context.lineTo(x(at), y(place)); else context.moveTo(x(at), y(place));
          pen = true;
        });
        context.stroke();
      };
      context.lineWidth = 1;
      context.strokeStyle = colour("--line");
      if (chosen.size < rows.length) for (const row of rows) if (!chosen.has(row.id)) path(row);
      const many = chosen.size > 300;
      context.globalAlpha = many ? 0.35 : 0.85;
      context.lineWidth = many ? 1 : 1.5;
      const all = rows.filter((row) => chosen.has(row.id)).sort((a, b) => b.values[last.at] - a.values[last.at]);
      for (const row of all) { context.strokeStyle = scale(last.place(row.values[last.at])); path(row); }
      context.globalAlpha = 1;
      keep.disabled = !chosen.size;
    }
    repaint = () => { if (!frame) frame = requestAnimationFrame(() => { frame = 0; paint(); importance(); }); };
  }
  let repaint = () => {};

  /** Says how many points are selected, and asks what decides the metric among them. */
  const importance = debounce(() => {
    const chosen = inside();
    say(note, chosen.length === rows.length ? `${plural(rows.length, "point")} with ${settings.metric}${compared}. Drag on an axis to select.` : `${chosen.length.toLocaleString("en")} of ${plural(rows.length, "point")} selected.`);
    explain(chosen.map((row) => row.id)).catch(() => {});
  }, 150);

  async function explain(ids) {
    const column = state.columns.find((c) => c.label === settings.metric);
    if (!ids.length || !column || isClosed) return;
    const signal = loading.begin();
    // More points than one request can name: every nth of them tells nearly the same.
    const most = parts(ids)[0].length;
    const every = Math.ceil(ids.length / most);
    const sample = every > 1 ? ids.filter((_, at) => at % every === 0) : ids;
    const found = await get("/api/importance", { metric: column.name }, { ids: sample, signal });
    if (isClosed) return;
    const line = ({ name, share }) => el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "number" }, `${Math.round(share * 100)} %`), el("td", {}, el("i", { class: "bar-of", vars: { "--share": `${share * 100}%` } })));
    shares.replaceChildren(el("h2", {}, `What decides ${settings.metric}`),
      el("p", { class: "note" }, `The share of the variance of ${settings.metric} that each parameter explains by itself, in ${every > 1 ? "a sample of " : ""}${plural(found.points, "point")}. What that many groups explain by chance is taken off. Parameters that only matter together have small shares.`),
      found.parameters.length ? el("table", {}, el("tbody", {}, found.parameters.map(line))) : empty("No parameter has several points for each of its values."));
  }

  draw();
  const redraw = throttle(draw, 300);
  return {
    update(change) { if (change.filter || change.rows || change.columns) redraw(); },
    close() {
      isClosed = true;
      loading.stop();
      resized.disconnect();
    },
  };
}

/** Calls `set` with the range that is dragged, or with nothing after a click. */
function drag(area, place, set, dragged) {
  let from = null;
  const clamp = (v) => Math.min(Math.max(v, 0), 1);
  area.addEventListener("pointerdown", (event) => { dragged(true); from = clamp(place(event)); area.setPointerCapture(event.pointerId); event.preventDefault(); area.focus(); });
  area.addEventListener("pointermove", (event) => {
    if (from === null) return;
    const to = clamp(place(event));
    if (Math.abs(to - from) > 0.01) set([Math.min(from, to), Math.max(from, to)]);
  });
  area.addEventListener("pointerup", (event) => {
    if (from !== null && Math.abs(clamp(place(event)) - from) <= 0.01) set(null);
    from = null;
    dragged(false);
  });
  area.addEventListener("pointercancel", () => { from = null; dragged(false); });
}
