// Tags and notes: the only thing that the page changes.

import { put } from "./api.js";
import { debounce, el, plural, say } from "./dom.js";

/** Tags as small labels. With `remove`, each has a button that calls it. */
export function tags(all, remove) {
  return el("span", { class: "tags" }, (all ?? []).map((tag) => el("span", { class: "tag" }, tag,
    remove ? el("button", { type: "button", "aria-label": `Remove the tag ${tag}`, onclick: () => remove(tag) }, "×") : "")));
}

/** A form that adds a tag to the points that are selected. */
export function tagForm(state, failed) {
  const name = el("input", { type: "text", placeholder: "tag", "aria-label": "Tag for the selected points", maxlength: 40 });
  const form = el("form", { class: "tagging", hidden: true }, name, el("button", {}, "Add tag"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const tag = name.value.trim();
    if (!tag) return;
    const chosen = [...state.selected], problems = [];
    for (const id of chosen) {
      await put(`/api/points/${id}/note`, { add: [tag] }).catch((error) => problems.push(`${state.rows.get(id)?.point}: ${error.message}`));
    }
    if (problems.length < chosen.length) name.value = "";
    failed(problems.length ? `${problems.length} of ${plural(chosen.length, "point")} not tagged. ${problems[0]}` : "");
  });
  return form;
}

/** The tags and the note of a point, which can be changed. `changed` is called after each change. */
export function noteEditor(id, note, changed) {
  const said = el("p", { class: "note", role: "status" });
  const change = async (body) => {
    try {
      await put(`/api/points/${id}/note`, body);
      say(said, "Saved.");
      changed();
      return true;
    } catch (error) {
      say(said, error.message);
      return false;
    }
  };
  const shown = el("div", {});
  const add = el("input", { type: "text", placeholder: "add a tag", "aria-label": "Add a tag", maxlength: 40 });
  const form = el("form", { class: "tagging" }, shown, add, el("button", {}, "Add"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (add.value.trim()) change({ add: [add.value] });
    add.value = "";
  });
  const text = el("textarea", { rows: 4, "aria-label": "Note", placeholder: "What you want to remember about this result" });
  let saved = note?.text ?? "";
  text.value = saved;
  const save = async () => {
    const now = text.value;
    if (now === saved) return;
    saved = now;
    if (!await change({ text: now })) saved = null;
  };
  text.addEventListener("change", save);
  text.addEventListener("input", debounce(save, 1000));
  /** Shows what the server has. A text that is being written stays. */
  function show(now) {
    shown.replaceChildren(tags(now?.tags, (tag) => change({ remove: [tag] })));
    if (text.value === saved && document.activeElement !== text) text.value = saved = now?.text ?? "";
  }
  show(note);
  return { node: el("section", { class: "noted" }, form, text, said), show };
}
