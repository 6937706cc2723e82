// Every table sorts: a press on a heading, by mouse or keyboard, orders its rows.
const NUMBER = /^[+-]?[\d,]*\.?\d+(e[+-]?\d+)?%?$/i;
const chosen = new Map(); // by the table's label: the heading and the direction, which a redrawn table keeps

function number(text) {
  return NUMBER.test(text) ? Number.parseFloat(text.replaceAll(",", "")) : null;
}

/** Order as numbers where both are numbers, otherwise as text; what is missing stands last in both directions. */
function compared(one, other, up) {
  if ((one === "–") !== (other === "–")) return one === "–" ? 1 : -1;
  const [first, second] = [number(one), number(other)];
  const order = first !== null && second !== null ? first - second : one.localeCompare(other);
  return up ? order : -order;
}

const labelOf = (table) => table.closest("[aria-label]")?.getAttribute("aria-label") ?? "";

function sort(heading, up) {
  const table = heading.closest("table");
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  const text = (row) => (row.cells[heading.cellIndex]?.textContent ?? "").trim();
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort((one, other) => compared(text(one), text(other), up)));
}

document.addEventListener("click", (event) => {
  const heading = event.target.closest("th button.sort")?.closest("th");
  if (!heading) return;
  const up = heading.getAttribute("aria-sort") !== "ascending";
  chosen.set(labelOf(heading.closest("table")), [heading.textContent.trim(), up]);
  sort(heading, up);
});

/** Turn the headings of tables with more than one row into buttons, and order a table that was drawn anew. */
function prepare() {
  for (const heading of document.querySelectorAll("thead th")) {
    const text = heading.textContent.trim();
    const table = heading.closest("table");
    if (!text || heading.querySelector("button") || table.tBodies[0].rows.length < 2) continue;
    const button = document.createElement("button");
    button.className = "sort";
    button.textContent = text;
    heading.replaceChildren(button);
    const [name, up] = chosen.get(labelOf(table)) ?? [];
    if (name === text) sort(heading, up);
  }
}

prepare();
new MutationObserver(prepare).observe(document.querySelector("main"), { childList: true, subtree: true });
