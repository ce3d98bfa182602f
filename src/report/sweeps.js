// A sweep: its table's rows and its plot's lines are the same points, in the same order at first.
for (const part of document.querySelectorAll(".sweep")) {
  if (!part.querySelector(".parallel")) continue;
  const table = part.querySelector("table.sortable");
  const plot = part.querySelector(".parallel");
  const rows = [...table.tBodies[0].rows];
  const lines = new Map([...plot.querySelectorAll(".line")].map((line) => [Number(line.dataset.p), line]));
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, at) => row.cells[at].dataset.v ?? row.cells[at].textContent.trim();
  const controls = document.createElement("div");
  controls.className = "controls";
  const group = (title, choices, press) => {
    const set = document.createElement("div");
    set.setAttribute("role", "group");
    set.setAttribute("aria-label", title);
    const label = document.createElement("span");
    label.textContent = title;
    set.append(label);
    const buttons = choices.map(([text, what]) => button(text, false, (made) => press(made, what, buttons)));
    set.append(...buttons);
    controls.append(set);
    return buttons;
  };
  // Colour by another figure: ten colours from the lowest to the highest.
  const legend = part.querySelector(".parallel-key b");
  const ends = part.querySelectorAll(".parallel-key .ramp > span:not(.steps)");
  const colour = (at) => {
    const known = rows.map((row, p) => [value(row, at), p]).filter(([v]) => v !== "").map(([v, p]) => [Number(v), p]);
    const [low, high] = [Math.min(...known.map(([v]) => v)), Math.max(...known.map(([v]) => v))];
    const classes = [...Array(10).keys()].map((step) => `v${step}`);
    lines.forEach((line) => line.classList.remove(...classes));
    for (const [v, p] of known) {
      const share = high > low ? (v - low) / (high - low) : 0.5;
      lines.get(p)?.classList.add(classes[Math.min(9, Math.floor(share * 10))]);
    }
    legend.textContent = heads[at].textContent.trim();
    ends[0].textContent = figure(low);
    ends[1].textContent = figure(high);
  };
  const figures = heads.map((head, at) => [head.textContent.trim(), at]).filter(([, at]) => heads[at].dataset.colour);
  const buttons = group("colour", figures, (button, at, all) => {
    all.forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
    colour(at);
  });
  buttons.find((b) => b.textContent === legend.textContent)?.setAttribute("aria-pressed", "true");
  // Show only points with chosen values of an axis.
  const chosen = new Map();
  const filter = () => {
    rows.forEach((row, p) => {
      const shown = [...chosen].every(([at, values]) => values.size === 0 || values.has(value(row, at)));
      row.hidden = !shown;
      lines.get(p)?.classList.toggle("off", !shown);
    });
  };
  heads.forEach((head, at) => {
    const values = [...new Set(rows.map((row) => value(row, at)))];
    if (values.every((v) => !Number.isNaN(Number(v)))) values.sort((a, b) => a - b);
    if (!head.dataset.axis || values.length < 2 || values.length > 12) return;
    chosen.set(at, new Set());
    group(head.textContent.trim(), values.map((v) => [v, v]), (button, v) => {
      const on = !isPressed(button);
      button.setAttribute("aria-pressed", String(on));
      chosen.get(at)[on ? "add" : "delete"](v);
      filter();
    });
  });
  part.querySelector(".parallel-key").before(controls);
  // A row's name stands for its line: seen while it is pointed at or has the focus, and for longer once pressed.
  const mark = (p, on) => {
    lines.get(p)?.classList.toggle("chosen", on);
    rows[p].classList.toggle("chosen", on);
    plot.classList.toggle("alone", plot.querySelector(".line.chosen") !== null);
    if (on) lines.get(p)?.parentNode.append(lines.get(p));
  };
  rows.forEach((row, p) => {
    const picked = asButton(row.cells[0], false, (made) => {
      made.setAttribute("aria-pressed", String(!isPressed(made)));
      mark(p, isPressed(made));
    });
    const line = lines.get(p);
    for (const from of [row, line]) {
      from?.addEventListener("pointerenter", () => mark(p, true));
      from?.addEventListener("pointerleave", () => { mark(p, isPressed(picked)); hideTip(); });
    }
    picked.addEventListener("focus", () => mark(p, true));
    picked.addEventListener("blur", () => mark(p, isPressed(picked)));
    line?.querySelector("title")?.remove();
    line?.addEventListener("pointermove", (event) => {
      const cells = heads.slice(1).map((head, at) => element("tr", {}, element("td", {}, head.textContent), element("td", {}, row.cells[at + 1].textContent)));
      showTip(event, element("b", {}, row.cells[0].textContent), element("table", {}, ...cells));
    });
    line?.addEventListener("click", () => picked.click());
  });
}
