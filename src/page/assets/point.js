// A point: its key, what changed, its metrics, images, files and its log.

import { fileUrl, get, imageUrl } from "./api.js";
import { bytes, colour, difference, el, empty, figure, option, plural, seconds, statusBadge, throttle, when } from "./dom.js";

export function show(main, state, argument) {
  const id = Number(argument);
  let curvesPart = null, details = null, against = state.baseline !== null && state.baseline !== id ? state.baseline : null, timer = null, log = null, closed = false;
  let drawCurves = async () => {};
  const body = el("div", { class: "details" });
  main.append(body);

  async function load() {
    const found = await get(`/api/points/${id}`, { against });
    if (closed) return;
    details = found;
    draw();
  }

  function section(title, ...content) {
    return el("section", {}, el("h2", {}, title), ...content);
  }

  function draw() {
    const { result, live } = details;
    log ??= logSection();
    body.replaceChildren(
      el("div", { class: "title" }, el("a", { class: "back", href: "#points" }, "All points"), el("h2", { class: "point-name" }, details.point),
        el("p", {}, statusBadge(details.status), ` ${details.pipeline}${details.kind ? `, ${details.kind}` : ""}`), liveText(live)),
      result ? section("Metrics", comparePicker(), metrics()) : "",
      curvesPart ??= curves(),
      result ? images(result) : "",
      details.states?.some((one) => one.images.length || one.pictures.length) ? keptEpochs() : "",
      result?.has_embedding ? embedding() : "",
      result ? changesSection() : "",
      result ? section("What its key is made of", keyTable(result)) : "",
      result ? section("Files", fileTable(result)) : "",
      details.log ? log : "",
      result ? section("How it was made", provenance(result.provenance)) : "",
      details.earlier.length ? section("Earlier results", earlier()) : "");
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

  function comparePicker() {
    const own = state.rows.get(id);
    const others = [...state.rows.values()].filter((row) => row.id !== id && row.status === "done" && row.kind === own?.kind).slice(0, 2000);
    if (!others.length && !details.earlier.length) return "";
    return el("label", { class: "compare" }, el("span", {}, "Compare with "), el("select", { onchange: (event) => { against = event.target.value === "" ? null : Number(event.target.value); load(); drawCurves().catch(() => {}); } },
      option("", details.earlier.length ? "its earlier result" : "nothing"), ...others.map((row) => option(row.id, row.point, row.id === against))));
  }

  function metrics() {
    const all = details.changes?.metrics ?? Object.entries(details.result.metrics).map(([name, now]) => ({ name, now, before: null }));
    if (!all.length) return empty("It has no metrics.");
    const other = details.changes ? details.against : null;
    const line = ({ name, now, before }) => el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "number" }, figure(now)), other ? el("td", { class: "number" }, figure(before)) : "", other ? el("td", { class: "number" }, typeof now === "number" && typeof before === "number" ? difference(now - before) : "") : "");
    return el("div", { class: "wide" }, el("table", {}, other ? el("thead", {}, el("tr", {}, el("td", {}), el("th", { scope: "col" }, "this point"), el("th", { scope: "col" }, other.point === details.point ? "before" : other.point), el("th", { scope: "col" }, "difference"))) : "", el("tbody", {}, all.map(line))));
  }

  /** A small chart for each metric that has a curve, with that of the other point. */
  function curves() {
    const part = el("section", { hidden: true }, el("h2", {}, "Curves"));
    const charts = el("div", { class: "multiples" });
    part.append(charts);
    drawCurves = async () => {
      const ids = [id, against].filter((one) => one !== null).join(",");
      const names = Object.keys(await get("/api/curves", { ids })).sort();
      const all = await Promise.all(names.slice(0, 12).map((metric) => get("/api/curves", { ids, metric, most: 300 })));
      if (closed) return;
      part.hidden = !names.length;
      charts.replaceChildren(...all.map((data) => {
        const place = el("div", {});
        const figureOf = el("figure", {}, el("figcaption", {}, data.metric), place);
        const xs = Array.from({ length: data.places }, (_, at) => (data.bucket === 1 ? at + 1 : Math.floor(at / 2) * data.bucket + 1 + (at % 2) * Math.floor(data.bucket / 2)));
        const series = [...data.series].sort((a) => (a.id === id ? 1 : -1));
        const columns = series.map((one) => [...one.values, ...Array(Math.max(xs.length - one.values.length, 0)).fill(null)]);
        const ink = colour("--soft"), line = colour("--line");
        const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif", size: 26 };
        requestAnimationFrame(() => new uPlot({ width: Math.max(place.clientWidth, 200), height: 170, legend: { show: false }, cursor: { drag: { x: true, y: false } }, scales: { x: { time: false } }, axes: [{ ...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] }, { ...axis, size: 52, values: (_, ticks) => ticks.map((v) => figure(v)) }], series: [{}, ...series.map((one) => ({ stroke: one.id === id ? colour("--0") : colour("--3"), width: one.id === id ? 2 : 1.25, points: { show: false }, spanGaps: true }))] }, [xs, ...columns], place));
        return figureOf;
      }));
    };
    drawCurves().catch(() => {});
    return part;
  }

  function changesSection() {
    if (!details.changes) return "";
    const { causes, same_bytes: same } = details.changes;
    const other = details.against;
    const title = other.point === details.point ? `What changed since ${when(other.finished_at)}` : `What differs from ${other.point}`;
    return section(title, causes.length ? el("ul", { class: "causes" }, causes.map((text) => el("li", {}, text))) : empty("Nothing: both have the same key."), same ? el("p", { class: "note" }, "Both results have the same bytes.") : "");
  }

  /** Reconstructions below their originals, then other stacks and pictures. */
  function images(result) {
    const stacks = result.tensors.filter((tensor) => tensor.view === "images");
    const pictures = result.files.filter((file) => file.view === "picture");
    if (!stacks.length && !pictures.length) return "";
    const names = stacks.map((tensor) => tensor.name);
    const parts = [];
    if (names.includes("originals") && names.includes("reconstructions")) parts.push(beside(stacks.find((t) => t.name === "originals")));
    const rest = stacks.filter((t) => !(parts.length && (t.name === "originals" || t.name === "reconstructions")));
    for (const tensor of rest) parts.push(el("figure", {}, el("figcaption", {}, `${tensor.name}, ${tensor.shape[0] > 100 ? `the first 100 of ${tensor.shape[0]}` : tensor.shape[0]}`), picture(tensor.name, { count: 100, columns: 10, scale: 2 }, `${tensor.name} of ${details.point}`)));
    for (const file of pictures) parts.push(el("figure", {}, el("figcaption", {}, file.name), el("img", { class: "file", loading: "lazy", src: fileUrl(id, file.name), alt: file.name })));
    return section("Images", ...parts);
  }

  function picture(name, selection, alt) {
    return el("img", { class: "grey", loading: "lazy", src: imageUrl(id, name, selection), alt });
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

  /** Pictures of the states that are kept, one epoch at a time. */
  function keptEpochs() {
    const kept = details.states.filter((one) => one.images.length || one.pictures.length);
    const shown = el("div", {});
    const text = el("output", {});
    const draw = (at) => {
      const one = kept[at];
      text.textContent = `epoch ${one.epoch}`;
      const originals = details.result.tensors.some((tensor) => tensor.name === "originals");
      const pair = (name) => el("figure", {}, el("figcaption", {}, `originals, and their reconstructions after epoch ${one.epoch}`), [0, 10].map((first) => el("div", { class: "pair" }, picture("originals", { first, count: 10, columns: 10, scale: 2 }, "originals"), picture(name, { epoch: one.epoch, first, count: 10, columns: 10, scale: 2 }, `reconstructions after epoch ${one.epoch}`))));
      shown.replaceChildren(...one.images.map((name) => name === "reconstructions" && originals ? pair(name) : el("figure", {}, el("figcaption", {}, name), picture(name, { epoch: one.epoch, count: 40, columns: 10, scale: 2 }, `${name} after epoch ${one.epoch}`))), ...one.pictures.map((name) => el("figure", {}, el("figcaption", {}, name), el("img", { class: "file", src: fileUrl(id, name, { epoch: one.epoch }), alt: `${name} after epoch ${one.epoch}` }))));
    };
    const slider = el("input", { type: "range", min: 0, max: kept.length - 1, value: kept.length - 1, "aria-label": "Kept epoch", oninput: (event) => draw(Number(event.target.value)) });
    draw(kept.length - 1);
    return section("Kept epochs", el("p", { class: "bar" }, slider, text), shown);
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
    const facts = [["finished", when(made.finished_at)], ["time", seconds(made.seconds)], ["run", made.run], ["machine", made.host], ["device", `${made.device} (${made.class}), ${plural(made.threads, "thread")}`], ["vadpipe", made.version], ["program", made.program]];
    return el("dl", { class: "facts" }, facts.filter(([, value]) => value).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  }

  function earlier() {
    return el("div", { class: "wide" }, el("table", {}, el("tbody", {}, details.earlier.slice(0, 20).map((one) => el("tr", {}, el("th", { scope: "row" }, when(one.finished_at)), el("td", {}, el("code", {}, one.key.slice(0, 12))), el("td", {}, Object.entries(one.metrics).slice(0, 5).map(([name, value]) => `${name} ${figure(value)}`).join(", ")), el("td", {}, `run ${one.run}`))))));
  }

  function logSection() {
    const text = el("pre", { class: "log", tabindex: 0, "aria-label": "Log" });
    const follow = el("input", { type: "checkbox", checked: true });
    const part = section("Log", el("p", { class: "bar" }, el("label", { class: "check" }, follow, "follow")), text);
    let next = null;
    const read = async () => {
      if (closed) return;
      let found = null;
      try { found = await get(`/api/points/${id}/log`, { from: next ?? undefined }); } catch { return; }
      if (next === null && !found.text) text.textContent = found.exists ? "It has logged nothing." : "It has no log.";
      else if (next === null) text.textContent = found.text;
      else if (found.text) { if (next === 0) text.textContent = ""; text.append(found.text); }
      if (found.exists) next = found.next;
      if (follow.checked && found.text) text.scrollTop = text.scrollHeight;
      timer = setTimeout(read, found.is_over ? 5000 : 500);
    };
    read();
    return part;
  }

  const again = throttle(() => load().catch(() => {}), 700);
  const redraw = throttle(() => drawCurves().catch(() => {}), 700);
  load().catch((error) => body.replaceChildren(empty(error.message), el("p", {}, el("a", { href: "#points" }, "All points"))));
  return { update(change) { if (change.ids?.includes(id) || change.states) again(); if (change.ids?.includes(id)) redraw(); }, close() { closed = true; clearTimeout(timer); } };
}
