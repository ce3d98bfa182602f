// Curves of trainings: one line for each point, drawn by uPlot.

import { get } from "./api.js";
import { colour, el, empty, figure, option, palette, plural, scale, seconds, throttle } from "./dom.js";

/** Values of a curve that are asked for. */
const MOST = 600;
/** More curves have no legend. */
const MOST_NAMED = 40;

const settings = { metric: "", x: "epoch", colour: "", smooth: 0, logX: false, logY: false, only: false };

export function show(main, state) {
  let data = null, plot = null, asked = 0, names = {};
  const metric = el("select", { onchange: (e) => { settings.metric = e.target.value; load(); } });
  const across = el("select", { onchange: (e) => { settings.x = e.target.value; draw(); } });
  const by = el("select", { onchange: (e) => { settings.colour = e.target.value; draw(); } });
  const smooth = el("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: settings.smooth, "aria-label": "Smoothing", oninput: (e) => { settings.smooth = Number(e.target.value); redraw(); } });
  const box = (name, text) => el("label", { class: "check" }, el("input", { type: "checkbox", checked: settings[name], onchange: (e) => { settings[name] = e.target.checked; if (name === "only") load(); else draw(); } }), text);
  const bar = el("div", { class: "bar" },
    el("label", {}, el("span", {}, "Metric"), metric), el("label", {}, el("span", {}, "Across"), across),
    el("label", {}, el("span", {}, "Colour by"), by), el("label", {}, el("span", {}, "Smoothing"), smooth),
    box("logY", "log values"), box("logX", "log steps"), box("only", "selected points only"));
  const chart = el("div", { class: "chart", role: "img", "aria-label": "Curves" });
  const readout = el("div", { class: "readout", role: "status" });
  const note = el("p", { class: "note" });
  main.append(bar, el("div", { class: "plotting" }, chart, readout), note);
  across.replaceChildren(option("epoch", "epochs", settings.x === "epoch"), option("time", "time of training", settings.x === "time"), option("samples", "samples", settings.x === "samples"));
  const redraw = throttle(() => draw(), 60);
  const resized = new ResizeObserver(() => plot?.setSize(size()));
  resized.observe(chart);

  const wanted = () => (settings.only && state.selected.size ? state.ids.filter((id) => state.selected.has(id)) : state.ids);

  async function start() {
    names = await get("/api/curves", { ids: wanted().join(",") || "-" });
    const all = Object.keys(names).sort((a, b) => names[b] - names[a] || a.localeCompare(b));
    if (!all.length) {
      chart.replaceChildren(empty("None of these points has a curve. Trainings have one for each metric that they log in an epoch."));
      return;
    }
    if (!names[settings.metric]) settings.metric = names.loss ? "loss" : all[0];
    metric.replaceChildren(...all.map((name) => option(name, `${name} (${names[name]})`, name === settings.metric)));
    const axes = state.columns.filter((column) => column.kind !== "metric").map((column) => column.label);
    by.replaceChildren(option("", "point"), ...["stage", ...axes].map((name) => option(name, name, name === settings.colour)));
    await load();
  }

  async function load() {
    const own = ++asked;
    const found = await get("/api/curves", { ids: wanted().join(",") || "-", metric: settings.metric, most: MOST });
    if (own !== asked) return;
    data = found;
    draw();
  }

  /** Asks again for the curves that have grown. */
  const grown = new Set();
  const follow = throttle(async () => {
    const ids = [...grown].filter((id) => state.ids.includes(id));
    grown.clear();
    if (!data || !ids.length) return;
    const found = await get("/api/curves", { ids: ids.join(","), metric: settings.metric, most: MOST });
    if (found.bucket !== data.bucket || found.epochs > data.epochs) { load(); return; }
    const known = new Map(data.series.map((one) => [one.id, one]));
    let is = false;
    for (const one of found.series) {
      if (known.has(one.id)) Object.assign(known.get(one.id), one); else { data.series.push(one); is = true; }
    }
    if (is || !plot || settings.x !== "epoch") draw(); else plot.setData(aligned().columns, false) ?? scaleTo();
  }, 300);

  function scaleTo() {
    plot.setScale("x", { min: plot.data[0][0], max: plot.data[0].at(-1) });
  }

  const place = (at) => (data.bucket === 1 ? at + 1 : Math.floor(at / 2) * data.bucket + 1 + (at % 2 ? Math.floor(data.bucket / 2) : 0));

  /** The mean of the values before, the newer ones with more weight. */
  function smoothed(values) {
    if (!settings.smooth) return values;
    let sum = 0, weight = 0;
    return values.map((value) => {
      if (value === null) return null;
      sum = sum * settings.smooth + value;
      weight = weight * settings.smooth + 1;
      return sum / weight;
    });
  }

  /** All curves on the same places. */
  function aligned() {
    const fits = (value) => (settings.logY && value !== null && value <= 0 ? null : value);
    if (settings.x === "epoch") {
      const xs = Array.from({ length: data.places }, (_, at) => place(at));
      const pad = (values) => { const all = smoothed(values).map(fits); while (all.length < xs.length) all.push(null); return all; };
      return { columns: [xs, ...data.series.map((one) => pad(one.values))], series: data.series };
    }
    const unit = settings.x === "time" ? (one) => one.seconds_per_epoch && one.seconds_per_epoch / 3600 : (one) => one.samples_per_epoch;
    const series = data.series.filter((one) => unit(one));
    const end = Math.max(...series.map((one) => one.epochs * unit(one)), 0);
    const xs = Array.from({ length: MOST }, (_, at) => (end * (at + 1)) / MOST);
    const columns = series.map((one) => {
      const values = smoothed(one.values).map(fits);
      return xs.map((x) => {
        const epoch = x / unit(one);
        if (epoch > one.epochs || epoch < 1) return null;
        const at = data.bucket === 1 ? epoch - 1 : ((epoch - 1) / data.bucket) * 2;
        const left = values[Math.floor(at)] ?? null, right = values[Math.ceil(at)] ?? left;
        return left === null ? null : left + (right - left) * (at - Math.floor(at));
      });
    });
    return { columns: [xs, ...columns], series };
  }

  /** The colour of each curve. */
  function colours(series) {
    const column = state.columns.findIndex((c) => c.label === settings.colour);
    const of = (row) => (settings.colour === "stage" ? row?.stage : column >= 0 ? row?.values[column] : null);
    if (!settings.colour) return { of: (one, at) => (series.length > MOST_NAMED ? scale(at / series.length) : palette(at)), legend: [] };
    const values = [...new Set(series.map((one) => of(state.rows.get(one.id))))].filter((v) => v !== null && v !== undefined);
    const numbers = values.every((v) => typeof v === "number");
    values.sort((a, b) => (numbers ? a - b : String(a).localeCompare(String(b))));
    const paint = (v) => { const at = values.indexOf(v); return at < 0 ? colour("--soft") : numbers ? scale(values.length < 2 ? 0 : at / (values.length - 1)) : palette(at); };
    return { of: (one) => paint(of(state.rows.get(one.id))), legend: values.map((v) => [v, paint(v)]) };
  }

  function size() {
    return { width: Math.max(chart.clientWidth, 280), height: Math.max(Math.min(innerHeight - chart.getBoundingClientRect().top - 90, 720), 260) };
  }

  function draw() {
    plot?.destroy();
    plot = null;
    if (!data) return;
    const { columns, series } = aligned();
    if (!series.length) {
      chart.replaceChildren(empty(settings.x === "epoch" ? "None of these points has this curve." : "The time of an epoch is known once a training has ended."));
      return;
    }
    chart.replaceChildren();
    const paint = colours(series);
    const many = series.length > MOST_NAMED;
    const ink = colour("--soft"), line = colour("--line");
    const axis = (label) => ({ stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "12px system-ui, sans-serif", label, labelFont: "12px system-ui, sans-serif", labelSize: 18, size: label ? 34 : undefined });
    const unit = { epoch: "epoch", time: "hours of training, if all epochs of a run took the same time", samples: "samples" }[settings.x];
    plot = new uPlot({
      ...size(),
      legend: { show: false },
      cursor: { focus: { prox: many ? 16 : 24 }, drag: { x: true, y: true, uni: 20 }, points: { show: !many, size: 6 } },
      // Dimming redraws all curves, which takes too long if there are many.
      focus: { alpha: many ? 1 : 0.25 },
      scales: { x: { time: false, distr: settings.logX ? 3 : 1 }, y: { distr: settings.logY ? 3 : 1 } },
      axes: [{ ...axis(unit), incrs: settings.x === "time" ? undefined : [1, 2, 5].flatMap((n) => Array.from({ length: 10 }, (_, p) => n * 10 ** p)).sort((a, b) => a - b) }, { ...axis(), size: 62, values: (_, all) => all.map((v) => (v === null ? "" : figure(v))) }],
      series: [{}, ...series.map((one, at) => ({ label: String(one.id), stroke: paint.of(one, at), width: many ? 1 : 1.75, points: { show: false }, spanGaps: true, alpha: many ? 0.7 : 1 }))],
      hooks: { setCursor: [hover], setSeries: [(_, at) => { focused = at; if (many) highlight(); }], draw: [() => { if (many) highlight(); }] },
    }, columns, chart);
    chart.setAttribute("aria-label", `${plural(series.length, "curve")} of ${settings.metric}`);
    plot.over.addEventListener("click", () => { if (focused > 0 && !plot.select.width) state.open(`point/${series[focused - 1].id}`); });
    note.textContent = `${plural(series.length, "curve")}${data.bucket > 1 ? `; each place shows the least and the greatest value of ${data.bucket} epochs` : ""}. Drag to zoom, double-click to go back, click a curve to open its point.`;
    listed = series.map((one, at) => ({ one, at, colour: paint.of(one, at) }));
    legend = paint.legend;
    reading(null);
  }

  let focused = null, listed = [], legend = [], frame = 0, above = null;

  /** Draws the curve at the cursor above all others. */
  function highlight() {
    if (!plot?.over) return;
    const { clientWidth: width, clientHeight: height } = plot.over;
    if (!above || above.parentElement !== plot.over) {
      above = el("canvas", { class: "above", "aria-hidden": "true" });
      plot.over.append(above);
    }
    above.width = width * devicePixelRatio;
    above.height = height * devicePixelRatio;
    if (!focused || !plot.data[focused]) return;
    const context = above.getContext("2d");
    context.scale(devicePixelRatio, devicePixelRatio);
    context.beginPath();
    let pen = false;
    plot.data[focused].forEach((value, at) => {
      if (value === null || value === undefined) return;
      const [x, y] = [plot.valToPos(plot.data[0][at], "x"), plot.valToPos(value, "y")];
      if (pen) context.lineTo(x, y); else context.moveTo(x, y);
      pen = true;
    });
    for (const [stroke, size] of [[colour("--paper"), 6], [colour("--ink"), 2.5]]) {
      context.strokeStyle = stroke;
      context.lineWidth = size;
      context.stroke();
    }
  }

  function hover(u) {
    if (frame) return;
    frame = requestAnimationFrame(() => { frame = 0; reading(u.cursor.idx ?? null); });
  }

  /** The values of all curves at the cursor, the nearest ones first. */
  function reading(at) {
    if (!plot) return;
    const entry = (item, value) => el("li", { class: focused === item.at + 1 ? "near" : "" }, el("i", { class: "swatch", vars: { "--swatch": item.colour } }), el("a", { href: `#point/${item.one.id}` }, state.rows.get(item.one.id)?.point ?? ""), el("data", {}, value));
    const head = at === null ? "last values" : `${settings.x} ${figure(plot.data[0][at])}`;
    const value = (item) => {
      const all = plot.data[item.at + 1];
      if (at !== null) return all[at];
      for (let i = all.length - 1; i >= 0; i -= 1) if (all[i] !== null) return all[i];
      return null;
    };
    const known = [];
    let low = Infinity, high = -Infinity;
    for (const item of listed) {
      const v = value(item);
      if (v === null || v === undefined) continue;
      known.push([v, item]);
      low = Math.min(low, v); high = Math.max(high, v);
    }
    known.sort((a, b) => a[0] - b[0]);
    const near = known.findIndex(([, item]) => item.at + 1 === focused);
    const from = known.length <= MOST_NAMED ? 0 : Math.min(Math.max(0, near - 12), known.length - 25);
    const part = known.length <= MOST_NAMED ? known : known.slice(from, from + 25);
    readout.replaceChildren(
      el("p", {}, el("b", {}, head), known.length ? ` ${plural(known.length, "curve")}, from ${figure(low)} to ${figure(high)}` : ""),
      legend.length ? el("ul", { class: "legend" }, legend.slice(0, 12).map(([v, c]) => el("li", {}, el("i", { class: "swatch", vars: { "--swatch": c } }), `${settings.colour} ${figure(v)}`))) : "",
      el("ul", { class: "values" }, part.map(([v, item]) => entry(item, figure(v)))),
      part.length < known.length ? el("p", { class: "note" }, `${part.length} of ${known.length}`) : "");
  }

  start().catch((error) => chart.replaceChildren(empty(error.message)));
  const restart = throttle(() => start().catch(() => {}), 500);
  return {
    update(change) {
      if (change.filter) restart();
      const mine = change.epochs ?? [];
      for (const id of mine) grown.add(id);
      if (mine.length) follow();
      // A point that is done has its curve in its result.
      if (change.rows && change.ids?.some((id) => state.rows.get(id)?.status === "done") && !mine.length) { for (const id of change.ids) grown.add(id); follow(); }
      if (!data && mine.length) restart();
    },
    close() { resized.disconnect(); plot?.destroy(); },
  };
}
