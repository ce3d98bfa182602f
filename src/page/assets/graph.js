// The graph of a pipeline by stages: what runs, what waits, and the time that is left.

import { el, empty, plural, seconds, svg } from "./dom.js";
import { ofPipeline } from "./pipeline.js";

const settings = { pipeline: "" };
const BOX = { width: 196, height: 66, across: 64, down: 22 };
const ORDER = ["done", "running", "waiting", "pending", "not run", "failed", "interrupted", "pruned", "skipped", "removed"];

export function show(main, state) {
  const left = el("p", { class: "count" });
  const drawing = el("div", { class: "wide", tabindex: 0 });
  const now = el("section", { class: "now" });
  const pipeline = ofPipeline(state, settings, { path: "/api/graph", pause: 1000, place: drawing, nothing: "The cache has no point yet.", draw });
  main.append(el("div", { class: "bar" }, pipeline.label, left), drawing, now);

  function draw(found) {
    const open = found.stages.some((stage) => stage.running.length || stage.counts.pending);
    left.textContent = !open ? "" : found.left > 0 ? `about ${seconds(found.left)} left${found.without_estimate ? `, and ${plural(found.without_estimate, "point")} without an estimate` : ""}` : "no estimate yet";
    const focused = document.activeElement?.dataset?.stage;
    drawing.replaceChildren(found.stages.length ? picture(found) : empty("This pipeline has no point."));
    if (focused) [...drawing.querySelectorAll(".box")].find((box) => box.dataset.stage === focused)?.focus({ preventScroll: true });
    const running = found.stages.flatMap((stage) => stage.running);
    now.replaceChildren(...(running.length ? [el("h2", {}, "Now"), el("table", {}, el("thead", {}, el("tr", {}, ["point", "status", "epochs", "left", "where"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, running.slice(0, 100).map((one) => el("tr", {}, el("th", { scope: "row" }, el("a", { href: `#point/${one.id}` }, one.point)), el("td", {}, one.status),
        el("td", { class: "number" }, one.epochs ? `${one.epochs[0]} / ${one.epochs[1]}` : ""), el("td", { class: "number" }, one.left === null ? "" : seconds(one.left)), el("td", {}, one.waits_for ? `waits for ${one.waits_for}` : one.worker ?? "this machine")))))] : []));
  }

  function picture(found) {
    const inputs = new Map(found.stages.map((stage) => [stage.stage, []]));
    for (const [from, to] of found.edges) inputs.get(to)?.push(from);
    const layers = new Map();
    const layer = (name, above = new Set()) => {
      if (layers.has(name)) return layers.get(name);
      if (above.has(name)) return 0;
      const own = Math.max(-1, ...(inputs.get(name) ?? []).map((from) => layer(from, new Set([...above, name])))) + 1;
      layers.set(name, own);
      return own;
    };
    found.stages.forEach((stage) => layer(stage.stage));
    const columns = [];
    for (const stage of found.stages) (columns[layers.get(stage.stage)] ??= []).push(stage);
    const places = new Map();
    // Each stage beside the middle of its inputs.
    columns.forEach((column, at) => {
      const middle = (stage) => { const all = (inputs.get(stage.stage) ?? []).map((from) => places.get(from)?.y ?? 0); return all.length ? all.reduce((a, b) => a + b, 0) / all.length : 0; };
      column.sort((a, b) => middle(a) - middle(b) || a.stage.localeCompare(b.stage));
      column.forEach((stage, row) => places.set(stage.stage, { x: 4 + at * (BOX.width + BOX.across), y: 4 + row * (BOX.height + BOX.down) }));
    });
    const width = columns.length * (BOX.width + BOX.across) - BOX.across + 8;
    const height = Math.max(...columns.map((column) => column.length)) * (BOX.height + BOX.down) - BOX.down + 8;
    const edge = ([from, to]) => {
      const [a, b] = [places.get(from), places.get(to)];
      if (!a || !b) return "";
      const [x1, y1, x2, y2] = [a.x + BOX.width, a.y + BOX.height / 2, b.x, b.y + BOX.height / 2];
      const half = (x2 - x1) / 2;
      return svg("path", { class: "edge", d: `M${x1} ${y1}C${x1 + half} ${y1} ${x2 - half} ${y2} ${x2} ${y2}` });
    };
    return svg("svg", { class: "stages", width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `The ${found.stages.length} stages of ${found.pipeline}` }, ...found.edges.map(edge), ...found.stages.map((stage) => box(stage, places.get(stage.stage))));
  }

  function box(stage, place) {
    const all = Object.values(stage.counts).reduce((a, b) => a + b, 0);
    let at = 0;
    const bars = ORDER.filter((status) => stage.counts[status]).map((status) => {
      const share = stage.counts[status] / all;
      const bar = svg("rect", { class: `bar ${status.replaceAll(" ", "-")}`, x: place.x + 12 + at * (BOX.width - 24), y: place.y + BOX.height - 12, width: share * (BOX.width - 24), height: 4 }, svg("title", {}, `${stage.counts[status]} ${status}`));
      at += share;
      return bar;
    });
    const words = ORDER.filter((status) => stage.counts[status]).map((status) => (all === 1 ? status : `${stage.counts[status]} ${status}`)).join(", ");
    const open = () => { state.pipeline = settings.pipeline; state.stage = stage.stage; document.getElementById("stage").value = stage.stage; document.getElementById("pipeline").value = settings.pipeline; document.getElementById("stage").dispatchEvent(new Event("change")); state.open("points"); };
    return svg("g", { class: stage.running.length ? "box running" : "box", tabindex: 0, role: "button", "data-stage": stage.stage, "aria-label": `${stage.stage}: ${words}`, onclick: open, onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(); } } },
      svg("rect", { x: place.x, y: place.y, width: BOX.width, height: BOX.height, rx: 4 }),
      svg("text", { class: "stage-name", x: place.x + 12, y: place.y + 22 }, stage.stage.length > 24 ? `${stage.stage.slice(0, 23)}…` : stage.stage),
      svg("text", { class: "stage-words", x: place.x + 12, y: place.y + 42 }, words.length > 27 ? `${words.slice(0, 26)}…` : words, svg("title", {}, `${stage.kind ?? ""}: ${words}; ${seconds(stage.seconds)} of work`)), ...bars);
  }

  pipeline.again();
  return {
    update(change) { if (change.rows || change.runs || change.epochs?.length) pipeline.again(); },
    close: pipeline.close,
  };
}
