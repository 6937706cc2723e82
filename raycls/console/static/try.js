// The first page: a picture goes to the model, and its answer is drawn.
import { ask, root } from "./ask.js";

const results = document.querySelector("#results");
const drop = document.querySelector("#drop");
const EXPLAIN_TRIES = 3; // each up to seven seconds: the first starts a process
const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

function bars(element, classes) {
  element.setAttribute("viewBox", `0 0 400 ${classes.length * 30}`);
  element.setAttribute("aria-label", classes.map((each) => `${each.class_name} ${percent(each.confidence)}`).join(", "));
  classes.forEach((each, row) => {
    const y = row * 30;
    element.append(
      svg("text", { x: 0, y: y + 13 }, shortened(each.class_name)),
      svg("text", { x: 400, y: y + 13, "text-anchor": "end" }, percent(each.confidence)),
      svg("rect", { x: 0, y: y + 18, width: 400, height: 6, rx: 3 }),
      svg("rect", { x: 0, y: y + 18, width: Math.max(1, 400 * each.confidence), height: 6, rx: 3, class: "share" }),
    );
  });
}

const percent = (share) => `${(100 * share).toFixed(1)}%`;
const shortened = (text) => (text.length > 40 ? `${text.slice(0, 39)}…` : text);

async function tryOne(file) {
  const card = document.querySelector("#result").content.firstElementChild.cloneNode(true);
  const part = (selector) => card.querySelector(selector);
  results.prepend(card);
  part(".given").addEventListener("error", (event) => event.target.remove());
  part(".given").src = URL.createObjectURL(file);
  part(".file").textContent = file.name ?? "";
  part("h2").textContent = "…";
  const explain = document.querySelector("#explain").checked;
  const started = performance.now();
  const fail = (message) => {
    part("h2").textContent = "No answer";
    part(".facts").textContent = message;
    part(".facts").classList.add("bad");
  };
  if (file.type && !file.type.startsWith("image/")) return void fail("this is no picture");
  let found;
  try {
    found = await ask("POST", "/try", file, "application/octet-stream");
  } catch (error) {
    return void fail(error.message);
  }
  part("h2").textContent = found.rejected
    ? `Not sure: perhaps ${found.class_name}, ${percent(found.confidence)}`
    : `${found.class_name}, ${percent(found.confidence)}`;
  const limit = limitOf(found);
  part(".facts").textContent = `${limit ? `${limit}; ` : ""}version ${found.model_version} answered in ${Math.round(performance.now() - started)} ms`;
  bars(part(".bars"), found.top_k);
  suggest(found.top_k.map((each) => each.class_name));
  if (results.dataset.maySay && found.prediction_id) correction(part(".wrong"), found.prediction_id);
  if (explain) await explained(file, part);
}

/** Say what the threshold of `raycls reject` is for an answer; nothing where the page knows of none. */
function limitOf(found) {
  const { rejection, version } = JSON.parse(results.dataset.model);
  if (!rejection || found.rejected === undefined || found.model_version !== version) return "";
  const limit = Object.hasOwn(rejection.by_class, found.class_name) ? rejection.by_class[found.class_name] : rejection.threshold;
  const wished = `for ${percent(rejection.precision)} right answers`;
  return limit === null ? `no answer of this class is sure enough ${wished}` : `sure from ${percent(limit)} on, ${wished}`;
}

/** Add the explanation, which comes later than the answer: its process may have to start. Some networks have none. */
async function explained(file, part) {
  const facts = part(".facts").textContent;
  part(".facts").textContent = `${facts}; the explanation is being made …`;
  let found;
  for (let tries = 0; tries < EXPLAIN_TRIES && !found; tries += 1) {
    try {
      found = await ask("POST", "/try?explain=true", file, "application/octet-stream");
    } catch (error) {
      if (error.status !== 429) {
        part(".facts").textContent = `${facts}; ${error.message}`;
        return;
      }
    }
  }
  part(".facts").textContent = found ? facts : `${facts}; there was no time for an explanation`;
  if (!found) return;
  const overlay = part(".overlay");
  part(".seen").src = `data:image/png;base64,${found.seen_png_base64}`;
  overlay.src = `data:image/png;base64,${found.explanation_png_base64}`;
  part(".explained").hidden = false;
  const slide = part(".slide input");
  const show = () => { overlay.style.opacity = slide.value / 100; };
  slide.addEventListener("input", show);
  show();
}

/** Let a correction choose among the classes that were seen. */
function suggest(names) {
  const list = document.querySelector("#classes");
  const known = new Set([...list.children].map((option) => option.value));
  for (const name of names) {
    if (known.has(name)) continue;
    const option = document.createElement("option");
    option.value = name;
    list.append(option);
  }
}

function correction(form, predictionId) {
  form.hidden = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const status = form.querySelector("[role=status]");
    try {
      await ask("POST", "/correct", JSON.stringify({ prediction_id: predictionId, label: form.label.value.trim() }));
      status.textContent = "Thank you: it waits for a review.";
      form.querySelector("button").disabled = form.label.disabled = true; // an answer takes it once
    } catch (error) {
      status.textContent = error.message;
    }
  });
}

async function tryAll(files) {
  for (const file of files) await tryOne(file);
}

for (const input of document.querySelectorAll("#files, #camera")) {
  input.addEventListener("change", () => tryAll([...input.files]).then(() => { input.value = ""; }));
}
drop?.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
drop?.addEventListener("dragleave", () => drop.classList.remove("over"));
drop?.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  tryAll([...event.dataTransfer.files]);
});
document.addEventListener("paste", (event) => tryAll([...event.clipboardData.files]));

/** Offer pictures of the test split, to those who may see the data. */
async function offer(section) {
  const { pictures } = await ask("GET", "/samples");
  for (const path of pictures) {
    const button = document.createElement("button");
    const image = document.createElement("img");
    [image.src, image.alt] = [root + path, `try picture ${path.split("/").at(-1)} of the test split`];
    button.append(image);
    button.addEventListener("click", async () => {
      const answered = await fetch(image.src);
      if (answered.ok) tryOne(new File([await answered.blob()], `test picture ${path.split("/").at(-1)}`));
    });
    section.querySelector(".samples").append(button);
  }
  section.hidden = !pictures.length;
}

const samples = document.querySelector("#samples");
if (samples) offer(samples).catch(() => {}); // without them, one's own pictures still work
