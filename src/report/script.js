// The report says everything without scripts, too. This one has what the others use, sorts tables and follows the contents.
const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};
const button = (text, pressed, press) => {
  const made = element("button", { type: "button" }, text);
  if (pressed !== null) made.setAttribute("aria-pressed", String(pressed));
  made.addEventListener("click", () => press(made));
  return made;
};
// Makes an item of a list a button.
const asButton = (item, pressed, press) => {
  const made = button("", pressed, press);
  made.append(...item.childNodes);
  item.append(made);
  return made;
};
const isPressed = (button) => button.getAttribute("aria-pressed") === "true";
// A figure with four digits, as in the page itself.
const figure = (v) => {
  if (!Number.isFinite(v)) return "–";
  const size = Math.abs(v);
  const whole = Math.floor(Math.log10(size)) + 1;
  const text = v === 0 ? "0" : Number.isInteger(v) && size < 1e9 ? size.toFixed(0)
    : size >= 1e-4 && size < 1e6 ? size.toFixed(Math.max(0, Math.min(8, 4 - whole))) : size.toExponential(3);
  return v < 0 ? `−${text}` : text;
};
// A box beside the pointer.
const tip = element("div", { class: "tip", hidden: "" });
document.body.append(tip);
const showTip = (event, ...content) => {
  tip.replaceChildren(...content);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const right = event.clientX + 16 + width > innerWidth;
  tip.style.left = `${Math.max(4, right ? event.clientX - 16 - width : event.clientX + 16)}px`;
  tip.style.top = `${Math.max(4, Math.min(innerHeight - height - 4, event.clientY + 16))}px`;
};
const hideTip = () => { tip.hidden = true; };

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  if (body.rows.length < 2) continue;
  const key = (row, at) => row.cells[at].dataset.v ?? row.cells[at].textContent.trim();
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  };
  heads.forEach((head, at) => {
    if (head.textContent === "") return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sign = down ? -1 : 1;
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a, at), key(b, at)];
        // Empty cells stay at the end either way.
        return x === "" || y === "" ? compare(x, y) : sign * compare(x, y);
      });
      body.append(...rows);
    });
  });
}
// The contents follow the page.
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
if (links.size > 0 && "IntersectionObserver" in window) {
  const visible = new Set();
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) visible[isIntersecting ? "add" : "delete"](target.id);
    const current = [...links.keys()].find((id) => visible.has(id));
    if (current === undefined) return;
    for (const [id, link] of links) {
      if (id !== current) link.removeAttribute("aria-current");
      else if (!link.hasAttribute("aria-current")) {
        link.setAttribute("aria-current", "true");
        const list = link.closest("ol");
        list.scrollTo({ left: link.offsetLeft - list.offsetLeft - 16, top: link.offsetTop - list.offsetTop - 64 });
      }
    }
  }, { rootMargin: "-12% 0px -75% 0px" });
  for (const id of links.keys()) if (document.getElementById(id)) observer.observe(document.getElementById(id));
}
