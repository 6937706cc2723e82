// A part of a page where something is being made: the console draws it anew until it is done. What people type in the
// other parts stays, unless all of the page tells of what was made.
import { redraw } from "./redraw.js";

const PERIOD_MS = 2000;
const part = document.querySelector("[data-making]");

async function look() {
  const page = await fetch(location.href).then((answer) => (answer.ok ? answer.text() : ""), () => "");
  const now = new DOMParser().parseFromString(page, "text/html").getElementById(part.id);
  if (!now || "making" in now.dataset) {
    if (now) redraw(part, now.innerHTML);
    setTimeout(look, PERIOD_MS);
  } else if (part.dataset.making === "reload") {
    location.reload();
  } else {
    redraw(part, now.innerHTML);
  }
}

setTimeout(look, PERIOD_MS);
