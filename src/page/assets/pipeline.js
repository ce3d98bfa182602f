// The choice of a pipeline and the server's answer about it, for the views of one pipeline.

import { get, newest, unlessAborted } from "./api.js";
import { el, empty, options, throttle } from "./dom.js";

/**
 * `path` is the address of the answer, `draw` shows it, and `place` shows why there is none: `nothing`, or an error.
 * `settings.pipeline` is the choice, which outlives the view. `pause` is the least time between two requests.
 */
export function ofPipeline(state, settings, { path, pause, draw, place, nothing }) {
  const pipeline = el("select", { onchange: (event) => { settings.pipeline = event.target.value; load().catch(failed); } });
  const label = el("label", {}, el("span", {}, "Pipeline"), pipeline);
  const loading = newest();
  let drawn = "", isClosed = false;

  async function load() {
    const all = [...new Set([...state.rows.values()].map((row) => row.pipeline))];
    if (!all.includes(settings.pipeline)) settings.pipeline = (state.pipeline || state.info.runs[0]?.pipeline) ?? all[0] ?? "";
    label.hidden = all.length < 2;
    options(pipeline, all.map((name) => [name, name]), settings.pipeline);
    if (!settings.pipeline) { place.replaceChildren(empty(nothing)); return; }
    const answer = await get(path, { pipeline: settings.pipeline }, { signal: loading.begin() });
    const text = JSON.stringify(answer);
    if (isClosed || text === drawn) return;
    drawn = text;
    draw(answer);
  }

  const failed = unlessAborted((error) => { if (!isClosed && !drawn) place.replaceChildren(empty(error.message)); });
  return {
    label,
    again: throttle(() => load().catch(failed), pause),
    close() {
      isClosed = true;
      loading.stop();
    },
  };
}
