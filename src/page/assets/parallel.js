// Parallel coordinates of parameters and a metric, with brushes that select points, and the importance of each parameter.

import { get } from "./api.js";
import { colour, debounce, el, empty, figure, option, plural, scale, svg } from "./dom.js";

const settings = { metric: "" };
const TOP = 46, BOTTOM = 26, HEIGHT = 420;

export function show(main, state) {
  const metric = el("select", { onchange: (event) => { settings.metric = event.target.value; draw(); } });
  const clear = el("button", { type: "button", onclick: () => { state.brushes.clear(); draw(); } }, "Clear the brushes");
  const keep = el("button", { type: "button", onclick: () => { state.selected = new Set(inside().map((row) => row.id)); state.open("curves"); } }, "Show the curves of the selection");
  const note = el("p", { class: "note", role: "status" });
  const drawing = el("div", { class: "wide", tabindex: 0 });
  const shares = el("section", { class: "importance", "aria-label": "Importance" });
  main.append(el("div", { class: "bar" }, el("label", {}, el("span", {}, "Metric"), metric), clear, keep), note, drawing, shares);
  let axes = [], rows = [], canvas = null, frame = 0, compared = "";
  const resized = new ResizeObserver(debounce(() => draw(), 80));
  resized.observe(main);

  /** The columns with more than one value, and the metric at the end. */
  function layout() {
    rows = state.ids.map((id) => state.rows.get(id)).filter(Boolean);
    const own = state.columns.map((column, at) => ({ ...column, at }));
    const metrics = own.filter((c) => c.kind === "metric" && rows.some((row) => typeof row.values[c.at] === "number"));
    if (!metrics.some((c) => c.label === settings.metric)) settings.metric = (metrics.find((c) => c.label === "loss") ?? metrics[0])?.label ?? "";
    metric.replaceChildren(...metrics.map((c) => option(c.label, c.label, c.label === settings.metric)));
    const last = metrics.find((c) => c.label === settings.metric);
    if (last) rows = rows.filter((row) => typeof row.values[last.at] === "number");
    // Points of other stages have other parameters: the stage with the most points is compared.
    const stages = new Map();
    for (const row of rows) { const name = `${row.pipeline}: ${row.stage}`; stages.set(name, [...(stages.get(name) ?? []), row]); }
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
      const place = (v) => (values.length < 2 ? 0.5 : values.indexOf(v) / (values.length - 1));
      return { ...column, place, ticks: values.slice(0, 16).map((v) => [place(v), figure(v)]) };
    }
    const [low, high] = [Math.min(...values), Math.max(...values)];
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

  function draw() {
    layout();
    if (axes.length < 2) {
      drawing.replaceChildren(empty("There is nothing to compare yet: no parameter differs between points with a metric."));
      note.textContent = "";
      shares.replaceChildren();
      return;
    }
    const width = Math.max(drawing.clientWidth, axes.length * 104);
    const step = (width - 90) / (axes.length - 1);
    const x = (at) => 45 + at * step;
    const y = (place) => HEIGHT - BOTTOM - place * (HEIGHT - TOP - BOTTOM);
    canvas = el("canvas", { width: width * devicePixelRatio, height: HEIGHT * devicePixelRatio, vars: { width: `${width}px`, height: `${HEIGHT}px` }, "aria-hidden": "true" });
    const marks = svg("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "group", "aria-label": "Axes: drag on one to select, or use the arrow keys" });
    axes.forEach((a, at) => {
      const brush = svg("rect", { class: "brush", x: x(at) - 9, width: 18, y: 0, height: 0 });
      const area = svg("rect", { class: "axis-area", x: x(at) - 22, width: 44, y: TOP - 8, height: HEIGHT - TOP - BOTTOM + 16, tabindex: 0, role: "slider", "aria-label": `Range of ${a.label}`, "aria-valuetext": "all" });
      const show = () => {
        const range = state.brushes.get(a.label);
        brush.setAttribute("y", range ? y(range[1]) - 2 : 0);
        brush.setAttribute("height", range ? y(range[0]) - y(range[1]) + 4 : 0);
        area.setAttribute("aria-valuetext", range ? `${Math.round(range[0] * 100)} to ${Math.round(range[1] * 100)} percent of the axis` : "all");
      };
      show();
      drag(area, (event) => 1 - (event.offsetY - TOP) / (HEIGHT - TOP - BOTTOM), (range) => { if (range) state.brushes.set(a.label, range); else state.brushes.delete(a.label); show(); repaint(); });
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
      note.textContent = chosen.size === rows.length ? `${plural(rows.length, "point")} with ${settings.metric}${compared}. Drag on an axis to select.` : `${chosen.size} of ${plural(rows.length, "point")} selected.`;
      keep.disabled = !chosen.size;
    }
    repaint = () => { if (!frame) frame = requestAnimationFrame(() => { frame = 0; paint(); importance(); }); };
  }
  let repaint = () => {};

  const importance = debounce(async () => {
    const ids = inside().map((row) => row.id);
    if (!ids.length || !settings.metric) return;
    const column = state.columns.find((c) => c.label === settings.metric);
    const found = await get("/api/importance", { ids: ids.join(","), metric: column.name });
    const line = ({ name, share }) => el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "number" }, `${Math.round(share * 100)} %`), el("td", {}, el("i", { class: "bar-of", vars: { "--share": `${share * 100}%` } })));
    shares.replaceChildren(el("h2", {}, `What decides ${settings.metric}`),
      el("p", { class: "note" }, `The share of the variance of ${settings.metric} that each parameter explains by itself, in ${plural(found.points, "point")}. What that many groups explain by chance is taken off. Parameters that only matter together have small shares.`),
      found.parameters.length ? el("table", {}, el("tbody", {}, found.parameters.map(line))) : empty("No parameter has several points for each of its values."));
  }, 150);

  draw();
  const redraw = debounce(draw, 300);
  return { update(change) { if (change.filter || change.rows) redraw(); }, close: () => resized.disconnect() };
}

/** Calls `set` with the range that is dragged, or with nothing after a click. */
function drag(area, place, set) {
  let from = null;
  const clamp = (v) => Math.min(Math.max(v, 0), 1);
  area.addEventListener("pointerdown", (event) => { from = clamp(place(event)); area.setPointerCapture(event.pointerId); event.preventDefault(); area.focus(); });
  area.addEventListener("pointermove", (event) => {
    if (from === null) return;
    const to = clamp(place(event));
    if (Math.abs(to - from) > 0.01) set([Math.min(from, to), Math.max(from, to)]);
  });
  area.addEventListener("pointerup", (event) => {
    if (from !== null && Math.abs(clamp(place(event)) - from) <= 0.01) set(null);
    from = null;
  });
}
