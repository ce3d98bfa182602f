// Sorting of tables, picking of classes, and of points of a sweep. The report says everything without this, too.
"use strict";
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
for (const part of document.querySelectorAll(".embedding")) {
  const buttons = [...part.querySelectorAll(".legend.classes li")].map((item) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.append(...item.childNodes);
    item.append(button);
    button.addEventListener("click", () => {
      const chosen = button.getAttribute("aria-pressed") === "true" ? null : item.dataset.k;
      buttons.forEach((b) => b.setAttribute("aria-pressed", String(b === button && chosen !== null)));
      for (const plot of part.querySelectorAll(".scatter")) {
        plot.classList.toggle("alone", chosen !== null);
        for (const path of plot.querySelectorAll("path")) path.classList.toggle("chosen", path.dataset.k === chosen);
      }
    });
    return button;
  });
}
// A sweep: its table's rows and its plot's lines are the same points, in the same order at first.
for (const part of document.querySelectorAll(".sweep")) {
  const table = part.querySelector("table");
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
    const buttons = choices.map(([text, what]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => press(button, what, buttons));
      set.append(button);
      return button;
    });
    controls.append(set);
    return buttons;
  };
  const pressed = (button) => button.getAttribute("aria-pressed") === "true";
  // Colour by another figure: five colours from the lowest to the highest.
  const legend = part.querySelector(".ramp b");
  const colour = (at) => {
    const known = rows.map((row, p) => [value(row, at), p]).filter(([v]) => v !== "").map(([v, p]) => [Number(v), p]);
    const [low, high] = [Math.min(...known.map(([v]) => v)), Math.max(...known.map(([v]) => v))];
    lines.forEach((line) => line.classList.remove("q0", "q1", "q2", "q3", "q4"));
    for (const [v, p] of known) {
      const share = high > low ? (v - low) / (high - low) : 0.5;
      lines.get(p)?.classList.add(`q${Math.min(4, Math.floor(share * 5))}`);
    }
    legend.textContent = heads[at].textContent.trim();
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
      const on = !pressed(button);
      button.setAttribute("aria-pressed", String(on));
      chosen.get(at)[on ? "add" : "delete"](v);
      filter();
    });
  });
  part.querySelector(".ramp").before(controls);
  // A row's name stands for its line: seen while it is pointed at or has the focus, and for longer once pressed.
  const mark = (p, on) => {
    lines.get(p)?.classList.toggle("chosen", on);
    rows[p].classList.toggle("chosen", on);
    plot.classList.toggle("alone", plot.querySelector(".line.chosen") !== null);
    if (on) lines.get(p)?.parentNode.append(lines.get(p));
  };
  rows.forEach((row, p) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.append(...row.cells[0].childNodes);
    row.cells[0].append(button);
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(!pressed(button)));
      mark(p, pressed(button));
    });
    const line = lines.get(p);
    for (const from of [row, line]) {
      from?.addEventListener("pointerenter", () => mark(p, true));
      from?.addEventListener("pointerleave", () => mark(p, pressed(button)));
    }
    button.addEventListener("focus", () => mark(p, true));
    button.addEventListener("blur", () => mark(p, pressed(button)));
    line?.addEventListener("click", () => button.click());
  });
}
