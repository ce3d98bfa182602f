// Curves of trainings: one line for each point, drawn by uPlot.

import { get, newest, parts, unlessAborted } from "./api.js";
import { colour, el, empty, figure, option, options, palette, plural, say, scale, shortNames, throttle } from "./dom.js";

/** Values of a curve that are asked for. */
const MOST = 600;
/** Colours that can be told apart. */
const COLOURS = 10;
/** More curves have no legend. */
const MOST_NAMED = 40;
/** Curves that a browser draws in a second. */
const MOST_CURVES = 5000;
/** The time between two drawings of curves that grow. Each takes time from trainings on this machine. */
const PAUSE = 400;

const settings = { metric: "", x: "epoch", colour: null, smooth: 0, logX: false, logY: false, only: false };

export function show(main, state) {
  let data = null, plot = null, names = {}, isClosed = false;
  /** The points whose curves were asked for. */
  let asked = new Set();
  /** What the user has zoomed to: the range of x, and that of y unless it follows the values. */
  let zoom = null;
  const loading = newest();
  const metric = el("select", { onchange: (e) => { settings.metric = e.target.value; zoom = null; load().catch(failed); } });
  const across = el("select", { onchange: (e) => { settings.x = e.target.value; zoom = null; draw(); } });
  const by = el("select", { onchange: (e) => { settings.colour = e.target.value; draw(); } });
  const smooth = el("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: settings.smooth, "aria-label": "Smoothing", oninput: (e) => { settings.smooth = Number(e.target.value); if (settings.smooth && data?.bucket > 1 && data.series.some((one) => !one.means)) follow(); else extend(); } });
  const box = (name, text) => el("label", { class: "check" }, el("input", { type: "checkbox", checked: settings[name], onchange: (e) => { settings[name] = e.target.checked; if (name === "only") follow(); else { zoom = null; draw(); } } }), text);
  const bar = el("div", { class: "bar" },
    el("label", {}, el("span", {}, "Metric"), metric), el("label", {}, el("span", {}, "Across"), across),
    el("label", {}, el("span", {}, "Colour by"), by), el("label", {}, el("span", {}, "Smoothing"), smooth),
    box("logY", "log values"), box("logX", "log steps"), box("only", "selected points only"));
  const chart = el("div", { class: "chart", role: "img", "aria-label": "Curves" });
  // Not a live region: it changes with each move of the mouse.
  const readout = el("div", { class: "readout", role: "group", "aria-label": "Values" });
  const note = el("p", { class: "note" });
  main.append(bar, el("div", { class: "plotting" }, chart, readout), note);
  across.replaceChildren(option("epoch", "epochs", settings.x === "epoch"), option("time", "time of training", settings.x === "time"), option("samples", "samples", settings.x === "samples"));
  const extend = throttle(() => redraw(), 60);
  const advance = throttle(() => new Promise(requestAnimationFrame).then(() => { if (!isClosed && data) redraw(); }), PAUSE);
  const resized = new ResizeObserver(() => plot?.setSize(size()));
  resized.observe(chart);

  const matching = () => (settings.only && state.selected.size ? state.ids.filter((id) => state.selected.has(id)) : state.ids);
  const wanted = () => matching().slice(0, MOST_CURVES);
  const failed = unlessAborted((error) => { if (!isClosed) { remove(); chart.replaceChildren(empty(error.message)); } });

  /** The metrics that have curves. Chooses one. */
  async function start(signal) {
    const found = await Promise.all(parts(wanted()).map((ids) => get("/api/curves", {}, { ids, signal })));
    if (isClosed) return;
    names = {};
    for (const part of found) for (const [name, count] of Object.entries(part)) names[name] = (names[name] ?? 0) + count;
    const all = Object.keys(names).sort((a, b) => names[b] - names[a] || a.localeCompare(b));
    if (all.length && !names[settings.metric]) { settings.metric = names.loss ? "loss" : all[0]; zoom = null; }
    options(metric, all.map((name) => [name, `${name} (${names[name]})`]), settings.metric);
    choices();
  }

  /** The columns that can colour the curves. */
  function choices() {
    const axes = state.columns.filter((column) => column.kind !== "metric").map((column) => column.label);
    if (settings.colour && settings.colour !== "stage" && !axes.includes(settings.colour)) settings.colour = null;
    options(by, [["", "point"], ...["stage", ...axes].map((name) => [name, name])], colourBy());
  }

  /** What colours the curves: what the user has chosen, or an axis if there are more curves than colours. */
  function colourBy() {
    if (settings.colour !== null) return settings.colour;
    const series = data?.series ?? [];
    if (series.length <= COLOURS) return "";
    const differs = (_, at) => new Set(series.map((one) => state.rows.get(one.id)?.values[at])).size > 1;
    return state.columns.filter((column, at) => column.kind === "axis" && differs(column, at))[0]?.label ?? "";
  }

  /** The number of epochs that a training has run, as the table says. */
  const epochsOf = (id) => state.rows.get(id)?.epoch ?? 0;
  /** The training with the most epochs. All answers have the same buckets if each of them has its curve. */
  const longest = (ids) => ids.reduce((best, id) => (best === null || epochsOf(id) > epochsOf(best) ? id : best), null);

  /** The curves of these points, whose buckets are those of the point `anchor`. */
  async function ask(ids, anchor, signal) {
    const lists = parts(ids).map((part) => (anchor === null || part.includes(anchor) ? part : [...part, anchor]));
    return Promise.all(lists.map((list) => get("/api/curves", { metric: settings.metric, most: MOST, means: settings.smooth ? true : null }, { ids: list, signal })));
  }

  /** Loads all curves. */
  async function load() {
    const signal = loading.begin();
    const ids = wanted();
    await start(signal);
    if (isClosed) return;
    if (!names[settings.metric]) {
      data = null;
      asked = new Set();
      draw();
      return;
    }
    let found = await ask(ids, longest(ids), signal);
    if (found.some((part) => part.bucket !== found[0].bucket)) {
      // The table did not know which training is the longest.
      const last = found.reduce((a, b) => (b.epochs > a.epochs ? b : a)).series.reduce((a, b) => (b.epochs > a.epochs ? b : a));
      found = await ask(ids, last.id, signal);
    }
    if (isClosed) return;
    const series = new Map(found.flatMap((part) => part.series).map((one) => [one.id, ofRun(one)]));
    data = { ...found.reduce((a, b) => (b.epochs > a.epochs ? b : a)), series: [...series.values()] };
    asked = new Set(ids);
    draw();
  }

  /** A curve with the run that the table knows. */
  const ofRun = (one) => ({ ...one, run: state.rows.get(one.id)?.run });

  /** The curve of a point, if it is shown. */
  function curveOf(id) {
    if (curveOf.series !== data?.series) {
      curveOf.series = data?.series;
      curveOf.byId = new Map(data?.series.map((one) => [one.id, one]));
    }
    return curveOf.byId.get(id);
  }

  /**
   * Takes the value of an epoch of a running training from the table, which saves a request. Returns whether the curve
   * has all epochs then; if not, it must be asked for.
   */
  function append(id) {
    const one = curveOf(id), row = state.rows.get(id);
    if (!one || row?.status !== "running" || row.run !== one.run || data.bucket !== 1) return false;
    if (row.epoch === one.epochs) return true;
    const column = state.columns.findIndex((c) => c.kind === "metric" && c.name === data.metric);
    if (column < 0 || row.epoch !== one.epochs + 1 || one.values.length !== one.epochs || row.epoch > MOST) return false;
    const value = row.values[column];
    one.values.push(typeof value === "number" ? value : null);
    one.last = one.values.at(-1);
    one.epochs = row.epoch;
    data.places = Math.max(data.places, one.epochs);
    data.epochs = Math.max(data.epochs, one.epochs);
    advance();
    return true;
  }

  /** Curves that have grown since they were asked for. */
  const grown = new Set();
  /** Asks for the curves that have grown or that are new, and for no others. */
  const follow = throttle(() => catchUp().catch(data ? () => {} : failed), PAUSE);

  async function catchUp() {
    if (isClosed) return;
    const before = data;
    const now = wanted();
    const is = new Set(now);
    const ids = now.filter((id) => grown.has(id) || !asked.has(id));
    grown.clear();
    const lacksMeans = settings.smooth && before?.bucket > 1 && before.series.some((one) => !one.means);
    if (!before || before.metric !== settings.metric || lacksMeans) { await load(); return; }
    const kept = before.series.filter((one) => is.has(one.id));
    const most = Math.max(0, ...kept.map((one) => one.epochs));
    // Only longer curves were left out: the others have finer buckets.
    if (kept.length < before.series.length && kept.length && most < before.epochs && bucketOf(most) !== before.bucket) { await load(); return; }
    let isOther = kept.length !== before.series.length;
    if (ids.length) {
      const anchor = before.series.find((one) => one.epochs === before.epochs)?.id ?? null;
      const found = await ask(ids, anchor, undefined);
      // Meanwhile another metric was chosen, or all were loaded.
      if (isClosed || data !== before) return;
      if (found.some((part) => part.bucket !== before.bucket)) { await load(); return; }
      const known = new Map(kept.map((one) => [one.id, one]));
      for (const one of found.flatMap((part) => part.series).map(ofRun)) {
        if (known.has(one.id)) Object.assign(known.get(one.id), { means: undefined }, one);
        else if (is.has(one.id)) { kept.push(one); known.set(one.id, one); isOther = true; }
      }
      for (const id of ids) asked.add(id);
      data.places = Math.max(data.places, ...found.map((part) => part.places));
      data.epochs = Math.max(data.epochs, ...found.map((part) => part.epochs));
    }
    for (const id of asked) if (!is.has(id)) asked.delete(id);
    data.series = kept;
    if (isOther || !plot) draw(); else if (ids.length) redraw();
    if (isOther) await start();
  }

  /** The epochs in a bucket of the server, for curves of this length. */
  const bucketOf = (epochs) => (epochs <= MOST ? 1 : Math.ceil(epochs / Math.floor(MOST / 2)));

  const place = (at) => (data.bucket === 1 ? at + 1 : Math.floor(at / 2) * data.bucket + 1 + (at % 2 ? Math.floor(data.bucket / 2) : 0));

  /** The mean of the values before, the newer ones with more weight. A bucket of epochs counts as that many epochs. */
  function smoothed({ values, means }) {
    if (!settings.smooth || (data.bucket > 1 && !means)) return values;
    const kept = settings.smooth ** data.bucket;
    let sum = 0, weight = 0;
    const all = (data.bucket === 1 ? values : means).map((value) => {
      if (value === null) return null;
      sum = sum * kept + value;
      weight = weight * kept + 1;
      return sum / weight;
    });
    return data.bucket === 1 ? all : all.flatMap((value) => [value, value]);
  }

  /** All curves on the same places. */
  function aligned() {
    const fits = (value) => (settings.logY && value !== null && value <= 0 ? null : value);
    if (settings.x === "epoch") {
      const xs = Array.from({ length: data.places }, (_, at) => place(at));
      const pad = (one) => { const all = smoothed(one).map(fits); while (all.length < xs.length) all.push(null); return all; };
      return { columns: [xs, ...data.series.map(pad)], series: data.series };
    }
    const unit = settings.x === "time" ? (one) => one.seconds_per_epoch && one.seconds_per_epoch / 3600 : (one) => one.samples_per_epoch;
    const series = data.series.filter((one) => unit(one));
    const end = Math.max(...series.map((one) => one.epochs * unit(one)), 0);
    const xs = Array.from({ length: MOST }, (_, at) => (end * (at + 1)) / MOST);
    const columns = series.map((one) => {
      const values = smoothed(one).map(fits);
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
    const chosen = colourBy();
    const column = state.columns.findIndex((c) => c.label === chosen);
    const of = (row) => (chosen === "stage" ? row?.stage : column >= 0 ? row?.values[column] : null);
    if (!chosen) return { of: (one, at) => (series.length > MOST_NAMED ? scale(at / series.length) : palette(at)), legend: [] };
    const values = [...new Set(series.map((one) => of(state.rows.get(one.id))))].filter((v) => v !== null && v !== undefined);
    const numbers = values.every((v) => typeof v === "number");
    values.sort((a, b) => (numbers ? a - b : String(a).localeCompare(String(b))));
    const paint = (v) => { const at = values.indexOf(v); return at < 0 ? colour("--soft") : numbers ? scale(values.length < 2 ? 0 : at / (values.length - 1)) : palette(at); };
    return { of: (one) => paint(of(state.rows.get(one.id))), legend: values.map((v) => [`${chosen} ${figure(v)}`, paint(v)]) };
  }

  function size() {
    return { width: Math.max(chart.clientWidth, 280), height: Math.max(Math.min(innerHeight - chart.getBoundingClientRect().top - 90, 720), 260) };
  }

  /** Takes the plot away, and remembers where the cursor is. */
  function remove() {
    const at = plot ? { left: plot.cursor.left, top: plot.cursor.top } : null;
    plot?.destroy();
    plot = null;
    return at;
  }

  /** Draws the curves again that are shown, each with its new values. What was zoomed to stays. */
  function redraw() {
    if (!plot) { draw(); return; }
    const { columns, series } = aligned();
    if (series.length !== listed.length || series.some((one, at) => one.id !== listed[at].one.id)) { draw(); return; }
    listed.forEach((item, at) => { item.one = series[at]; });
    // The values are read here and not in a frame of their own.
    cancelAnimationFrame(frame);
    frame = -1;
    plot.batch(() => {
      plot.setData(columns, !zoom?.x);
      rescale();
    });
    frame = 0;
    describe(series);
    reading(plot.cursor.idx ?? null);
  }

  function rescale() {
    if (zoom?.x) plot.setScale("x", zoom.x);
    if (zoom?.y) plot.setScale("y", zoom.y);
  }

  /** Remembers the range that was dragged. */
  function keepZoom(u) {
    const { left, top, width, height } = u.select;
    if (!width && !height) return;
    const x = width < u.over.clientWidth - 1 ? { min: u.posToVal(left, "x"), max: u.posToVal(left + width, "x") } : null;
    const y = height < u.over.clientHeight - 1 ? { min: u.posToVal(top + height, "y"), max: u.posToVal(top, "y") } : null;
    zoom = { x: x ?? zoom?.x ?? null, y: y ?? (x ? null : zoom?.y ?? null) };
  }

  function describe(series) {
    const all = matching().length;
    const several = data.bucket > 1 && (settings.smooth ? `; smoothed from the means of ${data.bucket} epochs each` : `; each place shows the least and the greatest value of ${data.bucket} epochs`);
    say(note, `${plural(series.length, "curve")}${all > MOST_CURVES ? ` of the first ${plural(MOST_CURVES, "point")} of ${all.toLocaleString("en")}` : ""}${several || ""}. Drag to zoom, double-click to go back, click a curve to open its point.`);
    chart.setAttribute("aria-label", `${plural(series.length, "curve")} of ${settings.metric}`);
  }

  function draw() {
    const cursor = remove();
    if (isClosed) return;
    const { columns, series } = data ? aligned() : { series: [] };
    if (!series.length) {
      const why = !data || !names[settings.metric] ? "None of these points has a curve. Trainings have one for each metric that they log in an epoch." : settings.x === "epoch" ? "None of these points has this curve." : "The time of an epoch is known once a training has ended.";
      chart.replaceChildren(empty(why));
      readout.replaceChildren();
      say(note, "");
      listed = [];
      return;
    }
    chart.replaceChildren();
    choices();
    const paint = colours(series);
    const many = series.length > MOST_NAMED;
    const ink = colour("--soft"), line = colour("--line");
    const axis = (label) => ({ stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "12px system-ui, sans-serif", label, labelFont: "12px system-ui, sans-serif", labelSize: 18, size: label ? 34 : undefined });
    const unit = { epoch: "epoch", time: "hours of training, if all epochs of a run took the same time", samples: "samples" }[settings.x];
    const kept = focused > 0 ? listed[focused - 1]?.one.id : null;
    focused = series.findIndex((one) => one.id === kept) + 1 || null;
    plot = new uPlot({
      ...size(),
      legend: { show: false },
      cursor: { focus: { prox: many ? 16 : 24 }, drag: { x: true, y: true, uni: 20 }, points: { show: !many, size: 6 }, bind: { dblclick: (_, __, handler) => (event) => { zoom = null; handler(event); } } },
      // Dimming redraws all curves, which takes too long if there are many.
      focus: { alpha: many ? 1 : 0.25 },
      scales: { x: { time: false, distr: settings.logX ? 3 : 1 }, y: { distr: settings.logY ? 3 : 1 } },
      axes: [{ ...axis(unit), incrs: settings.x === "time" ? undefined : [1, 2, 5].flatMap((n) => Array.from({ length: 10 }, (_, p) => n * 10 ** p)).sort((a, b) => a - b) }, { ...axis(), size: 62, values: (_, all) => all.map((v) => (v === null ? "" : figure(v))) }],
      series: [{}, ...series.map((one, at) => ({ label: String(one.id), stroke: paint.of(one, at), width: many ? 1 : 1.75, points: { show: false }, spanGaps: true, alpha: many ? 0.7 : 1 }))],
      hooks: {
        setCursor: [hover],
        setSelect: [(u) => keepZoom(u)],
        setSeries: [(_, at) => { focused = at; if (many) highlight(); }],
        draw: [() => { if (many) highlight(); }],
      },
    }, columns, chart);
    if (zoom) plot.batch(rescale);
    if (cursor?.left >= 0) requestAnimationFrame(() => plot?.setCursor(cursor));
    describe(series);
    // The first click of a double-click, which ends the zoom, opens nothing.
    plot.over.addEventListener("click", (event) => {
      clearTimeout(clicked);
      const id = focused > 0 && !plot.select.width ? listed[focused - 1]?.one.id : undefined;
      if (event.detail === 1 && id !== undefined) clicked = setTimeout(() => { if (!isClosed) state.open(`point/${id}`); }, 250);
    });
    const name = (one) => state.rows.get(one.id)?.point ?? "";
    const short = shortNames(series.map(name));
    listed = series.map((one, at) => ({ one, at, colour: paint.of(one, at), name: short.get(name(one)) }));
    legend = paint.legend;
    reading(null);
  }

  let focused = null, listed = [], legend = [], frame = 0, above = null, clicked = null;

  /** Draws the curve at the cursor above all others. */
  function highlight() {
    if (!plot?.over) return;
    const { clientWidth: width, clientHeight: height } = plot.over;
    if (!above || above.parentElement !== plot.over) {
      above = el("canvas", { class: "above", "aria-hidden": "true" });
      plot.over.append(above);
    }
    const isShown = focused && plot.data[focused];
    if (!isShown && !above.width) return;
    // Setting the width empties it.
    above.width = isShown ? width * devicePixelRatio : 0;
    above.height = height * devicePixelRatio;
    if (!isShown) return;
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

  /** The least and the greatest value of a curve at a place. */
  function valuesAt(values, at) {
    if (data.bucket === 1 || settings.x !== "epoch" || settings.smooth) return [values[at] ?? null, values[at] ?? null];
    const first = at - (at % 2);
    const both = [values[first], values[first + 1]].filter((v) => v !== null && v !== undefined);
    return both.length ? [Math.min(...both), Math.max(...both)] : [null, null];
  }

  /** The last value of a curve. The ends of a bucket of several epochs are not it, but the table has it. */
  function lastOf(item, column) {
    const values = plot.data[item.at + 1];
    const known = item.one.last ?? (column < 0 ? null : state.rows.get(item.one.id)?.values[column]);
    if (data.bucket > 1 && !settings.smooth && typeof known === "number") return [known, known];
    for (let i = values.length - 1; i >= 0; i -= 1) if (values[i] !== null && values[i] !== undefined) return valuesAt(values, i);
    return [null, null];
  }

  /** What the values at a place are. */
  function headOf(at) {
    if (at === null) return settings.smooth ? "last values, smoothed" : "last values";
    const x = plot.data[0][at];
    if (settings.x !== "epoch") return `${settings.x === "time" ? `${figure(x)} hours` : `${figure(x)} samples`}${data.bucket > 1 ? `, about: between the least and the greatest of ${data.bucket} epochs` : ""}`;
    if (data.bucket === 1) return `epoch ${figure(x)}`;
    const from = Math.floor(at / 2) * data.bucket + 1;
    const epochs = `epochs ${from}–${Math.min(from + data.bucket - 1, data.epochs)}`;
    return settings.smooth ? `smoothed, ${epochs}` : `least and greatest of ${epochs}`;
  }

  /** The values of all curves at the cursor, the nearest ones first. */
  function reading(at) {
    if (!plot) return;
    if (at !== null && at >= plot.data[0].length) at = null;
    const entry = (item, value) => el("li", { class: focused === item.at + 1 ? "near" : "" }, el("i", { class: "swatch", vars: { "--swatch": item.colour } }), el("a", { href: `#point/${item.one.id}`, title: state.rows.get(item.one.id)?.point }, item.name), el("data", {}, value));
    const column = state.columns.findIndex((c) => c.kind === "metric" && c.name === settings.metric);
    const known = [];
    let low = Infinity, high = -Infinity;
    for (const item of listed) {
      const [least, greatest] = at === null ? lastOf(item, column) : valuesAt(plot.data[item.at + 1], at);
      if (least === null) continue;
      known.push([least, greatest, item]);
      low = Math.min(low, least); high = Math.max(high, greatest);
    }
    known.sort((a, b) => a[0] - b[0]);
    const near = known.findIndex(([, , item]) => item.at + 1 === focused);
    const from = known.length <= MOST_NAMED ? 0 : Math.min(Math.max(0, near - 12), known.length - 25);
    const part = known.length <= MOST_NAMED ? known : known.slice(from, from + 25);
    readout.replaceChildren(
      el("p", {}, el("b", {}, headOf(at)), known.length ? ` ${plural(known.length, "curve")}, from ${figure(low)} to ${figure(high)}` : ""),
      legend.length ? el("ul", { class: "legend" }, legend.slice(0, 12).map(([v, c]) => el("li", {}, el("i", { class: "swatch", vars: { "--swatch": c } }), v)), legend.length > 12 ? el("li", {}, `and ${legend.length - 12} more`) : "") : "",
      el("ul", { class: "values" }, part.map(([least, greatest, item]) => entry(item, least === greatest ? figure(least) : `${figure(least)} … ${figure(greatest)}`))),
      part.length < known.length ? el("p", { class: "note" }, `${part.length} of ${known.length}`) : "");
  }

  load().catch(failed);
  return {
    update(change) {
      if (change.columns) start().catch(() => {});
      const isMoving = (id) => ["done", "running"].includes(state.rows.get(id)?.status);
      // A point that is done has its curve in its result; messages may have been missed.
      for (const id of new Set([...change.epochs ?? [], ...(change.ids ?? []).filter(isMoving)])) {
        if (!append(id)) grown.add(id);
      }
      if (change.filter || grown.size) follow();
    },
    close() {
      isClosed = true;
      loading.stop();
      resized.disconnect();
      remove();
    },
  };
}
