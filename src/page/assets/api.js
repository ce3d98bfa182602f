// Requests to the server, and its messages about changes.

/** The answer as JSON. The error has the server's hint. */
export async function get(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") query.set(name, value);
  }
  const text = query.toString();
  const answer = await fetch(text ? `${path}?${text}` : path, { headers: { accept: "application/json" } });
  if (answer.status === 401) throw new Error("The session has ended. Open the address that `vadpipe ui` printed.");
  const content = await answer.json();
  if (!answer.ok) {
    const error = new Error(content.error);
    error.hint = content.hint;
    throw error;
  }
  return content;
}

/** Listens to changes. `state` is called with whether the server answers. */
export function listen(change, state) {
  const events = new EventSource("/api/events");
  let was = false;
  events.onopen = () => {
    state(true);
    // Changes may have been missed.
    if (was) change({ table: true, runs: true, states: true, rows: [], epochs: [] });
    was = true;
  };
  events.onmessage = (event) => change(JSON.parse(event.data));
  events.onerror = () => state(false);
}

/** The address of an image of a point. */
export function imageUrl(id, name, more = {}) {
  return `/api/points/${id}/image?${new URLSearchParams({ name, ...more })}`;
}

export function fileUrl(id, name, more = {}) {
  return `/api/points/${id}/file?${new URLSearchParams({ name, ...more })}`;
}
