// A running training or study: the console sends what changes on the page whenever it changes.
import { root } from "./ask.js";
import { redraw } from "./redraw.js";

const live = document.querySelector("#live");
const source = new EventSource(`${root}/runs/${encodeURIComponent(live.dataset.id)}/events`);
source.addEventListener("message", (event) => {
  const { live: drawn, status } = JSON.parse(event.data);
  redraw(live, drawn);
  if (status !== "RUNNING") {
    source.close();
    location.reload();
  }
});
