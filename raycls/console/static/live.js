// What the server does now and did in the last hour: the console draws it anew every five seconds.
import { root } from "./ask.js";
import { redraw } from "./redraw.js";

const PERIOD_MS = 5000;
const hour = document.querySelector("#hour");

async function look() {
  if (document.hidden) return; // nobody looks
  const status = document.querySelector("#lost");
  try {
    const lost = () => { throw new Error("the console does not answer: is the server still there?"); };
    const answer = await fetch(`${root}/live/hour`, { headers: { Accept: "application/json" } }).catch(lost);
    if (answer.status === 404) throw new Error("the console is being started");
    if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).detail ?? `the console answered ${answer.status}`);
    redraw(hour, await answer.text());
    status.hidden = true;
  } catch (error) {
    status.textContent = `These figures are old: ${error.message}`;
    status.hidden = false;
  }
}

setInterval(look, PERIOD_MS);
