// A part of a page that is drawn anew while somebody looks at it.

/** Say where on the page an element is, in words that its successor has too. */
function place(element) {
  const part = element.closest("[aria-label]")?.getAttribute("aria-label") ?? "";
  return [element.tagName, part, element.tagName === "DIV" ? "" : element.textContent.trim()].join("\n");
}

/** Replace what is in an element, and leave the keyboard where it was. */
export function redraw(element, html) {
  const at = element.contains(document.activeElement) ? place(document.activeElement) : null;
  element.innerHTML = html; // the console's own template made it, which escapes all text
  if (at === null) return;
  // In the next frame, because sort.js makes buttons of headings first.
  requestAnimationFrame(() => {
    const found = [...element.querySelectorAll("button, a, summary, [tabindex]")].find((each) => place(each) === at);
    found?.focus({ preventScroll: true });
  });
}
