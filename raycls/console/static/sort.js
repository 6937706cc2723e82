// Every table sorts: a press on a heading, by mouse or keyboard, orders its rows.
const number = (text) => {
  const found = Number.parseFloat(text.replaceAll(",", ""));
  return Number.isNaN(found) ? null : found;
};

/** Order as numbers where both are numbers, otherwise as text; what is no number stands last. */
function compared(one, other) {
  const [first, second] = [number(one), number(other)];
  if (first !== null && second !== null) return first - second;
  if ((first === null) !== (second === null)) return first === null ? 1 : -1;
  return one.localeCompare(other);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("th button.sort");
  if (!button) return;
  const heading = button.closest("th");
  const body = heading.closest("table").tBodies[0];
  const place = heading.cellIndex;
  const up = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  const text = (row) => (row.cells[place]?.textContent ?? "").trim();
  const rows = [...body.rows].sort((one, other) => compared(text(one), text(other)) * (up ? 1 : -1));
  body.append(...rows);
});

/** Turn the headings of tables with more than one row into buttons. */
function prepare() {
  for (const heading of document.querySelectorAll("thead th")) {
    const text = heading.textContent.trim();
    if (!text || heading.querySelector("button") || heading.closest("table").tBodies[0].rows.length < 2) continue;
    const button = document.createElement("button");
    button.className = "sort";
    button.textContent = text;
    heading.replaceChildren(button);
  }
}

prepare();
new MutationObserver(prepare).observe(document.querySelector("main"), { childList: true, subtree: true });
