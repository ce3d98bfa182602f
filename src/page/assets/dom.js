// Elements, and numbers and times in words. Texts of users are only ever set as text.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "onclick" || name === "oninput" || name === "onchange" || name === "onkeydown" || name === "onpointermove" || name === "onpointerleave" || name === "onfocus") {
      node.addEventListener(name.slice(2), value);
    } else if (name === "vars") {
      for (const [key, text] of Object.entries(value)) node.style.setProperty(key, text);
    } else {
      node.setAttribute(name, value === true ? "" : String(value));
    }
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An HTML element. Strings among the children are texts. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export function option(value, text, selected = false) {
  return el("option", { value, selected }, text);
}

/** A number in about four digits. */
export function figure(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e7) return String(value);
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(3).replace(/\.?0+e/, "e").replace("-", "−").replace("e−", "e-").replace("e+", "e");
  return value.toPrecision(4).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "").replace("-", "−");
}

/** A difference with its sign. */
export function difference(value) {
  if (!Number.isFinite(value)) return "";
  if (value === 0) return "±0";
  return (value > 0 ? "+" : "") + figure(value);
}

/** Seconds in words. */
export function seconds(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "";
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 90) return `${Math.round(value)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  if (value < 172800) return `${(value / 3600).toFixed(1)} h`;
  return `${(value / 86400).toFixed(1)} d`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${unit && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** A time of the day, with the date if it is another day. */
export function when(ms) {
  if (!ms) return "";
  const time = new Date(ms);
  const clock = time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return time.toDateString() === new Date().toDateString() ? clock : `${time.toLocaleDateString()} ${clock}`;
}

export function plural(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}

/** Custom properties that were read. Reading one may compute the style again. */
const read = new Map();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => read.clear());

/** The value of a custom property of the style. */
export function colour(name) {
  if (!read.has(name)) read.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return read.get(name);
}

/** Calls `f` at most once in `ms`, and once after the last call. Waits for its promise before it calls it again. */
export function throttle(f, ms) {
  let timer = null, last = -Infinity, isBusy = false, isWanted = false;
  const call = () => {
    if (isBusy) { isWanted = true; return; }
    if (timer !== null) return;
    timer = setTimeout(async () => {
      timer = null;
      isBusy = true;
      try {
        await f();
      } finally {
        last = performance.now();
        isBusy = false;
        if (isWanted) { isWanted = false; call(); }
      }
    }, Math.max(0, last + ms - performance.now()));
  };
  return call;
}

/** Calls `f` when `ms` have passed without a call. */
export function debounce(f, ms) {
  let timer = null;
  return (...args) => { clearTimeout(timer); timer = setTimeout(() => f(...args), ms); };
}

/** A coloured dot with a status. */
export function statusBadge(status) {
  return el("span", { class: `status ${String(status).replaceAll(" ", "-")}` }, status);
}

/** Names of points without what all of them have in common: `lr=0.1` for `net@lr=0.1,batch=16` beside `net@lr=0.2,batch=16`. */
export function shortNames(names) {
  const all = names.map((name) => {
    const [stage, rest] = name.includes("@") ? [name.slice(0, name.indexOf("@")), name.slice(name.indexOf("@") + 1)] : [name, ""];
    return { name, stage, parts: rest ? rest.split(/,(?=[^,=]+=)/) : [] };
  });
  const counts = new Map();
  for (const part of all.flatMap((one) => [...new Set(one.parts)])) counts.set(part, (counts.get(part) ?? 0) + 1);
  const isCommon = (part) => counts.get(part) === all.length;
  const isOneStage = all.every((one) => one.stage === all[0].stage);
  return new Map(all.map(({ name, stage, parts }) => {
    const own = parts.filter((part) => !isCommon(part)).join(", ");
    const short = isOneStage ? own : [stage, own].filter(Boolean).join(" ");
    return [name, all.length > 1 && short ? short : name];
  }));
}

/** A message in place of what is missing. */
export function empty(...text) {
  return el("p", { class: "empty" }, ...text);
}

/** Colours of n things: from the palette, or along a scale if there are many or they are ordered. */
export function palette(index) {
  return colour(`--c${index % 10}`);
}

/** A colour of the scale; `at` is from 0 to 1. */
export function scale(at) {
  const last = 9;
  const place = Math.min(Math.max(at, 0), 1) * last;
  const left = Math.min(Math.floor(place), last - 1);
  const parse = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const [a, b] = [parse(colour(`--v${left}`)), parse(colour(`--v${left + 1}`))];
  return `rgb(${a.map((v, i) => Math.round(v + (b[i] - v) * (place - left))).join(" ")})`;
}

/** Puts these children into a node without moving those that stay, so that they keep the focus. */
export function arrange(node, children) {
  const wanted = new Set(children);
  for (const child of [...node.children]) if (!wanted.has(child)) child.remove();
  children.forEach((child, at) => { if (node.children[at] !== child) node.insertBefore(child, node.children[at] ?? null); });
}

/** Replaces the options of a list if they differ. An option is its value and its text. */
export function options(select, all, chosen) {
  const text = JSON.stringify(all);
  if (select.dataset.options !== text) {
    select.dataset.options = text;
    select.replaceChildren(...all.map(([value, label]) => option(value, label)));
  }
  if (select.value !== String(chosen)) select.value = String(chosen);
}

/** Sets a text if it differs, so that it is announced only then. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
