// A conversation: a tree of messages, of which one path is shown. Editing and asking again make siblings.

import { newId } from "./dom.js";

let last = 0;
/** A moment in ms that is later than all before, so that siblings keep their order. */
function moment() {
  last = Math.max(last + 1, Date.now());
  return last;
}

/** A message with what every message has. */
export function newMessage(fields) {
  return {
    id: newId(),
    parent: null,
    created: moment(),
    role: "user",
    content: "",
    reasoning: "",
    calls: [],
    tokens: [],
    finish: null,
    ...fields,
  };
}

export class Conversation {
  /** A conversation as it is stored, and its messages. */
  constructor(stored, messages = []) {
    this.id = stored?.id ?? newId();
    this.title = stored?.title ?? "";
    this.created = stored?.created ?? moment();
    this.updated = stored?.updated ?? this.created;
    this.settings = stored?.settings ?? {};
    this.chosen = { ...stored?.chosen };
    this.messages = new Map();
    this.children = new Map();
    for (const message of [...messages].sort((a, b) => a.created - b.created)) this.#insert(message);
  }

  #insert(message) {
    this.messages.set(message.id, message);
    const siblings = this.children.get(message.parent) ?? [];
    siblings.push(message);
    this.children.set(message.parent, siblings);
  }

  /** As it is stored. */
  stored() {
    const { id, title, created, updated, settings, chosen } = this;
    return { id, title, created, updated, settings, chosen };
  }

  /** Adds a message behind its parent and shows it. */
  add(message) {
    message.conversation = this.id;
    this.#insert(message);
    this.choose(message);
    this.updated = moment();
    return message;
  }

  /** Shows a message instead of its siblings. */
  choose(message) {
    this.chosen[message.parent ?? "root"] = message.id;
  }

  /** A message and the others at its place. */
  siblings(message) {
    return this.children.get(message.parent) ?? [];
  }

  /** The messages that are shown. */
  path() {
    const shown = [];
    let parent = null;
    for (;;) {
      const siblings = this.children.get(parent);
      if (!siblings) return shown;
      const next = siblings.find((m) => m.id === this.chosen[parent ?? "root"]) ?? siblings.at(-1);
      shown.push(next);
      parent = next.id;
    }
  }

  /** The messages before one. */
  before(message) {
    const found = [];
    for (let id = message.parent; id; ) {
      const one = this.messages.get(id);
      if (!one) break;
      found.unshift(one);
      id = one.parent;
    }
    return found;
  }
}
