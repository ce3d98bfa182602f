// Sorting of tables and picking of classes. The report says everything without this, too.
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
