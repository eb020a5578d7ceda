// Conversations as a file: written as they are, read with suspicion.

import { Conversation } from "./tree.js";
import { newId } from "./dom.js";
import { readSettings } from "./settings.js";

const FORMAT = "geb-chat";
const MOST = { bytes: 64 << 20, conversations: 10_000, messages: 100_000, text: 4 << 20, tokens: 200_000, top: 20 };
const ROLES = ["user", "assistant", "tool"];
const FINISHES = ["stop", "length", "tool_calls", "content_filter", "stopped", "error", "edited", null];

/** Conversations as a text. */
export function written(conversations) {
  const all = conversations.map((c) => ({ ...c.stored(), messages: [...c.messages.values()] }));
  return JSON.stringify({ format: FORMAT, version: 1, conversations: all }, null, 1);
}

/** Lets the browser save a text. */
export function save(text, name) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = `${name.replace(/[^\p{L}\p{N}._-]+/gu, " ").trim().slice(0, 60) || "conversation"}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Says what is wrong with a field. */
function wrong(name, value, allowed) {
  const shown = JSON.stringify(value) ?? "absent";
  return new Error(`${name} is ${shown.length > 60 ? `${shown.slice(0, 60)}…` : shown}, allowed: ${allowed}.`);
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function object(value, name) {
  if (!isObject(value)) throw wrong(name, value, "an object");
  return value;
}

function list(value, name, most) {
  if (value === undefined) return [];
  if (!Array.isArray(value) || value.length > most) throw wrong(name, value, `a list of at most ${most}`);
  return value;
}

function text(value, name, most = MOST.text) {
  if (value === undefined || value === null) return "";
  if (typeof value !== "string" || value.length > most) throw wrong(name, value, `a text of at most ${most} characters`);
  return value;
}

function number(value, name) {
  if (value === undefined || value === null) return null;
  if (typeof value !== "number" || !Number.isFinite(value)) throw wrong(name, value, "a number");
  return value;
}

function one(value, name, allowed) {
  if (!allowed.includes(value)) throw wrong(name, value, allowed.join(", "));
  return value;
}

function token(value, name, depth = 0) {
  const given = object(value, name);
  const read = { text: text(given.text, `${name}.text`, 4096), p: number(given.p, `${name}.p`) };
  if (given.end === true) read.end = true;
  if (given.bytes !== undefined) {
    read.bytes = list(given.bytes, `${name}.bytes`, 256);
    const bad = read.bytes.find((b) => !Number.isInteger(b) || b < 0 || b > 255);
    if (bad !== undefined) throw wrong(`${name}.bytes`, bad, "0 to 255");
  }
  if (given.top !== undefined && depth === 0) {
    read.top = list(given.top, `${name}.top`, MOST.top).map((t, i) => token(t, `${name}.top[${i}]`, 1));
  }
  return read;
}

function call(value, name) {
  const given = object(value, name);
  return {
    id: text(given.id, `${name}.id`, 200),
    name: text(given.name, `${name}.name`, 200),
    arguments: text(given.arguments, `${name}.arguments`),
  };
}

/** Numbers by their names, and nothing else. */
function numbers(value, name, fields) {
  if (value === undefined || value === null) return undefined;
  const given = object(value, name);
  return Object.fromEntries(fields.map((f) => [f, number(given[f], `${name}.${f}`)]));
}

function message(value, name, ids) {
  const given = object(value, name);
  const role = one(given.role, `${name}.role`, ROLES);
  const parent = given.parent ?? null;
  if (parent !== null && !ids.has(parent)) throw wrong(`${name}.parent`, parent, "null, or the id of an earlier message");
  const id = text(given.id, `${name}.id`, 200);
  if (!id || ids.has(id)) throw wrong(`${name}.id`, id, "an id that no other message has");
  ids.set(id, newId());
  const read = {
    id: ids.get(id),
    parent: parent === null ? null : ids.get(parent),
    created: number(given.created, `${name}.created`) ?? 0,
    role,
    content: text(given.content, `${name}.content`),
    reasoning: text(given.reasoning, `${name}.reasoning`),
    calls: list(given.calls, `${name}.calls`, 128).map((c, i) => call(c, `${name}.calls[${i}]`)),
    tokens: list(given.tokens, `${name}.tokens`, MOST.tokens).map((t, i) => token(t, `${name}.tokens[${i}]`)),
    finish: one(given.finish ?? null, `${name}.finish`, FINISHES),
    usage: numbers(given.usage, `${name}.usage`, ["prompt", "cached", "sampled", "reasoning"]),
    speed: numbers(given.speed, `${name}.speed`, ["tokens", "first", "ms"]),
  };
  if (role === "tool") read.callId = text(given.callId, `${name}.callId`, 200);
  for (const key of ["model", "error", "advice", "note", "seed"]) {
    if (given[key] !== undefined) read[key] = text(given[key], `${name}.${key}`, 2000);
  }
  return read;
}

function conversation(value, name) {
  const given = object(value, name);
  const ids = new Map();
  // Parents stand before their children, so no message can be above itself.
  const given_messages = list(given.messages, `${name}.messages`, MOST.messages);
  const messages = given_messages.map((m, i) => message(m, `${name}.messages[${i}]`, ids));
  const made = new Conversation({
    id: newId(),
    title: text(given.title, `${name}.title`, 200),
    created: number(given.created, `${name}.created`) ?? Date.now(),
    updated: number(given.updated, `${name}.updated`) ?? Date.now(),
    settings: readSettings(given.settings ?? {}, `${name}.settings`, wrong),
  }, messages);
  for (const m of messages) m.conversation = made.id;
  for (const [at, id] of Object.entries(isObject(given.chosen) ? given.chosen : {})) {
    const parent = at === "root" ? "root" : ids.get(at);
    if (parent && ids.has(id)) made.chosen[parent] = ids.get(id);
  }
  return made;
}

/** The conversations in a file; an error names the first field that is wrong. */
export async function read(file) {
  if (file.size > MOST.bytes) throw new Error(`The file has ${file.size} bytes, allowed: at most ${MOST.bytes}.`);
  let all;
  try {
    all = JSON.parse(await file.text());
  } catch {
    throw new Error("The file is no JSON.");
  }
  object(all, "The file");
  one(all.format, "format", [FORMAT]);
  one(all.version, "version", [1]);
  return list(all.conversations, "conversations", MOST.conversations).map((c, i) => conversation(c, `conversations[${i}]`));
}
