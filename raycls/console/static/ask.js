// Requests of a page's script to its own console.

const { root, csrf } = document.body.dataset;

/** Send a request below the console's root and return its JSON. Throws an Error with the console's words. */
export async function ask(method, path, body, type = "application/json") {
  const headers = { Accept: "application/json", "X-Csrf": csrf };
  if (body !== undefined && type) headers["Content-Type"] = type;
  let answer;
  try {
    answer = await fetch(root + path, { method, headers, body });
  } catch {
    throw new Error("the console does not answer: is the server still there?");
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.detail ?? `the console answered ${answer.status}`);
  return found;
}

export { root, csrf };
