// The state of the page, its views, and the filter that they share.

import { get, listen } from "./api.js";
import { debounce, el, option, plural, throttle } from "./dom.js";
import * as table from "./table.js";
import * as curves from "./curves.js";
import * as parallel from "./parallel.js";
import * as chain from "./chain.js";
import * as graph from "./graph.js";
import * as runs from "./runs.js";
import * as point from "./point.js";

/** Everything that the views read. */
const state = {
  info: { runs: [], pipelines: [] },
  columns: [],
  rows: new Map(),
  /** The numbers of the points that meet the filter. */
  ids: [],
  where: "",
  pipeline: "",
  stage: "",
  selected: new Set(),
  baseline: null,
  sort: { column: null, down: false },
  group: "",
  hidden: new Set(),
  brushes: new Map(),
  open,
  refresh: () => view.update({ filter: true }),
};

const VIEWS = [
  ["points", "Points", table],
  ["curves", "Curves", curves],
  ["parameters", "Parameters", parallel],
  ["chain", "Chain", chain],
  ["graph", "Graph", graph],
  ["runs", "Runs", runs],
];
const main = document.getElementById("main");
const byId = (id) => document.getElementById(id);
let view = { update() {}, close() {} };
let shown = "";

/** Opens a view: `points`, or `point/12`. */
function open(name) {
  if (location.hash === `#${name}`) route(); else location.hash = name;
}

function route() {
  const [name, argument] = (location.hash.slice(1) || "points").split("/");
  if (name === "main") return;
  const known = VIEWS.find(([id]) => id === name);
  const module = name === "point" ? point : (known ? known[2] : table);
  shown = name === "point" || known ? name : "points";
  view.close?.();
  main.replaceChildren();
  main.className = shown;
  byId("filter").hidden = !["points", "curves", "parameters"].includes(shown);
  for (const tab of byId("tabs").children) {
    const is = tab.dataset.view === shown;
    tab.setAttribute("aria-selected", is);
    if (is) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    tab.tabIndex = is || (shown === "point" && tab.dataset.view === "points") ? 0 : -1;
  }
  view = module.show(main, state, argument) ?? { update() {} };
}

function tabs() {
  const nav = byId("tabs");
  for (const [id, text] of VIEWS) {
    nav.append(el("a", { href: `#${id}`, role: "tab", "data-view": id, "aria-controls": "main", "aria-selected": false }, text));
  }
  nav.addEventListener("keydown", (event) => {
    const all = [...nav.children];
    const at = all.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    const tab = all[(to + all.length) % all.length];
    tab.focus();
    open(tab.dataset.view);
  });
}

/** The condition of the filter with those of the two lists. */
function conditions() {
  const quoted = (text) => `"${text}"`;
  const parts = [state.where.trim()];
  if (state.pipeline) parts.push(`pipeline=${quoted(state.pipeline)}`);
  if (state.stage) parts.push(`stage=${quoted(state.stage)}`);
  return parts.filter(Boolean).join(" && ");
}

let filtering = 0;
async function filter() {
  const own = ++filtering;
  const problem = byId("where-problem");
  const where = conditions();
  try {
    const ids = where ? (await get("/api/points", { where, ids: true })).ids : [...state.rows.keys()];
    if (own !== filtering) return;
    state.ids = ids;
    problem.textContent = "";
    byId("where").removeAttribute("aria-invalid");
  } catch (error) {
    if (own !== filtering) return;
    problem.textContent = error.hint ? `${error.message}. ${error.hint}` : error.message;
    byId("where").setAttribute("aria-invalid", "true");
    return;
  }
  const all = state.rows.size;
  byId("count").textContent = state.ids.length === all ? plural(all, "point") : `${state.ids.length.toLocaleString("en")} of ${plural(all, "point")}`;
  view.update({ filter: true });
}

async function loadTable() {
  const found = await get("/api/points");
  state.columns = found.columns;
  state.rows = new Map(found.rows.map((row) => [row.id, row]));
  lists();
  await filter();
}

async function loadInfo() {
  state.info = await get("/api/state");
  byId("cache").textContent = state.info.cache;
  byId("cache").title = state.info.cache;
  byId("problem").textContent = state.info.problem ?? "";
  view.update({ runs: true });
}

/** The lists of pipelines and stages. */
function lists() {
  const of = (name) => [...new Set([...state.rows.values()].map((row) => row[name]))];
  const fill = (id, all, values) => {
    const select = byId(id);
    const known = [...select.options].slice(1).map((o) => o.value);
    select.parentElement.hidden = values.length < 2;
    if (known.join("\n") === values.join("\n") && select.options.length) return;
    select.replaceChildren(option("", all), ...values.map((value) => option(value, value, value === state[id])));
  };
  fill("pipeline", "all pipelines", of("pipeline"));
  fill("stage", "all stages", of("stage"));
}

const refilter = throttle(() => (conditions() ? filter() : view.update({ rows: true })), 400);
const reload = throttle(() => loadTable().catch(report), 400);
const reinfo = throttle(() => loadInfo().catch(report), 400);

function report(error) {
  byId("problem").textContent = error.message;
}

function changed(message) {
  if (message.table) {
    reload();
  } else if (message.rows.length) {
    for (const row of message.rows) state.rows.set(row.id, row);
    refilter();
  }
  if (message.runs) reinfo();
  view.update({ epochs: message.epochs, states: message.states, rows: message.rows.length > 0, ids: message.rows.map((row) => row.id) });
}

function start() {
  tabs();
  const where = byId("where");
  const typed = debounce(() => { state.where = where.value; filter(); }, 60);
  where.addEventListener("input", typed);
  byId("filter").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["pipeline", "stage"]) {
    byId(id).addEventListener("change", (event) => { state[id] = event.target.value; filter(); });
  }
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName);
    if (event.key === "/" && !typing && !byId("filter").hidden) { event.preventDefault(); where.focus(); }
    if (event.key === "Escape" && document.activeElement === where) where.blur();
  });
  window.addEventListener("hashchange", route);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", route);
  listen(changed, (answers) => {
    const live = byId("live");
    live.textContent = answers ? "live" : "no connection to the server";
    live.classList.toggle("lost", !answers);
  });
  loadTable().then(route).catch((error) => { report(error); route(); });
  loadInfo().catch(report);
}

start();
