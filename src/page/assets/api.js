// Requests to the server, and its messages about changes.

/** Characters of the address in one request. Servers and proxies refuse long addresses. */
const MOST_TEXT = 30_000;
/** Points in one request. */
const MOST_IDS = 4000;

/** The answer as JSON. `ids` are the numbers of points. */
export async function get(path, parameters = {}, { signal, ids } = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") query.set(name, value);
  }
  // Commas stay as they are: their escapes would take three characters.
  const list = ids ? `ids=${ids.length ? ids.join(",") : "-"}` : "";
  const text = [query.toString(), list].filter(Boolean).join("&");
  const answer = await fetch(text ? `${path}?${text}` : path, { headers: { accept: "application/json" }, signal });
  return contentOf(answer);
}

/** Changes something. The answer as JSON. */
export async function put(path, body) {
  const answer = await fetch(path, { method: "PUT", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  return contentOf(answer);
}

/** The content of an answer. The error has the server's hint. */
async function contentOf(answer) {
  if (answer.status === 401) throw new Error("The session has ended. Open the address that `vadpipe ui` printed.");
  const isJson = (answer.headers.get("content-type") ?? "").startsWith("application/json");
  const content = isJson ? await answer.json() : null;
  if (answer.ok && content !== null) return content;
  const error = new Error(content?.error ?? `The server answered with status ${answer.status}.`);
  error.hint = content?.hint;
  throw error;
}

/** Lists of ids that are short enough for one request each. At least one list. */
export function parts(ids) {
  const all = [];
  let part = [], length = 0;
  for (const id of ids) {
    const own = String(id).length + 1;
    if (part.length >= MOST_IDS || length + own > MOST_TEXT - 1000) { all.push(part); part = []; length = 0; }
    part.push(id);
    length += own;
  }
  return part.length || !all.length ? [...all, part] : all;
}

/** Requests of which only the newest counts: `begin` aborts those before it and returns the signal of the new one. */
export function newest() {
  let controller = null;
  return {
    begin() {
      controller?.abort();
      controller = new AbortController();
      return controller.signal;
    },
    stop() { controller?.abort(); },
  };
}

/** Calls `show` with an error, unless the request was aborted. */
export function unlessAborted(show) {
  return (error) => { if (error.name !== "AbortError") show(error); };
}

/** Listens to changes while the page is visible. `state` is called with whether the server answers. */
export function listen(change, state) {
  let events = null, was = false, timer = null;
  function open() {
    clearTimeout(timer);
    events?.close();
    events = new EventSource("/api/events");
    events.onopen = () => {
      state(true);
      // Changes may have been missed, and the server may be another one.
      if (was) change({ table: true, runs: true, states: true, isNew: true });
      was = true;
    };
    events.onmessage = (event) => change(JSON.parse(event.data));
    events.onerror = () => {
      state(false);
      // The browser connects again by itself, except after an answer that is an error.
      if (events?.readyState === EventSource.CLOSED) timer = setTimeout(open, 3000);
    };
  }
  // A browser has six connections to a server: hidden pages leave theirs to others.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) { open(); return; }
    clearTimeout(timer);
    events?.close();
    events = null;
  });
  if (!document.hidden) open();
}

/** The address of an image of a point. */
export function imageUrl(id, name, more = {}) {
  return `/api/points/${id}/image?${new URLSearchParams({ name, ...more })}`;
}

export function fileUrl(id, name, more = {}) {
  return `/api/points/${id}/file?${new URLSearchParams({ name, ...more })}`;
}
