// Requests of a page's script to its own console.

const { root, csrf } = document.body.dataset;

/** Send a request below the console's root and return its JSON. Throws an Error with the console's words and `status`. */
export async function ask(method, path, body, type = "application/json") {
  const headers = { Accept: "application/json", "X-Csrf": csrf };
  if (body !== undefined && type) headers["Content-Type"] = type;
  let answer;
  try {
    answer = await fetch(root + path, { method, headers, body });
  } catch {
    throw Object.assign(new Error("the console does not answer: is the server still there?"), { status: 0 });
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    throw Object.assign(new Error(found.detail ?? `the console answered ${answer.status}`), { status: answer.status });
  }
  return found;
}

export { root, csrf };
