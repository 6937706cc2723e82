// New pictures: reviewing them by mouse or keyboard, and following a retraining. upload.js sends them.
import { ask } from "./ask.js";

const queue = document.querySelector("#queue");

/** Return the next picture that waits, after this one or from the first. */
function next(figure) {
  const waiting = [...queue.querySelectorAll("figure:not(.done)")];
  return waiting.find((each) => figure.compareDocumentPosition(each) & Node.DOCUMENT_POSITION_FOLLOWING) ?? waiting[0];
}

async function decide(figure, decision) {
  if (!figure || figure.classList.contains("done")) return; // also while its answer is on the way
  const wanted = { dataset: queue.dataset.dataset, sha256: [figure.dataset.sha], decision };
  const { label, fresh } = figure.dataset;
  if (decision === "accept" && fresh !== undefined && !confirm(`${label} is a new class. Accept the picture, and teach the class?`)) return;
  if (decision === "relabel") {
    const right = prompt("The right class", label);
    if (!right) return;
    wanted.label = right;
  }
  const caption = figure.querySelector("figcaption");
  caption.querySelector(".failed")?.remove();
  figure.classList.add("done");
  next(figure)?.focus(); // at once: the next key is for the next picture
  try {
    const { uploads: [record] } = await ask("POST", "/review", JSON.stringify(wanted));
    caption.textContent = `${record.state} as ${record.label}`;
    const left = queue.querySelectorAll("figure:not(.done)").length;
    document.querySelector("#left").textContent = `${left} on this page wait`;
  } catch (error) {
    figure.classList.remove("done");
    const said = Object.assign(document.createElement("p"), { className: "bad failed", textContent: error.message });
    caption.append(said);
    figure.focus();
  }
}

queue?.addEventListener("click", (event) => {
  const { do: decision } = event.target.dataset;
  if (decision) decide(event.target.closest("figure"), decision);
});
/** The keys work on all of the page, but where somebody types. */
document.addEventListener("keydown", (event) => {
  if (!queue || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea")) return;
  const figure = event.target.closest("#queue figure:not(.done)") ?? queue.querySelector("figure:not(.done)");
  if (!figure) return;
  const decision = { a: "accept", r: "reject", l: "relabel" }[event.key];
  if (decision) { event.preventDefault(); decide(figure, decision); }
  if (event.key === "ArrowRight") figure.nextElementSibling?.focus();
  if (event.key === "ArrowLeft") figure.previousElementSibling?.focus();
});

async function follow(article) {
  const { id, state } = article.dataset;
  try {
    const found = await ask("GET", `/retrain/${id}`);
    const { epoch, epochs, trials, of } = found.progress;
    const far = epochs ? `, epoch ${epoch} of ${epochs}` : of ? `, trial ${trials} of ${of}` : "";
    article.querySelector(".step").textContent = `${found.step || found.state}${far}`;
    const upload = document.querySelector("#upload");
    const sends = upload.querySelector("button").disabled || upload.label.value || upload.file.files.length;
    if (found.state !== state && !["waiting", "running"].includes(found.state) && !sends) location.reload();
  } catch (error) {
    article.querySelector(".step").textContent = error.message;
  }
}

const open = [...document.querySelectorAll(".retraining")].filter(({ dataset }) => ["waiting", "running"].includes(dataset.state));
if (open.length) setInterval(() => open.forEach(follow), 2000);
