// New pictures: sending, reviewing by mouse or keyboard, and following a retraining.
import { ask, root, csrf } from "./ask.js";

const upload = document.querySelector("#upload");
const LARGEST = 8 << 20; // bytes of one request with pictures
const MOST = 50; // pictures of one request

/** Send a body with progress, which fetch does not tell. */
function send(body, type, told) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `${root}/upload`);
    request.setRequestHeader("Accept", "application/json");
    request.setRequestHeader("X-Csrf", csrf);
    if (type) request.setRequestHeader("Content-Type", type);
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => told(event.loaded));
    request.addEventListener("load", () => {
      if (request.status === 200) resolve(request.response);
      else reject(new Error(request.response?.detail ?? `the console answered ${request.status}`));
    });
    request.addEventListener("error", () => reject(new Error("the connection was lost: send the rest again; what was taken is known")));
    request.send(body);
  });
}

/** Return lists of files that travel together. */
function inParts(files) {
  const parts = [];
  let bytes = 0;
  for (const file of files) {
    if (!parts.length || bytes + file.size > LARGEST || parts.at(-1).length === MOST) { parts.push([]); bytes = 0; }
    parts.at(-1).push(file);
    bytes += file.size;
  }
  return parts;
}

upload.addEventListener("submit", async (event) => {
  event.preventDefault();
  const status = upload.querySelector("[role=status]");
  const progress = upload.querySelector("progress");
  const button = upload.querySelector("button");
  const files = [...upload.file.files];
  const zips = files.filter((file) => file.name.toLowerCase().endsWith(".zip"));
  const pictures = files.filter((file) => !zips.includes(file));
  const label = upload.label.value.trim();
  if (pictures.length && !label) { status.textContent = "Say which class the pictures have."; return; }
  const total = files.reduce((sum, file) => sum + file.size, 0);
  const sum = { taken: 0, known: 0, refused: 0 };
  let before = 0;
  const told = (loaded) => {
    progress.value = total ? Math.min(1, (before + loaded) / total) : 1;
    status.textContent = progress.value < 1
      ? `sent ${Math.round(100 * progress.value)}%; ${sum.taken} taken so far`
      : "sent; the server checks the pictures …";
  };
  const add = (found) => {
    for (const key of Object.keys(sum)) sum[key] += found[key].length;
    for (const each of found.refused) {
      const item = document.createElement("li");
      item.textContent = `${each.file}: ${each.reason}`;
      document.querySelector("#refused").append(item);
    }
  };
  progress.hidden = false;
  button.disabled = true;
  document.querySelector("#refused").replaceChildren();
  told(0);
  try {
    for (const part of inParts(pictures)) {
      const form = new FormData();
      form.append("label", label);
      for (const file of part) form.append("file", file);
      add(await send(form, "", told));
      before += part.reduce((bytes, file) => bytes + file.size, 0);
    }
    for (const zip of zips) {
      add(await send(zip, "application/zip", told));
      before += zip.size;
    }
    status.textContent = `${sum.taken} taken, ${sum.known} known, ${sum.refused} refused.`;
    if (sum.taken && document.querySelector("#queue")) setTimeout(() => location.reload(), sum.refused ? 4000 : 800);
  } catch (error) {
    status.textContent = `${error.message} (${sum.taken} taken)`;
  } finally {
    progress.hidden = true;
    button.disabled = false;
  }
});

const queue = document.querySelector("#queue");

/** Return the next picture that waits, after this one or from the first. */
function next(figure) {
  const waiting = [...queue.querySelectorAll("figure:not(.done)")];
  return waiting.find((each) => figure.compareDocumentPosition(each) & Node.DOCUMENT_POSITION_FOLLOWING) ?? waiting[0];
}

async function decide(figure, decision) {
  if (!figure || figure.classList.contains("done")) return; // also while its answer is on the way
  const wanted = { dataset: queue.dataset.dataset, sha256: [figure.dataset.sha], decision };
  if (decision === "relabel") {
    const label = prompt("The right class", figure.dataset.label);
    if (!label) return;
    wanted.label = label;
  }
  const caption = figure.querySelector("figcaption");
  figure.classList.add("done");
  next(figure)?.focus(); // at once: the next key is for the next picture
  try {
    const { uploads: [record] } = await ask("POST", "/review", JSON.stringify(wanted));
    caption.textContent = `${record.state} as ${record.label}`;
    const left = queue.querySelectorAll("figure:not(.done)").length;
    document.querySelector("#left").textContent = `${left} on this page wait`;
  } catch (error) {
    figure.classList.remove("done");
    caption.textContent = error.message;
  }
}

queue?.addEventListener("click", (event) => {
  const { do: decision } = event.target.dataset;
  if (decision) decide(event.target.closest("figure"), decision);
});
queue?.addEventListener("keydown", (event) => {
  const figure = event.target.closest("figure");
  if (!figure || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
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
    const sends = upload.querySelector("button").disabled || upload.label.value || upload.file.files.length;
    if (found.state !== state && !["waiting", "running"].includes(found.state) && !sends) location.reload();
  } catch (error) {
    article.querySelector(".step").textContent = error.message;
  }
}

const open = [...document.querySelectorAll(".retraining")].filter(({ dataset }) => ["waiting", "running"].includes(dataset.state));
if (open.length) setInterval(() => open.forEach(follow), 2000);
