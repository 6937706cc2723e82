// Sending new pictures: pictures as forms; a zip in pieces, so that it goes on after a reload or a lost connection.
import { ask, root, csrf } from "./ask.js";

const upload = document.querySelector("#upload");
const status = upload.querySelector("[role=status]");
const progress = upload.querySelector("progress");
const button = upload.querySelector("button");
const FORM_BYTES = 8 << 20; // of one request with pictures
const FORM_FILES = 50;
const PIECE = 4 << 20; // bytes of a zip that travel together
const PATIENCE_MS = [1000, 2000, 4000, ...Array(12).fill(8000)]; // between tries where the connection is lost
const KEY = `raycls-parcel ${root}`;
const SAID = `raycls-said ${root}`; // how the upload before this page ended
const sum = { taken: 0, known: 0, refused: 0 };
const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

const failed = (message, code) => Object.assign(new Error(message), { status: code });

/** Send a body with progress, which fetch does not tell. */
function send(path, body, type, told) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", root + path);
    request.setRequestHeader("Accept", "application/json");
    request.setRequestHeader("X-Csrf", csrf);
    if (type) request.setRequestHeader("Content-Type", type);
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => told(event.loaded));
    request.addEventListener("load", () => {
      if (request.status === 200) resolve(request.response);
      else reject(failed(request.response?.detail ?? `the console answered ${request.status}`, request.status));
    });
    request.addEventListener("error", () => reject(failed("the connection was lost", 0)));
    request.send(body);
  });
}

/** Call `work` again, with pauses, while the connection is lost or the server is away. */
async function patiently(work) {
  for (const ms of [...PATIENCE_MS, null]) {
    try {
      return await work();
    } catch (error) {
      if (ms === null || !(error.status === 0 || error.status === 429 || error.status >= 500)) throw error;
      status.textContent = `${error.message}: trying again in ${ms / 1000} s`;
      await pause(ms);
    }
  }
}

function show(share, text) {
  progress.hidden = false;
  progress.value = share;
  status.textContent = text;
}

function add(found) {
  for (const key of Object.keys(sum)) sum[key] += found[key].length;
  for (const each of found.refused) addRefused(`${each.file}: ${each.reason}`);
}

function addRefused(text) {
  const item = document.createElement("li");
  item.textContent = text;
  document.querySelector("#refused").append(item);
}

/** Return lists of files that travel together. */
function inParts(files) {
  const parts = [];
  let bytes = 0;
  for (const file of files) {
    if (!parts.length || bytes + file.size > FORM_BYTES || parts.at(-1).length === FORM_FILES) { parts.push([]); bytes = 0; }
    parts.at(-1).push(file);
    bytes += file.size;
  }
  return parts;
}

async function sendPictures(pictures, label) {
  const total = pictures.reduce((bytes, file) => bytes + file.size, 0) || 1;
  let before = 0;
  for (const part of inParts(pictures)) {
    const form = new FormData();
    form.append("label", label);
    for (const file of part) form.append("file", file);
    const told = (loaded) => {
      const share = Math.min(1, (before + loaded) / total);
      show(share, share < 1 ? `sent ${Math.round(100 * share)}%; ${sum.taken} taken so far` : "sent; the server checks the pictures …");
    };
    add(await send("/upload", form, "", told));
    before += part.reduce((bytes, file) => bytes + file.size, 0);
  }
}

/** Send the rest of a zip, from where the server has it. */
async function sendZip(file, parcel) {
  if (!file.size) throw failed("the file is empty", 400);
  let found = parcel ?? await patiently(() => ask("POST", "/parcels", JSON.stringify({ name: file.name, size: file.size })));
  localStorage.setItem(KEY, JSON.stringify({ id: found.id, name: file.name, size: file.size, changed: file.lastModified }));
  while (found.state === "arriving") {
    const at = found.received;
    const piece = file.slice(at, at + PIECE);
    const told = (loaded) => show((at + loaded) / file.size, `${file.name}: sent ${Math.round(100 * Math.min(1, (at + loaded) / file.size))}%`);
    told(0);
    found = await patiently(async () => {
      try {
        return await send(`/parcels/${found.id}?at=${at}`, piece, "application/octet-stream", told);
      } catch (error) {
        if (error.status !== 409 && error.status !== 0) throw error;
        const here = await ask("GET", `/parcels/${found.id}`); // it may have arrived, without its answer
        if (here.received === at && here.state === "arriving") throw error;
        return here;
      }
    });
  }
  await followZip(found);
}

async function followZip(parcel) {
  let found = parcel;
  while (found.state === "checking") {
    const { checked, of } = found;
    show(of ? checked / of : 0, of ? `${found.name}: checked ${checked.toLocaleString()} of ${of.toLocaleString()} pictures` : `${found.name}: sent; waiting for its check …`);
    await pause(500);
    found = await patiently(() => ask("GET", `/parcels/${parcel.id}`));
  }
  localStorage.removeItem(KEY);
  if (found.state === "failed") throw new Error(found.error);
  add(found.answer);
}

/** Do `work`, say how it ended, and load the queue anew where it has new pictures. */
async function whileBusy(work) {
  button.disabled = true;
  Object.assign(sum, { taken: 0, known: 0, refused: 0 });
  document.querySelector("#refused").replaceChildren();
  try {
    await work();
    const nothing = sum.taken + sum.known + sum.refused ? "" : " The file holds no pictures in class folders.";
    const kept = sum.known ? " Known pictures keep the class with which they came first: change it below while they wait." : "";
    status.textContent = `${sum.taken} taken, ${sum.known} known, ${sum.refused} refused.${kept}${nothing}`;
    if (sum.taken && document.querySelector("#queue")) {
      const refused = [...document.querySelectorAll("#refused li")].map((item) => item.textContent);
      sessionStorage.setItem(SAID, JSON.stringify({ text: status.textContent, refused }));
      setTimeout(() => location.reload(), 800); // with the queue as it is now, and the same words
    }
  } catch (error) {
    status.textContent = `${error.message} (${sum.taken} taken)`;
  } finally {
    progress.hidden = true;
    button.disabled = false;
  }
}

/** Return the zip that is under way since before this page was loaded, with its state, or null. */
async function underWay() {
  const kept = JSON.parse(localStorage.getItem(KEY) ?? "null");
  if (!kept) return null;
  try {
    return { kept, parcel: await ask("GET", `/parcels/${kept.id}`) };
  } catch (error) {
    if (error.status !== 404) throw error;
    localStorage.removeItem(KEY);
    return null;
  }
}

upload.addEventListener("submit", (event) => {
  event.preventDefault();
  const files = [...upload.file.files];
  const zips = files.filter((file) => file.name.toLowerCase().endsWith(".zip"));
  const pictures = files.filter((file) => !zips.includes(file));
  const label = upload.label.value.trim();
  if (pictures.length && !label) { status.textContent = "Say which class the pictures have."; return; }
  const classes = [...document.querySelectorAll("#classes option")].map((option) => option.value);
  if (pictures.length && classes.length && !classes.includes(label)
    && !confirm(`${label} is a new class. Send the pictures as ${label}?`)) return;
  whileBusy(async () => {
    if (pictures.length) await sendPictures(pictures, label);
    for (const zip of zips) {
      const before = await underWay();
      const same = before && before.parcel.state === "arriving" && before.kept.name === zip.name
        && before.kept.size === zip.size && before.kept.changed === zip.lastModified;
      await sendZip(zip, same ? before.parcel : null);
    }
  });
});

const said = JSON.parse(sessionStorage.getItem(SAID) ?? "null");
if (said) {
  sessionStorage.removeItem(SAID);
  status.textContent = said.text;
  said.refused.forEach(addRefused);
}
const before = await underWay().catch((error) => { status.textContent = error.message; return null; });
if (before?.parcel.state === "arriving") {
  const share = Math.round((100 * before.parcel.received) / before.parcel.size);
  status.textContent = `${before.kept.name}: ${share}% is there. Choose the same file, and it goes on.`;
} else if (before) {
  whileBusy(() => followZip(before.parcel));
}
