// A point: its key, what changed, its metrics, images, files and its log.

import { fileUrl, get, imageUrl, newest, unlessAborted } from "./api.js";
import { noteEditor } from "./notes.js";
import { arrange, bytes, colour, difference, el, empty, figure, options, plural, say, seconds, statusBadge, throttle, when } from "./dom.js";

export function show(main, state, argument) {
  const id = Number(argument);
  /** Characters of a log that are kept. */
  const MOST_LOG = 1 << 20;
  let details = null, against = state.baseline !== null && state.baseline !== id ? state.baseline : null, timer = null, closed = false;
  const loading = newest(), loadingCurves = newest();
  /** Charts by their metric. */
  const charts = new Map();
  const body = el("div", { class: "details" });
  main.append(body);

  async function load() {
    const found = await get(`/api/points/${id}`, { against }, { signal: loading.begin() });
    if (closed) return;
    details = found;
    draw();
  }

  function section(title, ...content) {
    return el("section", {}, el("h2", {}, title), ...content);
  }

  const parts = new Map();
  /** A part of the page. It is built again only if what it shows has changed. */
  function part(name, shown, build) {
    const text = JSON.stringify(shown);
    const known = parts.get(name);
    if (known?.text === text) return known.node;
    const node = build();
    parts.set(name, { text, node });
    return node;
  }

  function draw() {
    const { result, live, changes } = details;
    const back = part("back", 0, () => el("a", { class: "back", href: "#points" }, "All points"));
    const title = part("title", [details.point], () => el("h2", { class: "point-name" }, details.point));
    const status = part("status", [details.status, details.pipeline, details.kind, live], () => el("div", {}, el("p", {}, statusBadge(details.status), ` ${details.pipeline}${details.kind ? `, ${details.kind}` : ""}`), liveText(live)));
    const top = part("top", 0, () => el("div", { class: "title" }));
    arrange(top, [back, title, status, ...(details.can_note ? [noteSection()] : [])]);
    const kept = details.states?.filter((one) => one.images.length || one.pictures.length) ?? [];
    arrange(body, [
      top,
      result && metricsSection(),
      part("curves", 0, curves),
      result && part("images", [result.digest, result.tensors, result.files], () => images(result)),
      result && kept.length > 0 && keptEpochs(kept),
      result?.has_embedding && part("embedding", result.digest, embedding),
      result && changes && part("changes", [changes.causes, changes.same_bytes, details.against], changesSection),
      result && part("key", [result.components, result.inputs, result.key, result.digest], () => section("What its key is made of", keyTable(result))),
      result && part("files", [result.key, result.files, result.tensors], () => section("Files", fileTable(result))),
      details.log && part("log", 0, logSection),
      result && part("made", result.provenance, () => section("How it was made", provenance(result.provenance))),
      details.earlier.length > 0 && part("earlier", details.earlier, () => section("Earlier results", earlier())),
    ].filter(Boolean));
  }

  let editor = null;

  function noteSection() {
    editor ??= noteEditor(id, details.note, again);
    editor.show(details.note);
    return editor.node;
  }

  function liveText(live) {
    if (!live || details.status === "done") return "";
    const parts = [];
    if (live.epochs) parts.push(`${live.epochs[0]} of ${plural(live.epochs[1], "epoch")}`);
    if (live.resumed_at) parts.push(`resumed after epoch ${live.resumed_at}`);
    if (live.worker) parts.push(`on ${live.worker}`);
    for (const [name, value] of Object.entries(live.figures)) parts.push(`${name} ${figure(value)}`);
    return [el("p", { class: "note" }, parts.join(", ")), live.waits_for ? el("p", { class: "note" }, `Waits for ${live.waits_for}.`) : "", live.why ? el("p", { class: details.status === "failed" ? "problem" : "note" }, live.why) : ""];
  }

  /** The metrics, below the list of points to compare with. The list stays, for it may be open. */
  function metricsSection() {
    const picker = part("picker", 0, () => {
      const list = el("select", { onchange: (event) => { against = event.target.value === "" ? null : Number(event.target.value); load().catch(unlessAborted(failed)); drawCurves().catch(() => {}); } });
      return el("label", { class: "compare" }, el("span", {}, "Compare with "), list);
    });
    const own = state.rows.get(id);
    const others = [...state.rows.values()].filter((row) => row.id !== id && row.status === "done" && row.kind === own?.kind).slice(0, 2000);
    const chosen = against !== null && !others.some((row) => row.id === against) ? state.rows.get(against) : null;
    options(picker.querySelector("select"), [["", details.earlier.length ? "its earlier result" : "nothing"], ...(chosen ? [chosen] : []).concat(others).map((row) => [row.id, row.point])], against ?? "");
    picker.hidden = !others.length && !details.earlier.length && against === null;
    const table = part("metrics", [details.changes?.metrics, details.result.metrics, details.against], metrics);
    const node = part("metrics-section", 0, () => section("Metrics", picker, el("div", {})));
    arrange(node.lastChild, [table]);
    return node;
  }

  function metrics() {
    const all = details.changes?.metrics ?? Object.entries(details.result.metrics).map(([name, now]) => ({ name, now, before: null }));
    if (!all.length) return empty("It has no metrics.");
    const other = details.changes ? details.against : null;
    const line = ({ name, now, before }) => el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "number" }, figure(now)), other ? el("td", { class: "number" }, figure(before)) : "", other ? el("td", { class: "number" }, typeof now === "number" && typeof before === "number" ? difference(now - before) : "") : "");
    return el("div", { class: "wide" }, el("table", {}, other ? el("thead", {}, el("tr", {}, el("td", {}), el("th", { scope: "col" }, "this point"), el("th", { scope: "col" }, other.point === details.point ? "before" : other.point), el("th", { scope: "col" }, "difference"))) : "", el("tbody", {}, all.map(line))));
  }

  const curvesPart = el("section", { hidden: true }, el("h2", {}, "Curves"), el("div", { class: "multiples" }));

  function curves() {
    drawCurves().catch(() => {});
    return curvesPart;
  }

  /** A small chart for each metric that has a curve, with that of the other point. Charts that are there get new values. */
  async function drawCurves() {
    const signal = loadingCurves.begin();
    const ids = [id, against].filter((one) => one !== null);
    const names = Object.keys(await get("/api/curves", {}, { ids, signal })).sort().slice(0, 12);
    const all = await Promise.all(names.map((metric) => get("/api/curves", { metric, most: 300 }, { ids, signal })));
    if (closed) return;
    curvesPart.hidden = !names.length;
    for (const [name, chart] of charts) if (!names.includes(name)) { chart.plot?.destroy(); charts.delete(name); }
    for (const data of all) if (!charts.has(data.metric)) charts.set(data.metric, chartOf(data.metric));
    arrange(curvesPart.lastChild, names.map((name) => charts.get(name).node));
    for (const data of all) fillChart(charts.get(data.metric), data);
  }

  function chartOf(metric) {
    const place = el("div", {});
    return { node: el("figure", {}, el("figcaption", {}, metric), place), place, plot: null, shown: "" };
  }

  function fillChart(chart, data) {
    const xs = Array.from({ length: data.places }, (_, at) => (data.bucket === 1 ? at + 1 : Math.floor(at / 2) * data.bucket + 1 + (at % 2) * Math.floor(data.bucket / 2)));
    const rank = (one) => (one.id === id ? 1 : 0);
    const series = [...data.series].sort((a, b) => rank(a) - rank(b));
    const columns = [xs, ...series.map((one) => [...one.values, ...Array(Math.max(xs.length - one.values.length, 0)).fill(null)])];
    const shown = series.map((one) => one.id).join();
    if (chart.plot && chart.shown === shown) {
      const { min, max } = chart.plot.scales.x;
      const before = chart.plot.data[0];
      // What was zoomed to stays.
      const isZoomed = before.length > 1 && (min > before[0] || max < before.at(-1));
      chart.plot.setData(columns, !isZoomed);
      if (isZoomed) chart.plot.setScale("x", { min, max });
      return;
    }
    chart.plot?.destroy();
    chart.shown = shown;
    const ink = colour("--soft"), line = colour("--line");
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif", size: 26 };
    chart.plot = new uPlot({
      width: Math.max(chart.place.clientWidth, 200), height: 170, legend: { show: false }, cursor: { drag: { x: true, y: false } }, scales: { x: { time: false } },
      axes: [{ ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] }, { ...axis, size: 52, values: (_, ticks) => ticks.map((v) => figure(v)) }],
      series: [{}, ...series.map((one) => ({ stroke: colour(one.id === id ? "--c0" : "--c1"), width: one.id === id ? 2 : 1.25, points: { show: false }, spanGaps: true }))],
    }, columns, chart.place);
  }

  function changesSection() {
    const { causes, same_bytes: same } = details.changes;
    const other = details.against;
    const title = other.point === details.point ? `What changed since ${when(other.finished_at)}` : `What differs from ${other.point}`;
    return section(title, causes.length ? el("ul", { class: "causes" }, causes.map((text) => el("li", {}, text))) : empty("Nothing: both have the same key."), same ? el("p", { class: "note" }, "Both results have the same bytes.") : "");
  }

  /** Reconstructions below their originals, then other stacks and pictures. */
  function images(result) {
    const stacks = result.tensors.filter((tensor) => tensor.view === "images");
    const pictures = result.files.filter((file) => file.view === "picture");
    if (!stacks.length && !pictures.length) return el("section", { hidden: true });
    const names = stacks.map((tensor) => tensor.name);
    const parts = [];
    if (names.includes("originals") && names.includes("reconstructions")) parts.push(beside(stacks.find((t) => t.name === "originals")));
    const rest = stacks.filter((t) => !(parts.length && (t.name === "originals" || t.name === "reconstructions")));
    for (const tensor of rest) parts.push(el("figure", {}, el("figcaption", {}, `${tensor.name}, ${tensor.shape[0] > 100 ? `the first 100 of ${tensor.shape[0]}` : tensor.shape[0]}`), picture(tensor.name, { count: 100, columns: 10, scale: 2 }, `${tensor.name} of ${details.point}`)));
    for (const file of pictures) parts.push(el("figure", {}, el("figcaption", {}, file.name), el("img", { class: "file", loading: "lazy", src: fileUrl(id, file.name, { v: result.digest.slice(0, 16) }), alt: file.name })));
    return section("Images", ...parts);
  }

  function picture(name, selection, alt) {
    return el("img", { class: "grey", loading: "lazy", src: imageUrl(id, name, { ...selection, v: selection.v ?? details.result.digest.slice(0, 16) }), alt });
  }

  function beside(tensor) {
    const count = Math.min(tensor.shape[0], 40);
    const lines = [];
    for (let first = 0; first < count; first += 10) {
      const part = { first, count: Math.min(10, count - first), columns: 10, scale: 2 };
      lines.push(el("div", { class: "pair" }, picture("originals", part, "originals"), picture("reconstructions", part, "their reconstructions")));
    }
    return el("figure", {}, el("figcaption", {}, "originals, and their reconstructions below"), ...lines);
  }

  /** Pictures of the states that are kept, one epoch at a time. The slider stays at its epoch when there are more. */
  const keptPart = { kept: [], epoch: null, shown: "" };
  function keptEpochs(kept) {
    const { slider, text, pictures, node } = keptPart.node ? keptPart : Object.assign(keptPart, keptSection());
    const wasLast = keptPart.epoch === null || keptPart.epoch === keptPart.kept.at(-1)?.epoch;
    keptPart.kept = kept;
    const at = wasLast ? kept.length - 1 : kept.findIndex((one) => one.epoch === keptPart.epoch);
    slider.max = kept.length - 1;
    slider.value = at < 0 ? kept.length - 1 : at;
    slider.disabled = kept.length < 2;
    showEpoch(text, pictures);
    return node;
  }

  function keptSection() {
    const pictures = el("div", {});
    const text = el("output", {});
    const slider = el("input", { type: "range", min: 0, max: 0, value: 0, "aria-label": "Kept epoch", oninput: () => showEpoch(text, pictures) });
    return { slider, text, pictures, node: section("Kept epochs", el("p", { class: "bar" }, slider, text), pictures) };
  }

  function showEpoch(text, pictures) {
    const one = keptPart.kept[Number(keptPart.slider.value)];
    const originals = details.result.tensors.some((tensor) => tensor.name === "originals");
    const shown = JSON.stringify([one.epoch, one.images, one.pictures, one.saved_at, originals, details.result.digest]);
    keptPart.epoch = one.epoch;
    if (keptPart.shown === shown) return;
    keptPart.shown = shown;
    text.textContent = `epoch ${one.epoch}`;
    keptPart.slider.setAttribute("aria-valuetext", `epoch ${one.epoch}`);
    const v = one.saved_at ?? 0;
    const pair = (name) => el("figure", {}, el("figcaption", {}, `originals, and their reconstructions after epoch ${one.epoch}`), [0, 10].map((first) => el("div", { class: "pair" }, picture("originals", { first, count: 10, columns: 10, scale: 2 }, "originals"), picture(name, { epoch: one.epoch, first, count: 10, columns: 10, scale: 2, v }, `reconstructions after epoch ${one.epoch}`))));
    pictures.replaceChildren(...one.images.map((name) => name === "reconstructions" && originals ? pair(name) : el("figure", {}, el("figcaption", {}, name), picture(name, { epoch: one.epoch, count: 40, columns: 10, scale: 2, v }, `${name} after epoch ${one.epoch}`))), ...one.pictures.map((name) => el("figure", {}, el("figcaption", {}, name), el("img", { class: "file", src: fileUrl(id, name, { epoch: one.epoch, v }), alt: `${name} after epoch ${one.epoch}` }))));
  }

  function embedding() {
    const SIZE = 560;
    const canvas = el("canvas", { width: SIZE * devicePixelRatio, height: SIZE * devicePixelRatio, class: "scatter", role: "img", "aria-label": "Embedding" });
    const side = el("div", { class: "scatter-side" });
    const place = el("div", { class: "scatter-of" }, canvas, side);
    get(`/api/points/${id}/embedding`).then((found) => {
      const all = found.places;
      const range = (of) => { let low = Infinity, high = -Infinity; for (const p of all) { low = Math.min(low, of(p)); high = Math.max(high, of(p)); } return [low, high]; };
      const [[left, right], [low, high]] = [range((p) => p[0]), range((p) => p[1])];
      const by = (SIZE - 24) / (Math.max(right - left, high - low) || 1);
      const at = all.map((p) => [SIZE / 2 + (p[0] - (left + right) / 2) * by, SIZE / 2 - (p[1] - (low + high) / 2) * by]);
      const context = canvas.getContext("2d");
      const dot = Math.min(Math.max(200 / Math.sqrt(all.length), 1.5), 5);
      const draw = (near) => {
        context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
        context.clearRect(0, 0, SIZE, SIZE);
        const paints = Array.from({ length: 10 }, (_, n) => colour(`--c${n}`));
        all.forEach((p, n) => { context.fillStyle = paints[(p[2] ?? 0) % 10]; context.beginPath(); context.arc(at[n][0], at[n][1], n === near ? dot + 3 : dot, 0, 7); context.fill(); });
      };
      draw(null);
      const name = (label) => found.classes?.[label] ?? (label === null ? "" : `class ${label}`);
      const legend = () => side.replaceChildren(el("ul", { class: "legend" }, [...new Set(all.map((p) => p[2]))].filter((l) => l !== null).sort((a, b) => a - b).map((label) => el("li", {}, el("i", { class: "swatch", vars: { "--swatch": colour(`--c${label % 10}`) } }), name(label)))), el("p", { class: "note" }, found.images ? "Point at a dot to see its image." : ""), preview);
      const preview = el("div", { class: "preview" });
      legend();
      let shown = null;
      canvas.addEventListener("pointermove", (event) => {
        const box = canvas.getBoundingClientRect();
        const [x, y] = [((event.clientX - box.left) / box.width) * SIZE, ((event.clientY - box.top) / box.height) * SIZE];
        let near = null, least = 18 * 18;
        at.forEach(([a, b], n) => { const d = (a - x) ** 2 + (b - y) ** 2; if (d < least) { least = d; near = n; } });
        if (near === shown) return;
        shown = near;
        draw(near);
        preview.replaceChildren(...(near === null ? [] : [el("p", {}, `sample ${near}, ${name(all[near][2])}`), found.images ? el("img", { class: "grey", alt: `sample ${near}`, src: imageUrl(found.images.id, found.images.tensor, { first: near, count: 1, columns: 1, scale: 4 }) }) : ""]));
      });
    }).catch((error) => place.replaceChildren(empty(error.message)));
    return section("Embedding", place);
  }

  function keyTable(result) {
    const part = (group, name, value) => el("tr", {}, el("td", { class: "group" }, group), el("th", { scope: "row" }, name), el("td", {}, value));
    return el("div", { class: "wide" }, el("table", { class: "key" }, el("tbody", {},
      result.components.map((one) => part(one.group, one.name, one.value)),
      result.inputs.map((one) => part("input", one.role, [one.id === null ? one.point ?? "" : el("a", { href: `#point/${one.id}` }, one.point), ` ${one.digest}`])),
      part("key", "", el("code", {}, result.key)), part("output", "", el("code", {}, result.digest)))));
  }

  function fileTable(result) {
    const all = [...result.files.map((file) => [file.view ? el("a", { href: fileUrl(id, file.name), target: "_blank", rel: "noopener" }, file.name) : el("a", { href: fileUrl(id, file.name), download: file.name.split("/").at(-1) }, file.name), "file", file.bytes]),
      ...result.tensors.map((tensor) => [tensor.name, `${tensor.element} [${tensor.shape.join(", ")}]`, tensor.bytes])];
    if (!all.length) return empty("It has no files and no tensors.");
    const line = ([name, what, size]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, what), el("td", { class: "number" }, bytes(size)));
    const table = (part) => el("div", { class: "wide" }, el("table", {}, el("tbody", {}, part.map(line))));
    return [table(all.slice(0, 12)), all.length > 12 ? el("details", {}, el("summary", {}, `${all.length - 12} more`), table(all.slice(12))) : ""];
  }

  function provenance(made) {
    const facts = [["finished", when(made.finished_at)], ["time", seconds(made.seconds)], ["CPU time", seconds(made.usage?.cpu_seconds)], ["memory", made.usage?.peak_memory && `${bytes(made.usage.peak_memory)} in its largest process`], ["run", made.run], ["machine", made.host], ["device", `${made.device} (${made.class}), ${plural(made.threads, "thread")}`], ["vadpipe", made.version], ["program", made.program]];
    return el("dl", { class: "facts" }, facts.filter(([, value]) => value).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  }

  function earlier() {
    return el("div", { class: "wide" }, el("table", {}, el("tbody", {}, details.earlier.slice(0, 20).map((one) => el("tr", {}, el("th", { scope: "row" }, when(one.finished_at)), el("td", {}, el("code", {}, one.key.slice(0, 12))), el("td", {}, Object.entries(one.metrics).slice(0, 5).map(([name, value]) => `${name} ${figure(value)}`).join(", ")), el("td", {}, `run ${one.run}`))))));
  }

  /** The log of the newest run. Follows it, and keeps its end. */
  function logSection() {
    const text = el("pre", { class: "log", tabindex: 0, "aria-label": "Log" });
    const follow = el("input", { type: "checkbox", checked: true });
    const part = el("section", { class: "all" }, el("h2", {}, "Log"), el("p", { class: "bar" }, el("label", { class: "check" }, follow, "follow")), text);
    let run = null, next = null, length = 0;
    const reset = () => { next = null; length = 0; text.replaceChildren(); };
    const add = (found) => {
      if (found.run !== run || (next !== null && found.exists && found.from < next)) {
        // The log of another run, or one that was written again. Read it from its end on.
        const isFirst = next === null;
        run = found.run;
        reset();
        if (!isFirst) return 0;
      }
      if (!found.text) {
        if (!length) say(text, found.exists ? "It has logged nothing." : "It has no log.");
      } else {
        if (!length) text.replaceChildren();
        text.append(found.text);
        length += found.text.length;
        while (length > MOST_LOG && text.childNodes.length > 1) {
          length -= text.firstChild.data.length;
          text.firstChild.remove();
        }
        if (follow.checked) text.scrollTop = text.scrollHeight;
      }
      if (found.exists) next = found.next;
      return found.is_over ? 5000 : 500;
    };
    const read = async () => {
      let wait = 5000;
      try {
        if (!document.hidden) {
          const found = await get(`/api/points/${id}/log`, { from: next ?? undefined });
          if (!closed) wait = add(found);
        }
      } catch {
        // The server may answer again later.
      } finally {
        if (!closed) timer = setTimeout(read, wait);
      }
    };
    read();
    return part;
  }

  function failed(error) {
    if (!closed && !details) body.replaceChildren(empty(error.message), el("p", {}, el("a", { href: "#points" }, "All points")));
  }

  const again = throttle(() => load().catch(unlessAborted(failed)), 700);
  const redraw = throttle(() => drawCurves().catch(() => {}), 700);
  again();
  return {
    update(change) {
      const isMine = change.ids?.includes(id);
      // A server may name the points whose states have changed.
      const hasStates = Array.isArray(change.states) ? change.states.includes(id) : change.states;
      if (isMine || hasStates) again();
      if (isMine || change.epochs?.includes(id)) redraw();
    },
    close() {
      closed = true;
      clearTimeout(timer);
      loading.stop();
      loadingCurves.stop();
      for (const chart of charts.values()) chart.plot?.destroy();
    },
  };
}
