// New pictures: reviewing them by mouse or keyboard, and following a retraining. upload.js sends them.
import { ask } from "./ask.js";

const queue = document.querySelector("#queue");

/** Return the next picture that waits, after this one or from the first. */
function next(figure) {
  const waiting = [...queue.querySelectorAll("figure:not(.done)")];
  return waiting.find((each) => figure.compareDocumentPosition(each) & Node.DOCUMENT_POSITION_FOLLOWING) ?? waiting[0];
}

async function decide(figure, decision) {
  if (!figure || figure.dataset.sending !== undefined) return; // its answer is on the way
  const wanted = { dataset: queue.dataset.dataset, sha256: [figure.dataset.sha], decision };
  const { label, fresh } = figure.dataset;
  if (decision === "accept" && fresh !== undefined && !confirm(`${label} is a new class. Accept the picture, and teach the class?`)) return;
  if (decision === "relabel") {
    wanted.label = await rightClass(figure, label);
    if (!wanted.label) return;
    if (!isKnown(wanted.label) && !confirm(`${wanted.label} is a new class. Accept the picture, and teach the class?`)) return;
  }
  const caption = figure.querySelector("figcaption");
  figure.dataset.sending = "";
  caption.querySelector(".failed")?.remove();
  figure.classList.add("done");
  next(figure)?.focus(); // at once: the next key is for the next picture
  try {
    const { uploads: [record] } = await ask("POST", "/review", JSON.stringify(wanted));
    caption.textContent = `${record.state} as ${record.label}`; // the buttons still change it
    const left = queue.querySelectorAll("figure:not(.done)").length;
    document.querySelector("#left").textContent = `${left} on this page wait`;
  } catch (error) {
    figure.classList.remove("done");
    const said = Object.assign(document.createElement("p"), { className: "bad failed", textContent: error.message });
    caption.append(said);
    figure.focus();
  } finally {
    delete figure.dataset.sending;
  }
}

/** Whether the dataset has the class, as the server compares names. */
function isKnown(label) {
  const plain = (text) => text.trim().replace(/\s+/g, " ").toLowerCase();
  return [...document.querySelectorAll("#classes option")].some((option) => plain(option.value) === plain(label));
}

/** Ask below a picture for its class, from the dataset's or a new one. Escape, or another picture, gives none. */
function rightClass(figure, label) {
  document.querySelector("form.relabel")?.dispatchEvent(new Event("given-up"));
  const form = Object.assign(document.createElement("form"), { className: "relabel" });
  const input = Object.assign(document.createElement("input"), { value: label, maxLength: 100, required: true });
  input.setAttribute("list", "classes");
  input.setAttribute("aria-label", "The right class; Enter accepts it");
  form.append(input);
  figure.querySelector(".buttons").before(form);
  input.focus();
  input.select();
  return new Promise((resolve) => {
    const end = (found) => { form.remove(); figure.focus(); resolve(found); };
    form.addEventListener("submit", (event) => { event.preventDefault(); end(input.value.trim()); });
    form.addEventListener("keydown", (event) => { if (event.key === "Escape") end(""); });
    form.addEventListener("given-up", () => end(""));
  });
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
    article.querySelector(".alias").textContent = found.state;
    const upload = document.querySelector("#upload");
    const sends = upload.querySelector("button").disabled || upload.label.value || upload.file.files.length;
    if (found.state !== state && !["waiting", "running"].includes(found.state) && !sends) location.reload();
  } catch (error) {
    article.querySelector(".step").textContent = error.message;
  }
}

const open = [...document.querySelectorAll(".retraining")].filter(({ dataset }) => ["waiting", "running"].includes(dataset.state));
open.forEach(follow);
if (open.length) setInterval(() => open.forEach(follow), 2000);
