// The trees of trainings: which epochs they share, where they part, and what was trained now.

import { el, empty, plural, seconds, shortNames, svg, throttle, when } from "./dom.js";
import { ofPipeline } from "./pipeline.js";

const ROW = 26, LEFT = 14;
const settings = { pipeline: "" };

export function show(main, state) {
  const summary = el("div", { class: "figures" });
  const trees = el("div", { class: "trees" });
  let found = null;
  const pipeline = ofPipeline(state, settings, {
    path: "/api/chain", pause: 1500, place: trees, nothing: "The cache has no training yet.",
    draw(answer) { found = answer; draw(); },
  });
  main.append(el("div", { class: "bar" }, pipeline.label, legend()), summary, trees);

  function legend() {
    const item = (name, text) => el("li", {}, el("i", { class: `swatch ${name}` }), text);
    return el("ul", { class: "legend" }, item("new", "trained by the newest run"), item("old", "trained by an earlier run"), item("reused", "resumed here"), item("end", "a result"), item("rung-mark", "rung"), item("stopped", "stopped early"));
  }

  function draw() {
    const { trainings, open } = found;
    const pruned = open.filter((one) => one.status === "pruned");
    const number = (value, text) => el("p", {}, el("b", {}, value), el("span", {}, text));
    summary.replaceChildren(
      number(plural(trainings.length, "training"), "with a result"),
      number(found.epochs.toLocaleString("en"), "epochs that their results need"),
      number((found.epochs - found.epochs_saved).toLocaleString("en"), "epochs trained"),
      number(found.epochs_saved.toLocaleString("en"), "epochs taken from the cache"),
      number(found.seconds_saved ? seconds(found.seconds_saved) : "0 s", "of training saved"),
      pruned.length ? number(pruned.reduce((sum, one) => sum + one.epochs - one.epoch, 0).toLocaleString("en"), `epochs not trained: ${plural(pruned.length, "point")} pruned`) : "");
    const parts = [];
    const byStage = new Map();
    for (const tree of found.trees) {
      const stage = tree.stages.join(", ");
      if (!byStage.has(stage)) byStage.set(stage, []);
      byStage.get(stage).push(tree);
    }
    for (const one of open) {
      const stage = one.name.split("@")[0];
      if (!byStage.has(stage)) byStage.set(stage, []);
    }
    const order = [...new Set([...state.rows.values()].map((row) => row.stage))];
    const inOrder = [...byStage].sort(([a], [b]) => order.indexOf(a.split(",")[0]) - order.indexOf(b.split(",")[0]));
    for (const [stage, own] of inOrder) {
      const unfinished = open.filter((one) => one.name.split("@")[0] === stage);
      parts.push(el("section", {}, el("h2", {}, stage), picture(own, unfinished)));
    }
    if (found.left_out) parts.push(el("p", { class: "note" }, `${plural(found.left_out, "older training")} left out.`));
    // What was scrolled to, and the focus, stay.
    const scrolled = [...trees.querySelectorAll(".wide")].map((part) => part.scrollLeft);
    const focused = trees.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    trees.replaceChildren(...(parts.length ? parts : [empty("No training of this pipeline has a result or runs.")]));
    [...trees.querySelectorAll(".wide")].forEach((part, at) => { part.scrollLeft = scrolled[at] ?? 0; });
    if (focused) [...trees.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus({ preventScroll: true });
  }

  /** All trees of a stage over one axis of epochs. */
  function picture(own, unfinished) {
    const most = Math.max(1, ...own.flatMap((tree) => tree.branches.map((branch) => branch.to)), ...unfinished.map((one) => one.epochs));
    const width = Math.max(trees.clientWidth, 360);
    const names = shortNames([...new Set([...own.flatMap((tree) => tree.branches.flatMap((branch) => branch.ends.map((end) => found.trainings[end].name))), ...unfinished.map((one) => one.name)])]);
    const longest = Math.max(12, ...[...names.values()].map((name) => name.length), ...unfinished.map((one) => names.get(one.name).length + one.status.length + 2));
    const right = Math.min(longest * 6.6 + 30, width * 0.42);
    const x = (epoch) => LEFT + (epoch / most) * (width - LEFT - right);
    const marks = svg("g", {});
    let row = 0;
    const y = (at) => 36 + at * ROW;
    const first = (tree) => Math.min(...tree.branches.flatMap((branch) => branch.ends));
    for (const tree of [...own].sort((a, b) => first(a) - first(b))) {
      const rows = new Map();
      const children = tree.branches.map(() => []);
      tree.branches.forEach((branch, at) => { if (branch.parent !== null) children[branch.parent].push(at); });
      // The longest child goes on in the line of its parent.
      const depth = (at) => Math.max(tree.branches[at].to, ...children[at].map(depth));
      const place = (at, line) => {
        rows.set(at, line);
        const sorted = [...children[at]].sort((a, b) => depth(b) - depth(a));
        sorted.forEach((child, order) => { if (order === 0 && !tree.branches[at].ends.length) place(child, line); else { row += 1; place(child, row); } });
      };
      place(0, row);
      tree.branches.forEach((branch, at) => drawBranch(tree, branch, rows.get(at), branch.parent === null ? null : rows.get(branch.parent)));
      row += 1;
    }
    for (const one of unfinished) { drawOpen(one, row); row += 1; }
    const height = y(row) + 6;
    const ticks = niceTicks(most, (width - LEFT - right) / 56);
    const axis = svg("g", { class: "epochs" }, ...ticks.flatMap((tick) => [svg("line", { x1: x(tick), x2: x(tick), y1: 18, y2: height - 4 }), svg("text", { x: x(tick), y: 12, "text-anchor": tick === 0 ? "start" : "middle" }, tick === 0 && width >= 600 ? "epoch 0" : String(tick))]));
    return el("div", { class: "wide" }, svg("svg", { class: "chain", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${plural(own.length, "tree")} of trainings over ${most} epochs` }, axis, marks));

    function drawBranch(tree, branch, line, parentLine) {
      const [from, to, at] = [x(branch.from), x(branch.to), y(line)];
      if (parentLine !== null && parentLine !== line) {
        marks.append(svg("path", { class: "fork", d: `M${from} ${y(parentLine)}V${at - 6}Q${from} ${at} ${from + 6} ${at}` }));
      }
      const start = parentLine !== null && parentLine !== line ? Math.min(from + 6, to) : from;
      const title = () => svg("title", {}, `${plural(branch.to - branch.from, "epoch")}, ${branch.from + 1} to ${branch.to}, in ${plural(branch.members, "training")}`);
      marks.append(svg("line", { class: "branch", x1: start, x2: to, y1: at, y2: at, "stroke-width": 3 + 2 * Math.min(Math.log2(branch.members), 4) }, title()));
      for (const part of branch.trained) {
        const training = found.trainings[part.training];
        marks.append(svg("line", { class: part.is_new ? "trained new" : "trained", x1: Math.max(x(part.from), start), x2: x(part.to), y1: at, y2: at, "stroke-width": 3 + 2 * Math.min(Math.log2(branch.members), 4) },
          svg("title", {}, `epochs ${part.from + 1} to ${part.to}: trained for ${training.name} by run ${training.run}`)));
        if (part.from > 0 && part.from >= branch.from && training.resumed_at === part.from && training.is_rung) marks.append(svg("line", { class: "rung", x1: x(part.from), x2: x(part.from), y1: at - 6, y2: at + 6 }, svg("title", {}, `promoted at the rung after epoch ${part.from}`)));
        else if (part.from > 0 && part.from >= branch.from && training.resumed_at === part.from) marks.append(svg("circle", { class: "resumed", cx: x(part.from), cy: at, r: 4 }, svg("title", {}, `resumed after epoch ${part.from} by run ${training.run}`)));
      }
      // The label of a start without epochs goes on with that of its children.
      const above = branch.parent === null ? null : tree.branches[branch.parent];
      const label = [above && above.to === above.from ? above.label : "", branch.label].filter(Boolean).join(", ");
      if (label && x(branch.to) - start > 70) marks.append(svg("text", { class: "label", x: start + 5, y: at - 6 }, fit(label, (x(branch.to) - start - 8) / 6)));
      branch.ends.forEach((end, order) => {
        const training = found.trainings[end];
        if (order === 0) marks.append(svg("circle", { class: training.is_new ? "end new" : "end", cx: to, cy: at, r: 5 }));
        if (order > 0) return;
        const more = branch.ends.length > 1 ? ` and ${branch.ends.length - 1} more` : "";
        const text = svg("text", { class: training.is_current ? "name" : "name earlier", x: to + 10, y: at + 4 }, fit(names.get(training.name), (width - to - 16) / 6.6) + more, svg("title", {}, `${training.name}: ${training.epochs} epochs, ${seconds(training.seconds)}, finished ${when(training.finished_at)} by run ${training.run}${training.is_current ? "" : " (an earlier result)"}`));
        marks.append(training.point === null ? text : svg("a", { href: `#point/${training.point}` }, text));
      });
    }

    function drawOpen(one, line) {
      const at = y(line);
      const resumed = one.resumed_at ?? 0;
      marks.append(svg("line", { class: "planned", x1: x(0), x2: x(one.epochs), y1: at, y2: at }),
        svg("line", { class: "branch", x1: x(0), x2: x(Math.min(resumed, one.epoch)), y1: at, y2: at, "stroke-width": 3 }),
        svg("line", { class: "trained new", x1: x(resumed), x2: x(one.epoch), y1: at, y2: at, "stroke-width": 3 }),
        ...one.rungs.map((rung) => svg("line", { class: "rung", x1: x(rung), x2: x(rung), y1: at - 6, y2: at + 6 }, svg("title", {}, `rung after epoch ${rung}`))));
      if (one.status === "pruned" || one.status === "failed" || one.status === "interrupted") marks.append(svg("path", { class: `stopped ${one.status}`, d: `M${x(one.epoch) - 4} ${at - 4}l8 8m0 -8l-8 8` }, svg("title", {}, one.why ?? one.status)));
      marks.append(svg("a", { href: `#point/${one.point}` }, svg("text", { class: "name", x: Math.max(x(one.epoch), x(resumed)) + 10, y: at + 4 }, fit(names.get(one.name), Math.max((width - x(one.epoch) - 96) / 6.6, 8)), svg("tspan", { class: "status-text" }, `  ${one.status}`), svg("title", {}, `${one.name}: ${one.why ?? one.status}`))));
    }
  }

  pipeline.again();
  const resized = new ResizeObserver(throttle(() => found && draw(), 200));
  resized.observe(main);
  return {
    update(change) { if (change.rows || change.states || change.epochs?.length || change.runs || change.columns) pipeline.again(); },
    close() {
      pipeline.close();
      resized.disconnect();
    },
  };
}

/** A text of at most this many characters. */
function fit(text, most) {
  most = Math.max(Math.floor(most), 4);
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

/** Up to eight places of an axis, or fewer if there is room for fewer only. */
function niceTicks(most, room) {
  const rough = most / Math.min(8, Math.max(room, 1));
  const power = 10 ** Math.floor(Math.log10(Math.max(rough, 1)));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough) ?? 1;
  const ticks = [];
  for (let tick = 0; tick <= most; tick += Math.max(step, 1)) ticks.push(tick);
  return ticks;
}
