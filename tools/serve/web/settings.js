// Settings of a conversation, and of this browser.

import { setKey } from "./api.js";
import { $, el, open } from "./dom.js";

/** Name, label, least, most, step; the server's ranges. */
const NUMBERS = [
  ["temperature", "Temperature", 0, 2, 0.05],
  ["top_p", "Top p", 0, 1, 0.01],
  ["top_k", "Top k", 0, 4294967295, 1],
  ["min_p", "Min p", 0, 1, 0.01],
  ["repetition_penalty", "Repetition penalty", 0.01, 100, 0.01],
  ["frequency_penalty", "Frequency penalty", -2, 2, 0.1],
  ["presence_penalty", "Presence penalty", -2, 2, 0.1],
  ["seed", "Seed", 0, Number.MAX_SAFE_INTEGER, 1],
  ["max_tokens", "Most tokens", 1, 4294967295, 1],
];
const DEFAULTS = "geb.settings";
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** Settings from a file or from storage: the known ones, each in its range. */
export function readSettings(given, name, wrong) {
  if (!isObject(given)) throw wrong(name, given, "an object");
  const read = {};
  const take = (key, good, allowed) => {
    if (given[key] === undefined) return;
    if (!good(given[key])) throw wrong(`${name}.${key}`, given[key], allowed);
    read[key] = given[key];
  };
  take("system", (v) => typeof v === "string" && v.length <= 1 << 20, "a text");
  for (const [key, , least, most, step] of NUMBERS) {
    const good = (v) => typeof v === "number" && v >= least && v <= most && (step !== 1 || Number.isInteger(v));
    take(key, good, `${step === 1 ? "a whole number" : "a number"} from ${least} to ${most}`);
  }
  take("stop", (v) => Array.isArray(v) && v.length <= 16 && v.every((t) => typeof t === "string" && t), "at most 16 texts");
  take("thinking", (v) => ["on", "off"].includes(v), "on, off");
  take("schema", isObject, "an object");
  take("tools", (v) => Array.isArray(v) && v.every(isObject), "a list of objects");
  take("alternatives", (v) => typeof v === "boolean", "true, false");
  return read;
}

/** What new conversations begin with. */
export function defaults() {
  try {
    return readSettings(JSON.parse(localStorage.getItem(DEFAULTS) ?? "{}"), "settings", () => new Error());
  } catch {
    return {};
  }
}

/** What of the settings is not the server's default, in a few words. */
export function summary(settings) {
  const parts = [];
  if (settings.system) parts.push("system prompt");
  for (const [key, label] of NUMBERS) if (settings[key] !== undefined) parts.push(`${label.toLowerCase()} ${settings[key]}`);
  if (settings.stop) parts.push("stop texts");
  if (settings.thinking) parts.push(`reasoning ${settings.thinking}`);
  if (settings.schema) parts.push("schema");
  if (settings.tools) parts.push(settings.tools.length === 1 ? "1 tool" : `${settings.tools.length} tools`);
  return parts.join(" · ");
}

const field = (key) => $(`set-${key}`);

/** The fields for numbers, made once. */
function numberFields() {
  if (field("temperature")) return;
  field("numbers").append(...NUMBERS.map(([key, label, min, max, step]) =>
    el("label", { class: "field" }, label,
      el("input", { id: `set-${key}`, type: "number", min, max, step: step === 1 ? 1 : "any", inputmode: "decimal", placeholder: "default" }))));
}

/** Opens the dialog; the new settings, or null. `clear` deletes all conversations, `colour` shows a theme. */
export async function edit(settings, { clear, colour }) {
  numberFields();
  for (const [key] of NUMBERS) field(key).value = settings[key] ?? "";
  field("system").value = settings.system ?? "";
  field("stop").value = (settings.stop ?? []).join("\n");
  field("thinking").value = settings.thinking ?? "";
  for (const key of ["schema", "tools"]) field(key).value = settings[key] ? JSON.stringify(settings[key], null, 2) : "";
  field("alternatives").checked = settings.alternatives !== false;
  field("default").checked = false;
  for (const bad of ["stop", "schema", "tools"]) say(bad, "");
  for (const radio of document.getElementsByName("theme")) {
    radio.checked = radio.value === globalThis.theme();
    radio.onchange = () => colour(radio.value);
  }
  field("key").onclick = () => askKey("");
  $("clear").onclick = async () => {
    if (await clear()) $("settings").close();
  };
  const answer = await open($("settings"), collect);
  if (answer && field("default").checked) {
    try {
      localStorage.setItem(DEFAULTS, JSON.stringify(answer));
    } catch {
      // Without storage there is nothing to begin with.
    }
  }
  return answer;
}

/** Says below a field what is wrong with it. */
function say(key, text) {
  $(`bad-${key}`).textContent = text;
  field(key).setAttribute("aria-invalid", Boolean(text));
}

/** What the fields hold; undefined if something is wrong, which is said then. */
function collect() {
  const found = {};
  for (const [key] of NUMBERS) {
    const input = field(key);
    if (!input.reportValidity()) return undefined;
    if (input.value !== "") found[key] = input.valueAsNumber;
  }
  if (field("system").value.trim()) found.system = field("system").value;
  const stop = field("stop").value.split("\n").filter((line) => line);
  if (stop.length) found.stop = stop;
  say("stop", stop.length > 16 ? "At most 16 texts." : "");
  if (field("thinking").value) found.thinking = field("thinking").value;
  const json = (key, good, allowed) => {
    const text = field(key).value.trim();
    say(key, "");
    if (!text) return;
    try {
      found[key] = JSON.parse(text);
      if (!good(found[key])) say(key, `Allowed: ${allowed}.`);
    } catch (error) {
      say(key, `No JSON: ${error.message}.`);
    }
  };
  json("schema", isObject, "an object");
  json("tools", (v) => Array.isArray(v) && v.every(isObject), "a list of objects");
  if (!field("alternatives").checked) found.alternatives = false;
  const bad = $("settings").querySelector('[aria-invalid="true"]');
  if (!bad) return found;
  bad.focus();
  return undefined;
}

/** Asks for a key; true if there is a new one. */
export async function askKey(why) {
  $("key-why").textContent = why || "An empty field forgets the key.";
  $("key-text").value = "";
  const read = () => {
    const text = $("key-text").value.trim();
    return why && !text ? undefined : { text, keep: $("key-keep").checked };
  };
  const answer = await open($("key"), read);
  $("key-text").value = "";
  if (!answer) return false;
  setKey(answer.text, answer.keep);
  return true;
}
