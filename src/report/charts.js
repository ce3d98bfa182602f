// Charts: values below the pointer, other scales, smoothing, keys that can be clicked, and files. The values are read from
// the paths: two digits behind the point of a drawing of 228 units are four digits of a value.
const paper = document.querySelector("svg")?.namespaceURI;
const shape = (tag, attributes) => {
  const made = document.createElementNS(paper, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};
const place = (scale, v) => (scale.log ? Math.log10(v) : v) * scale.factor + scale.offset;
const valueAt = (scale, p) => {
  const v = (p - scale.offset) / scale.factor;
  return scale.log ? 10 ** v : v;
};
// Maps from low to high to the pixels from start to end.
const scaleOf = (low, high, log, start, end) => {
  const factor = high > low ? (end - start) / (high - low) : 0;
  return { low, high, log, factor, offset: high > low ? start - low * factor : (start + end) / 2 };
};
const roundTicks = ({ low, high, log }) => {
  if (log) {
    const digits = high - low < 1.5 ? [1, 2, 3, 5] : high - low < 4 ? [1, 3] : [1];
    const powers = [...Array(Math.ceil(high) - Math.floor(low) + 1).keys()].map((i) => i + Math.floor(low));
    const all = powers.flatMap((power) => digits.map((digit) => Number(`${digit}e${power}`)));
    const inside = all.filter((v) => Math.log10(v) >= low && Math.log10(v) <= high);
    // A short part of a logarithmic scale is nearly linear.
    return inside.length > 2 ? inside : roundTicks({ low: 10 ** low, high: 10 ** high, log: false });
  }
  const least = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((s) => s >= least * (1 - 1e-9));
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return [...Array(Math.max(0, Math.min(20, count))).keys()].map((i) => Number(((first + i) * step).toPrecision(12)));
};

class Chart {
  constructor(svg) {
    this.svg = svg;
    this.figure = svg.closest("figure");
    this.box = svg.dataset.box.split(" ").map(Number);
    const [left, top, right, bottom] = this.box;
    const [low, high, log, kind] = svg.dataset.x.split(" ");
    this.x = scaleOf(Number(low), Number(high), log === "1", left, right);
    this.kind = kind;
    this.steps = svg.dataset.steps.split(",");
    const [from, to, logY] = svg.dataset.y.split(" ").map(Number);
    this.original = scaleOf(from, to, logY === 1, bottom, top);
    this.y = this.original;
    this.lines = [...svg.querySelectorAll("path[data-l]")].map((path) => {
      const name = path.querySelector("title")?.textContent ?? "";
      path.querySelector("title")?.remove();
      return { path, name, at: path.dataset.l, band: path.classList.contains("band") };
    });
    this.keys = [...this.figure.querySelectorAll(".legend li[data-lines]")];
    svg.addEventListener("pointermove", (event) => this.hover(event));
    svg.addEventListener("pointerdown", (event) => this.hover(event));
    svg.addEventListener("pointerleave", () => this.leave());
  }
  // The values of all paths, read when they are first needed.
  read() {
    if (this.isRead) return;
    this.isRead = true;
    for (const line of this.lines) {
      const parts = line.path.getAttribute("d").matchAll(/([ML])(-?[\d.]+) (-?[\d.]+)/g);
      line.points = [...parts].map(([, pen, x, y]) => ({ pen, x: Number(x), y: Number(y), v: valueAt(this.original, Number(y)) }));
    }
  }
  redraw(mode, smoothing) {
    this.read();
    const [, top, , bottom] = this.box;
    const shown = this.lines.filter((line) => !line.band);
    const values = shown.flatMap((line) => line.points.map((point) => point.v));
    const positive = values.filter((v) => v > 0);
    const log = mode === "auto" ? this.original.log : mode === "log" && positive.length > 0;
    if (log === this.original.log) this.y = this.original;
    else if (log) {
      const [low, high] = [Math.log10(positive.reduce((a, b) => Math.min(a, b))), Math.log10(positive.reduce((a, b) => Math.max(a, b)))];
      const margin = (high - low) * 0.04 || 0.1;
      this.y = scaleOf(low - margin, high + margin, true, bottom, top);
    } else {
      const high = values.reduce((a, b) => Math.max(a, b));
      const low = values.reduce((a, b) => Math.min(a, b));
      this.y = scaleOf(low > 0 && low < high / 2 ? 0 : low, high * 1.05, false, bottom, top);
    }
    this.svg.querySelectorAll(".raw").forEach((path) => path.remove());
    for (const line of this.lines) {
      const at = (v) => Math.min(bottom, Math.max(top, this.y.log && v <= 0 ? bottom : place(this.y, v)));
      const draw = (points) => points.map(({ pen, x, y }) => `${pen}${x} ${y.toFixed(2)}`).join(line.path.classList.contains("o") ? "h0" : "");
      let [mean, weight] = [0, 0];
      const raw = line.points.map((point) => ({ ...point, y: at(point.v) }));
      const smooth = line.points.map((point) => {
        if (line.band || smoothing === 0 || line.path.classList.contains("o")) return { ...point, y: at(point.v), shown: point.v };
        // The mean of the values so far, of which the weights fall exponentially.
        [mean, weight] = [smoothing * mean + (1 - smoothing) * point.v, smoothing * weight + 1 - smoothing];
        return { ...point, y: at(mean / weight), shown: mean / weight };
      });
      const end = line.path.classList.contains("o") ? "h0" : line.band ? "Z" : "";
      if (line.band) {
        // Each part begins with M.
        line.path.setAttribute("d", draw(smooth).replace(/(.)M/g, "$1ZM") + end);
        continue;
      }
      line.path.setAttribute("d", draw(smooth) + end);
      line.drawn = smooth;
      if (smoothing > 0 && line.path.classList.contains("l")) {
        const faint = shape("path", { class: `raw ${line.path.getAttribute("class").split(" ")[1]}`, d: draw(raw) });
        faint.classList.toggle("off", line.path.classList.contains("off"));
        line.raw = faint;
        line.path.before(faint);
      }
    }
    const [left, , right] = this.box;
    const group = this.svg.querySelector("g.y");
    group.replaceChildren(...roundTicks(this.y).flatMap((tick) => {
      const y = place(this.y, tick).toFixed(1);
      const text = shape("text", { x: left - 7, y: Number(y) + 4 });
      text.textContent = figure(tick).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
      return [shape("path", { class: "grid", d: `M${left} ${y}H${right}` }), text];
    }));
  }
  hover(event) {
    this.read();
    const rect = this.svg.getBoundingClientRect();
    const unit = this.svg.viewBox.baseVal.width / rect.width;
    const [px, py] = [(event.clientX - rect.left) * unit, (event.clientY - rect.top) * unit];
    const [left, top, right, bottom] = this.box;
    const lines = this.lines.filter((line) => !line.band && !line.path.classList.contains("off"));
    const points = (line) => line.drawn ?? line.points;
    let nearest = null;
    for (const line of lines) {
      for (const point of points(line)) {
        if (nearest === null || Math.abs(point.x - px) < Math.abs(nearest - px)) nearest = point.x;
      }
    }
    if (nearest === null || px < left - 8 || px > right + 8) return this.leave();
    const seen = new Set();
    let rows = lines.map((line) => ({ line, point: points(line).find((point) => Math.abs(point.x - nearest) < 0.06) }));
    rows = rows.filter(({ line, point }) => point && !seen.has(line.at) && seen.add(line.at));
    rows.sort((a, b) => Math.abs(a.point.y - py) - Math.abs(b.point.y - py));
    const near = rows[0];
    const left_out = rows.length - 8;
    rows = rows.slice(0, 8).sort((a, b) => a.point.y - b.point.y);
    for (const line of this.lines) line.path.classList.toggle("near", line.at === near?.line.at);
    this.svg.classList.toggle("some", lines.length > 10);
    this.cross ??= this.svg.appendChild(shape("path", { class: "cross" }));
    this.cross.setAttribute("d", `M${nearest} ${top}V${bottom}`);
    const x = valueAt(this.x, nearest);
    const where = this.kind === "steps" ? this.steps[Math.round(x)] : this.kind === "whole" ? Math.round(x) : figure(Number(x.toPrecision(4)));
    const cells = rows.map((row) => {
      const swatch = element("i", { class: row.line.path.getAttribute("class").split(" ")[1] });
      return element("tr", row === near ? { class: "near" } : {},
        element("td", {}, swatch, ` ${row.line.name}`), element("td", {}, figure(row.point.shown ?? row.point.v)));
    });
    const more = left_out > 0 ? [element("small", {}, `${left_out} more lines`)] : [];
    showTip(event, element("b", {}, `${this.svg.dataset.quantity} ${where}`), element("table", {}, ...cells), ...more);
  }
  leave() {
    hideTip();
    this.cross?.remove();
    this.cross = undefined;
    this.svg.classList.remove("some");
    for (const line of this.lines) line.path.classList.remove("near");
  }
  // Marks the lines of an entry of the key, or none.
  mark(item) {
    const chosen = new Set(item?.dataset.lines.split(" ") ?? []);
    this.svg.classList.toggle("some", item !== null);
    for (const line of this.lines) line.path.classList.toggle("near", chosen.has(line.at));
  }
  // Shows the lines that belong to no entry that is switched off.
  filter() {
    const off = new Set();
    for (const key of this.keys) {
      const made = key.querySelector("button");
      if (made && !isPressed(made)) key.dataset.lines.split(" ").forEach((line) => off.add(line));
    }
    for (const line of this.lines) {
      for (const path of [line.path, line.raw]) path?.classList.toggle("off", off.has(line.at));
    }
  }
}
const charts = new Map([...document.querySelectorAll("svg.lines")].map((svg) => [svg, new Chart(svg)]));
// An entry of a key switches its lines on and off, in all charts of a group.
for (const chart of charts.values()) {
  if (chart.keys.length < 2) continue;
  chart.figure.querySelector(".legend").dataset.many = "";
  for (const key of chart.keys) {
    const label = key.querySelector("span").textContent;
    const made = asButton(key, true, () => {
      const on = !isPressed(made);
      const group = chart.figure.closest(".multiples") ?? chart.figure.parentElement;
      for (const other of charts.values()) {
        if (!group.contains(other.svg)) continue;
        for (const same of other.keys.filter((item) => item.querySelector("span").textContent === label)) {
          same.querySelector("button")?.setAttribute("aria-pressed", String(on));
        }
        other.filter();
      }
    });
    made.title = "show or hide";
    for (const [enter, leave] of [["pointerenter", "pointerleave"], ["focus", "blur"]]) {
      made.addEventListener(enter, () => chart.mark(key));
      made.addEventListener(leave, () => chart.mark(null));
    }
  }
}
// Scales and smoothing, for all charts of a group.
for (const group of document.querySelectorAll(".multiples")) {
  const members = [...group.querySelectorAll("svg.lines")].map((svg) => charts.get(svg));
  if (members.length === 0) continue;
  let [mode, smoothing] = ["auto", 0];
  const redraw = () => members.forEach((chart) => chart.redraw(mode, smoothing));
  const scales = element("div", { role: "group", "aria-label": "scale" }, element("span", {}, "scale"));
  const buttons = ["auto", "log", "linear"].map((name) => button(name, name === mode, (made) => {
    buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === made)));
    mode = name;
    redraw();
  }));
  scales.append(...buttons);
  const controls = element("div", { class: "controls" }, scales);
  if (members.some((chart) => chart.kind !== "steps" && chart.svg.querySelector(".l"))) {
    const range = element("input", { type: "range", min: "0", max: "0.98", step: "0.02", value: "0" });
    range.addEventListener("input", () => { smoothing = Number(range.value); redraw(); });
    controls.append(element("label", {}, element("span", {}, "smoothing"), range));
  }
  group.before(controls);
}
// Scatters: a class alone, and the image of the point below the pointer.
const sprites = new Map([...document.querySelectorAll(".sprites")].map((sprite) => [sprite.dataset.split, sprite.dataset]));
const imageOf = (split, index) => {
  const sprite = sprites.get(split);
  if (!sprite) return [];
  const [width, height] = sprite.size.split(" ").map(Number);
  const zoom = Math.max(1, Math.round(84 / width));
  const across = Number(sprite.across);
  const [column, row] = [index % across, Math.floor(index / across)];
  const box = element("div", { class: "image" });
  Object.assign(box.style, {
    width: `${width * zoom}px`, height: `${height * zoom}px`, backgroundImage: `url(${sprite.png})`,
    backgroundSize: `${((width + 1) * across - 1) * zoom}px auto`,
    backgroundPosition: `${-column * (width + 1) * zoom}px ${-row * (height + 1) * zoom}px`,
  });
  return [box];
};
const scatterPoints = (plot) => {
  const classes = plot.dataset.classes.split(" ");
  const next = new Map([...plot.querySelectorAll("path[data-k]")].map((path) => {
    const places = [...path.getAttribute("d").matchAll(/M(-?\d+) (-?\d+)/g)];
    return [path.dataset.k, { name: path.querySelector("title").textContent, places, at: 0 }];
  }));
  return classes.flatMap((k, index) => {
    const of = next.get(k);
    const [, x, y] = of?.places[of.at++] ?? [];
    return x === undefined ? [] : [{ index, k, name: of.name, x: Number(x), y: Number(y) }];
  });
};
for (const part of document.querySelectorAll(".embedding")) {
  const plots = [...part.querySelectorAll(".scatter")];
  let chosen = null;
  const buttons = [...part.querySelectorAll(".legend.classes li")].map((item) => asButton(item, false, (made) => {
    chosen = isPressed(made) ? null : item.dataset.k;
    buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === made && chosen !== null)));
    for (const plot of plots) {
      plot.classList.toggle("alone", chosen !== null);
      for (const path of plot.querySelectorAll("path[data-k]")) path.classList.toggle("chosen", path.dataset.k === chosen);
    }
  }));
  for (const plot of plots) {
    let [points, mark] = [null, null];
    const leave = () => { hideTip(); mark?.remove(); mark = null; };
    const hover = (event) => {
      points ??= scatterPoints(plot);
      const rect = plot.getBoundingClientRect();
      const unit = plot.viewBox.baseVal.width / Math.min(rect.width, rect.height);
      const left = rect.left + (rect.width - Math.min(rect.width, rect.height)) / 2;
      const [x, y] = [(event.clientX - left) * unit, (event.clientY - rect.top) * unit];
      const distance = (point) => Math.hypot(point.x - x, point.y - y);
      let near = null;
      for (const point of points) {
        if ((chosen === null || point.k === chosen) && (near === null || distance(point) < distance(near))) near = point;
      }
      if (near === null || distance(near) > 40) return leave();
      mark ??= plot.appendChild(shape("circle", { class: "mark", r: 12 }));
      mark.setAttribute("cx", near.x);
      mark.setAttribute("cy", near.y);
      showTip(event, ...imageOf(plot.dataset.split, near.index), element("b", {}, near.name), ` image ${near.index}`);
    };
    plot.addEventListener("pointermove", hover);
    plot.addEventListener("pointerdown", hover);
    plot.addEventListener("pointerleave", leave);
    plot.querySelectorAll("title").forEach((title) => plot.addEventListener("pointerenter", () => { points ??= scatterPoints(plot); title.remove(); }, { once: true }));
  }
}
// A figure as an SVG file, with the colours of this page and its key below.
const STYLES = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linecap",
  "stroke-linejoin", "font-family", "font-size", "font-weight", "text-anchor", "paint-order", "visibility", "display"];
const standalone = (svg, key) => {
  const copy = svg.cloneNode(true);
  const style = (from, to) => {
    const computed = getComputedStyle(from);
    to.setAttribute("style", STYLES.map((name) => `${name}:${computed.getPropertyValue(name)}`).join(";"));
    to.removeAttribute("class");
  };
  const copies = [...copy.querySelectorAll("*")];
  [...svg.querySelectorAll("*")].forEach((from, at) => style(from, copies[at]));
  const { width, height } = svg.viewBox.baseVal;
  const items = [...(key?.querySelectorAll("li[data-lines], li[data-k]") ?? [])];
  const unit = width / 480;
  items.forEach((item, at) => {
    const y = height + (at + 1) * 18 * unit;
    const sample = shape("path", { d: `M${62 * unit} ${y - 4 * unit}h${22 * unit}` });
    style(item.querySelector("path"), sample);
    sample.style.strokeWidth = 3 * unit;
    const text = shape("text", { x: 92 * unit, y });
    text.textContent = (item.querySelector("span") ?? item).textContent.trim();
    const computed = getComputedStyle(item);
    text.setAttribute("style", `font-family:${computed.fontFamily};font-size:${12 * unit}px;fill:${computed.color}`);
    copy.append(sample, text);
  });
  const total = height + (items.length > 0 ? (items.length + 0.5) * 18 * unit : 0);
  copy.removeAttribute("style");
  [...copy.attributes].filter(({ name }) => name.startsWith("data-") || name === "class").forEach(({ name }) => copy.removeAttribute(name));
  copy.setAttribute("viewBox", `0 0 ${width} ${total}`);
  copy.setAttribute("width", width);
  copy.setAttribute("height", total);
  const back = shape("rect", { width, height: total });
  back.style.fill = getComputedStyle(document.body).backgroundColor;
  copy.prepend(back);
  return new XMLSerializer().serializeToString(copy);
};
for (const svg of document.querySelectorAll(".chart > svg, .parallel, .dag")) {
  const figure = svg.closest("figure.chart");
  const title = figure?.querySelector("figcaption b")?.textContent ?? svg.getAttribute("aria-label");
  const made = button("SVG", null, () => {
    const key = figure?.querySelector(".legend") ?? svg.closest(".embedding")?.querySelector(".legend");
    const href = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(standalone(svg, key))}`;
    element("a", { href, download: `${title.replace(/[^\w.-]+/g, "-")}.svg` }).click();
  });
  made.className = "export";
  made.setAttribute("aria-label", `Save as SVG: ${title}`);
  made.title = "save as SVG";
  if (figure) figure.append(made);
  else svg.closest(".wide").after(made);
}
