// The page: which conversation is shown, and what happens when something is pressed.

import { models, onKey } from "./api.js";
import { receive, request } from "./answer.js";
import { $, ask, el, schedule, tell, whisper } from "./dom.js";
import * as list from "./list.js";
import { MessageView } from "./message.js";
import * as settings from "./settings.js";
import * as store from "./store.js";
import { textWith } from "./tokens.js";
import { Conversation, newMessage } from "./tree.js";

/** The conversation that is shown, the views of its messages, the models, and answers that come: by conversation. */
const page = { conversation: null, views: new Map(), models: [], trouble: null, runs: new Map(), sticks: true, turn: 0 };
const EXAMPLES = [
  "Explain in three sentences what a language model does.",
  "Write a haiku about a river in winter.",
  "List five prime numbers as a JSON array.",
];

// ---- models

const kept = (name) => {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
};
const keep = (name, value) => {
  try {
    localStorage.setItem(name, value);
  } catch {
    // It holds as long as the page.
  }
};

async function loadModels() {
  try {
    page.models = await models();
    page.trouble = page.models.length ? null : { message: "The server serves no model.", advice: "" };
  } catch (error) {
    page.trouble = error;
  }
  const last = kept("geb.model");
  $("model").replaceChildren(...page.models.map((m) => el("option", { value: m.id, selected: m.id === last }, m.id)));
  $("model").disabled = page.models.length < 2;
  drawEmpty();
}

const count = (n) => Intl.NumberFormat("en", { maximumSignificantDigits: 3 }).format(n);
/** A number with a word for its size. */
function large(n) {
  if (n >= 1e9) return `${count(n / 1e9)} billion`;
  return n >= 1e6 ? `${count(n / 1e6)} million` : count(n);
}

/** What is known of a model, in one line. */
function about(model) {
  const { n_params: params, n_ctx: ctx, size } = model.meta ?? {};
  const parts = [];
  if (params) parts.push(`${large(params)} parameters`);
  if (ctx) parts.push(`a context of ${Intl.NumberFormat("en").format(ctx)} tokens`);
  if (size) parts.push(size >= 1e9 ? `${count(size / 1e9)} GB` : `${count(size / 1e6)} MB`);
  return parts.join(", ");
}

/** What stands where no message is yet. */
function drawEmpty() {
  const empty = $("empty");
  empty.hidden = page.conversation.messages.size > 0;
  if (empty.hidden) return;
  if (page.trouble) {
    const { message, advice } = page.trouble;
    return empty.replaceChildren(el("p", { class: "error" }, `${message} ${advice ?? ""}`.trim(),
      el("button", { type: "button", click: loadModels }, "Retry")));
  }
  const model = page.models.find((m) => m.id === $("model").value);
  if (!model) return empty.replaceChildren(el("p", { class: "hint" }, "Asking the server…"));
  const facts = about(model);
  empty.replaceChildren(
    el("h2", {}, el("bdi", {}, model.id)),
    el("p", { class: "hint" }, `${facts ? `${facts}, ` : ""}served at ${location.host}.`),
    el("ul", { class: "examples" }, EXAMPLES.map((text) =>
      el("li", {}, el("button", { type: "button", click: () => send(text) }, text)))));
}

// ---- the conversation that is shown

function fresh() {
  return new Conversation({ settings: settings.defaults() });
}

/** Shows a conversation. */
function show(conversation) {
  page.turn++;
  page.conversation = conversation;
  page.views.clear();
  page.sticks = true;
  $("messages").replaceChildren();
  setListing(false);
  const hash = conversation.messages.size ? `#${conversation.id}` : "";
  if (location.hash !== hash) history.pushState(null, "", hash || location.pathname + location.search);
  draw();
  drawList();
  $("scroll").scrollTop = $("scroll").scrollHeight;
}

/** Shows the conversation with this id, or a new one; not if something else is shown before it is read. */
async function openById(id) {
  const running = page.runs.get(id)?.conversation;
  if (running || !id) return show(running ?? fresh());
  const turn = ++page.turn;
  const stored = (await store.list()).find((c) => c.id === id);
  const messages = stored ? await store.messages(id) : [];
  if (turn === page.turn) show(stored ? new Conversation(stored, messages) : fresh());
}

/** Draws the path of messages: views of messages that stay, stay. */
function draw() {
  const { conversation, views } = page;
  const path = conversation.path();
  const running = page.runs.get(conversation.id)?.message;
  let at = $("messages").firstChild;
  for (const message of path) {
    let view = views.get(message.id);
    if (!view) views.set(message.id, (view = new MessageView(message, actions)));
    const siblings = conversation.siblings(message);
    view.place(siblings.indexOf(message), siblings.length, message === running);
    if (view.root !== at) $("messages").insertBefore(view.root, at);
    else at = at.nextSibling;
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
  const title = list.nameOf(conversation);
  $("title").firstChild.textContent = title;
  document.title = `${title} – geb`;
  $("send").hidden = Boolean(running);
  $("stop").hidden = !running;
  const told = settings.summary(conversation.settings);
  $("summary").hidden = !told;
  $("summary").textContent = told;
  drawEmpty();
}

function drawList() {
  return list.draw(page.conversation.id, { open: openById, rename, forget });
}

/** Writes a conversation, and some of its messages. */
async function save(conversation, ...messages) {
  try {
    await store.put(conversation.stored(), messages);
  } catch (error) {
    tell(`Not kept: ${error.message}.`);
  }
  await drawList();
}

async function rename(id, title) {
  const shown = page.conversation.id === id ? page.conversation : page.runs.get(id)?.conversation;
  const conversation = shown ?? new Conversation((await store.list()).find((c) => c.id === id));
  conversation.title = title;
  await save(conversation);
  draw();
}

async function forget(id) {
  page.runs.get(id)?.forget();
  await store.remove(id);
  if (page.conversation.id === id) show(fresh());
  else await drawList();
  tell("Deleted.");
}

async function forgetAll() {
  const sure = await ask({ title: "Delete all conversations?", text: "They are kept nowhere else.", ok: "Delete all", danger: true });
  if (!sure) return false;
  for (const run of page.runs.values()) run.forget();
  await store.clear();
  show(fresh());
  tell("Deleted.");
  return true;
}

// ---- answers

/** The beginning of a text, in whole words, as a title. */
function titleOf(text) {
  const line = text.trim().split("\n")[0];
  return line.length <= 60 ? line : `${line.slice(0, 59).replace(/\s+\S{0,20}$/, "")}…`;
}

/** Sends a text of the user. */
function send(text) {
  const { conversation } = page;
  if (!text.trim() || page.runs.has(conversation.id)) return;
  page.turn++;
  const parent = conversation.path().at(-1)?.id ?? null;
  if (!conversation.title) conversation.title = titleOf(text);
  const asked = conversation.add(newMessage({ parent, content: text }));
  if (location.hash !== `#${conversation.id}`) history.pushState(null, "", `#${conversation.id}`);
  page.sticks = true;
  answer(conversation, conversation.add(newMessage({ parent: asked.id, role: "assistant" })), asked);
}

/** Asks for an answer into a message; `others` are written with it. */
async function answer(conversation, message, ...others) {
  const { id } = conversation;
  if (page.runs.has(id)) return;
  const abort = new AbortController();
  const run = { conversation, message, lost: false, stop: () => abort.abort() };
  run.forget = () => {
    run.lost = true;
    abort.abort();
  };
  page.runs.set(id, run);
  const what = request($("model").value, conversation.settings, conversation.before(message), message);
  draw();
  whisper("Asking for an answer.");
  await save(conversation, message, ...others);
  let written = performance.now();
  await receive(message, what, abort.signal, () => {
    const view = page.conversation === conversation && page.views.get(message.id);
    if (view) schedule(view);
    if (performance.now() - written < 2000 || run.lost) return;
    written = performance.now();
    store.putPart(message).catch(() => {});
  });
  page.runs.delete(id);
  if (run.lost) return;
  if (page.conversation === conversation) {
    draw();
    whisper(message.error ? "" : "The answer is whole.");
  }
  await save(conversation, message);
}

/** What the buttons of a message do. */
const actions = {
  /** Another text in the place of a message; one of the user is answered. */
  edit(message, content) {
    const { conversation } = page;
    if (page.runs.has(conversation.id)) return tell("An answer is still coming: stop it first.");
    const { parent, role } = message;
    const edited = conversation.add(newMessage({ parent, role, content, finish: role === "user" ? null : "edited" }));
    if (role === "user") answer(conversation, conversation.add(newMessage({ parent: edited.id, role: "assistant" })), edited);
    else save(conversation, edited).then(draw);
  },
  /** Another answer; in the place of one that has nothing. */
  again(message) {
    const { conversation } = page;
    if (page.runs.has(conversation.id)) return tell("An answer is still coming: stop it first.");
    page.sticks = true;
    const isEmpty = !message.content && !message.reasoning && !message.calls.length;
    const { parent } = message;
    answer(conversation, isEmpty ? message : conversation.add(newMessage({ parent, role: "assistant" })));
  },
  /** The answer goes on where it ended. */
  goOn(message) {
    const tokens = message.tokens.filter((t) => !t.end);
    begin(message, message.content, tokens.length ? tokens : [{ text: message.content, p: null }]);
  },
  /** The answer goes on from another token. */
  choose(message, at, token) {
    const before = message.tokens.slice(0, at);
    const taken = { ...token, top: message.tokens[at].top };
    if (token.end) {
      const content = at ? textWith(message, at - 1, message.tokens[at - 1]) : "";
      return begin(message, content ?? "", [...before, taken], "stop");
    }
    const content = textWith(message, at, token);
    if (content !== null) begin(message, content, [...before, taken]);
  },
  /** Another version of a message is shown. */
  turn(message, to) {
    const { conversation } = page;
    const other = conversation.siblings(message)[to];
    if (!other) return;
    conversation.choose(other);
    draw();
    save(conversation);
  },
  /** Results of tools, and the answer to them. */
  results(message, texts) {
    const { conversation } = page;
    let parent = message.id;
    const told = message.calls.map((call, i) => {
      const result = conversation.add(newMessage({ parent, role: "tool", content: texts[i], callId: call.id }));
      parent = result.id;
      return result;
    });
    answer(conversation, conversation.add(newMessage({ parent, role: "assistant" })), ...told);
  },
  isLast: (message) => page.conversation.path().at(-1) === message && !page.runs.has(page.conversation.id),
  /** A view has been drawn: the end stays in sight. */
  painted() {
    const scroll = $("scroll");
    if (page.sticks) scroll.scrollTop = scroll.scrollHeight;
  },
};

/** A sibling of an answer that begins with this text; it is continued unless it has ended. */
function begin(message, content, tokens, finish = null) {
  const { conversation } = page;
  if (page.runs.has(conversation.id)) return tell("An answer is still coming: stop it first.");
  const { parent, reasoning, reasoned } = message;
  const begun = conversation.add(newMessage({ parent, role: "assistant", content, reasoning, reasoned, tokens, finish }));
  if (finish === null) answer(conversation, begun);
  else save(conversation, begun).then(draw);
}

// ---- what is pressed

function fitEntry() {
  const entry = $("entry");
  entry.style.height = "auto";
  entry.style.height = `${Math.min(entry.scrollHeight, innerHeight * 0.4)}px`;
}

/** Takes what was written. */
function submit(event) {
  event.preventDefault();
  const text = $("entry").value;
  if (!text.trim() || page.runs.has(page.conversation.id)) return;
  $("entry").value = "";
  fitEntry();
  send(text);
}

function listen() {
  $("composer").addEventListener("submit", submit);
  $("entry").addEventListener("input", fitEntry);
  $("entry").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  });
  const stop = () => page.runs.get(page.conversation.id)?.stop();
  $("stop").addEventListener("click", () => {
    stop();
    $("entry").focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.defaultPrevented || document.querySelector("dialog[open], :popover-open")) return;
    if (document.body.classList.contains("listing")) listing(false);
    else stop();
  });
  $("scroll").addEventListener("scroll", () => {
    const { scrollHeight, scrollTop, clientHeight } = $("scroll");
    page.sticks = scrollHeight - scrollTop - clientHeight < 48;
    $("latest").hidden = page.sticks;
  }, { passive: true });
  $("latest").addEventListener("click", () => {
    $("scroll").scrollTop = $("scroll").scrollHeight;
    $("entry").focus();
  });
  $("model").addEventListener("change", () => {
    keep("geb.model", $("model").value);
    drawEmpty();
  });
  $("new").addEventListener("click", () => {
    show(fresh());
    $("entry").focus();
  });
  listenList();
  const edit = async () => {
    const { conversation } = page;
    const found = await settings.edit(conversation.settings, { clear: forgetAll, colour: setColour });
    if (!found) return;
    conversation.settings = found;
    if (conversation.messages.size) await save(conversation);
    draw();
  };
  $("settings-open").addEventListener("click", edit);
  $("summary").addEventListener("click", edit);
  $("theme").addEventListener("click", () => {
    const order = ["", "light", "dark"];
    setColour(order[(order.indexOf(globalThis.theme()) + 1) % 3]);
  });
  addEventListener("popstate", () => openById(location.hash.slice(1)));
  document.addEventListener("visibilitychange", () => document.hidden || drawList());
}

/** Opens or closes the list where it lies over the page. */
function setListing(opens) {
  document.body.classList.toggle("listing", opens);
  $("side-open").setAttribute("aria-expanded", opens);
  $("page").inert = opens;
}

/** As `setListing`, with the focus where it then belongs. */
function listing(opens) {
  setListing(opens);
  if (opens) $("side-close").focus();
  else $("side-open").focus();
}

function listenList() {
  $("side-open").addEventListener("click", () => listing(true));
  $("side-close").addEventListener("click", () => listing(false));
  $("veil").addEventListener("click", () => listing(false));
  $("export").addEventListener("click", list.exportAll);
  $("import").addEventListener("click", () => $("import-file").click());
  $("import-file").addEventListener("change", async () => {
    const [file] = $("import-file").files;
    $("import-file").value = "";
    const first = file && (await list.importFile(file));
    if (first) await openById(first);
  });
}

function setColour(name) {
  globalThis.setTheme(name);
  drawTheme();
}

function drawTheme() {
  const label = `Colours: ${globalThis.theme() || "as the system"}`;
  $("theme").title = label;
  $("theme").setAttribute("aria-label", label);
}

async function start() {
  onKey(settings.askKey);
  listen();
  drawTheme();
  page.conversation = fresh();
  await openById(location.hash.slice(1));
  if (!(await store.lasts())) tell("This browser keeps nothing: conversations end with the page.");
  $("entry").focus();
  await loadModels();
}

start();
