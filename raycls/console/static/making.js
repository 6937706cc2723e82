// A part of a page where something is being made: the console draws it anew until it is done. What people type in the
// other parts stays, unless all of the page tells of what was made.
import { redraw } from "./redraw.js";

const PERIOD_MS = 2000;
const MOST_FAILED = 15; // times in a row that nothing useful answers
const part = document.querySelector("[data-making]");
let failed = 0;

async function look() {
  const answer = await fetch(location.href).catch(() => null);
  const page = answer?.ok ? await answer.text().catch(() => "") : "";
  const now = new DOMParser().parseFromString(page, "text/html").getElementById(part.id);
  // Refused, or another page (sign-in): the person reads why. A server that is away comes back.
  const refused = answer && !now && answer.status < 500;
  failed = now ? 0 : failed + 1;
  if (refused || failed > MOST_FAILED) {
    location.reload();
  } else if (!now || "making" in now.dataset) {
    if (now) redraw(part, now.innerHTML);
    setTimeout(look, PERIOD_MS);
  } else if (part.dataset.making === "reload") {
    location.reload();
  } else {
    delete part.dataset.making;
    redraw(part, now.innerHTML);
  }
}

setTimeout(look, PERIOD_MS);
