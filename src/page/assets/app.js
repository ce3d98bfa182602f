// The state of the page, its views, and the filter that they share.

import { get, listen, newest } from "./api.js";
import { debounce, el, options, plural, say, throttle } from "./dom.js";
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
  isRouted = true;
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

const filtering = newest();
let filterFailed = false;
/** Whether an epoch of a training may change which points meet the filter. */
let readsMetrics = false;

/** Finds the points that meet the filter. `more` is what else has changed. */
async function filter(more = {}) {
  const signal = filtering.begin();
  const problem = byId("where-problem");
  const where = conditions();
  let ids;
  try {
    const found = where
      ? await get("/api/points", { where, ids: true }, { signal })
      : { ids: [...state.rows.keys()].sort((a, b) => a - b), reads_metrics: false };
    ids = found.ids;
    readsMetrics = found.reads_metrics;
  } catch (error) {
    if (error.name === "AbortError") return;
    filterFailed = true;
    say(problem, error.hint ? `${error.message}. ${error.hint}` : error.message);
    byId("where").setAttribute("aria-invalid", "true");
    view.update({ rows: true, ...more });
    return;
  }
  const isSame = !filterFailed && ids.length === state.ids.length && ids.every((id, at) => id === state.ids[at]);
  filterFailed = false;
  state.ids = ids;
  say(problem, "");
  byId("where").removeAttribute("aria-invalid");
  const all = state.rows.size;
  say(byId("count"), ids.length === all ? plural(all, "point") : `${ids.length.toLocaleString("en")} of ${plural(all, "point")}`);
  view.update({ filter: !isSame, rows: true, ...more });
}

/** The version of the rows, the loads that were asked for, and the messages that wait for the end of a load. */
let version = 0, requested = 1, finished = 0, waiting = [];
const isStale = () => requested !== finished;

/** Loads the whole table, then applies the messages that are newer. */
async function loadTable() {
  const own = requested;
  let found;
  try {
    found = await get("/api/points");
  } catch (error) {
    report(error);
    setTimeout(reload, 3000);
    return;
  }
  finished = own;
  version = found.version;
  const before = state.rows;
  const columns = JSON.stringify(found.columns) !== JSON.stringify(state.columns);
  state.columns = found.columns;
  state.rows = new Map(found.rows.map((row) => [row.id, row]));
  const ids = new Set(found.rows.filter((row) => hasMoved(before.get(row.id), row)).map((row) => row.id));
  if (!isStale()) {
    for (const message of waiting) for (const id of apply(message)) ids.add(id);
    waiting = [];
  }
  failure = "";
  problems();
  lists();
  await filter({ columns, ids: [...ids] });
}

/** Whether more than the epoch of a point has changed. */
function isOther(before, row) {
  return !before || before.status !== row.status || before.run !== row.run || before.finished_at !== row.finished_at
    || before.note !== row.note || String(before.tags) !== String(row.tags);
}

const hasMoved = (before, row) => isOther(before, row) || before.epoch !== row.epoch;

/** Whether these rows may change which points meet the filter. */
function mayMoveFilter(rows) {
  return Boolean(conditions()) && rows.some((row) => readsMetrics || isOther(state.rows.get(row.id), row));
}

/** Applies the rows of a message that is newer than the table. Returns their numbers. */
function apply(message) {
  const rows = message.version > version ? message.rows ?? [] : [];
  if (message.version > version) version = message.version;
  for (const row of rows) state.rows.set(row.id, row);
  return rows.map((row) => row.id);
}

async function loadInfo() {
  try {
    state.info = await get("/api/state");
  } catch (error) {
    report(error);
    return;
  }
  say(byId("cache"), state.info.cache);
  byId("cache").title = state.info.cache;
  failure = "";
  problems();
  view.update({ runs: true });
}

/** What went wrong in a request. */
let failure = "";

function report(error) {
  failure = error.message;
  problems();
}

function problems() {
  say(byId("problem"), state.info.problem || failure);
}

/** The lists of pipelines and stages. */
function lists() {
  const fill = (id, all) => {
    const values = [...new Set([...state.rows.values()].map((row) => row[id]))];
    if (!values.includes(state[id])) state[id] = "";
    byId(id).parentElement.hidden = values.length < 2;
    options(byId(id), [["", all], ...values.map((value) => [value, value])], state[id]);
  };
  fill("pipeline", "all pipelines");
  fill("stage", "all stages");
}

const refilter = throttle(filter, 800);
/** One load at a time, so that no older table replaces a newer one. The first one opens the view. */
const reload = throttle(async () => {
  await loadTable();
  if (!isRouted) route();
}, 400);
let isRouted = false;
const reinfo = throttle(loadInfo, 400);

function changed(message) {
  let ids = [];
  // Messages of another server have other versions.
  if (message.isNew) waiting = [];
  if (message.table || waiting.length > 1000) {
    waiting = [];
    requested += 1;
    reload();
  } else if (isStale()) {
    waiting.push(message);
  } else {
    const rows = message.rows ?? [];
    const hasNew = rows.some((row) => !state.rows.has(row.id));
    const moves = hasNew || mayMoveFilter(rows);
    ids = apply(message);
    if (hasNew) lists();
    if (moves) refilter();
  }
  if (message.runs) reinfo();
  view.update({ epochs: message.epochs ?? [], states: message.states, rows: ids.length > 0, ids });
}

function start() {
  tabs();
  const where = byId("where");
  const typed = debounce(() => { state.where = where.value; filter(); }, 30);
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
    say(live, answers ? "live" : "no connection to the server");
    live.classList.toggle("lost", !answers);
  });
  reload();
  reinfo();
}

start();
