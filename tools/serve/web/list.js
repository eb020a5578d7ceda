// The list of conversations.

import { $, ask, el, icon, pop, tell } from "./dom.js";
import * as store from "./store.js";
import { read, save, written } from "./transfer.js";
import { Conversation } from "./tree.js";

/** How a conversation is called. */
export const nameOf = (stored) => stored.title || "New conversation";

/** Draws the list; `current` is marked. `page` opens, renames and forgets conversations. */
export async function draw(current, page) {
  const all = await store.list();
  const items = all.map((stored) => {
    const name = nameOf(stored);
    const more = el("button", { type: "button", class: "icon", "aria-label": `Actions for ${name}`, "aria-haspopup": "dialog" }, icon("more"));
    more.addEventListener("click", () => menu(stored, more, page));
    return el("li", { class: stored.id === current && "current", "data-id": stored.id },
      el("button", { type: "button", class: "open", "aria-current": stored.id === current && "page", title: name, click: () => page.open(stored.id) }, el("bdi", {}, name)),
      more);
  });
  const held = $("list").contains(document.activeElement) && document.activeElement;
  $("list").replaceChildren(...items);
  if (held) {
    const item = items.find((i) => i.dataset.id === held.parentElement.dataset.id);
    item?.querySelector(held.className === "open" ? ".open" : ".icon").focus();
  }
  $("export").disabled = all.length === 0;
}

/** What can be done with a conversation. */
function menu(stored, beside, page) {
  const act = (label, work, kind) =>
    el("button", { type: "button", class: kind, click: () => ($("menu").hidePopover(), work()) }, label);
  $("menu").replaceChildren(
    act("Rename…", () => rename(stored, page)),
    act("Export", async () => save(written([new Conversation(stored, await store.messages(stored.id))]), nameOf(stored))),
    act("Delete…", () => forget(stored, page), "danger"));
  pop($("menu"), beside);
}

async function rename(stored, page) {
  const title = await ask({ title: "Rename", input: stored.title, ok: "Rename" });
  if (title) await page.rename(stored.id, title.slice(0, 200));
}

async function forget(stored, page) {
  const text = `“${nameOf(stored)}” and all its messages.`;
  if (await ask({ title: "Delete the conversation?", text, ok: "Delete", danger: true })) await page.forget(stored.id);
}

/** Saves all conversations. */
export async function exportAll() {
  const all = [];
  for (const stored of await store.list()) all.push(new Conversation(stored, await store.messages(stored.id)));
  save(written(all), "conversations");
}

/** Reads conversations from a file. */
export async function importFile(file) {
  let found;
  try {
    found = await read(file);
    for (const one of found) await store.put(one.stored(), [...one.messages.values()]);
  } catch (error) {
    tell(`Not imported. ${error.message}`);
    return null;
  }
  tell(found.length === 1 ? "1 conversation imported." : `${found.length} conversations imported.`);
  return found[0]?.id ?? null;
}
