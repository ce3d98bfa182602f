// The runs of the cache, the newest first.

import { el, empty, plural, seconds, statusBadge, when } from "./dom.js";

const MOST = 200;

export function show(main, state) {
  const table = el("div", { class: "wide", tabindex: 0 });
  main.append(table);
  function draw() {
    const { runs } = state.info;
    if (!runs.length) { table.replaceChildren(empty("The cache has no run yet.")); return; }
    const line = (run) => {
      const took = ((run.finished_at ?? Date.now()) - run.started_at) / 1000;
      const points = Object.entries(run.points).map(([status, count]) => `${count} ${status}`).join(", ");
      return el("tr", {}, el("th", { scope: "row" }, run.name ? [el("b", {}, run.name), " "] : "", el("code", {}, run.id), run.note ? el("small", {}, run.note) : ""), el("td", {}, run.pipeline), el("td", {}, statusBadge(run.status)), el("td", {}, when(run.started_at)), el("td", { class: "number" }, run.status === "killed" ? "" : seconds(took)), el("td", {}, points), el("td", {}, `${run.host}, ${run.device}, ${plural(run.threads, "thread")}`));
    };
    table.replaceChildren(el("table", { class: "runs" }, el("thead", {}, el("tr", {}, ["run", "pipeline", "status", "started", "time", "points", "where"].map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, runs.slice(0, MOST).map(line))), runs.length > MOST ? el("p", { class: "note" }, `${MOST} of ${plural(runs.length, "run")}`) : "");
  }
  draw();
  return { update(change) { if (change.runs) draw(); } };
}
