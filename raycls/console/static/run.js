// The curves of a running training: the console sends them whenever they change.
import { root } from "./ask.js";

const charts = document.querySelector("#charts");
const source = new EventSource(`${root}/runs/${encodeURIComponent(charts.dataset.id)}/events`);
source.addEventListener("message", (event) => {
  const { charts: drawn, status } = JSON.parse(event.data);
  if (drawn) charts.innerHTML = drawn; // the console makes it of numbers and of names that it knows
  if (status !== "RUNNING") {
    source.close();
    location.reload();
  }
});
