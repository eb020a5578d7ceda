// A message on the page, and what can be done with it.

import { button, copy, el, schedule } from "./dom.js";
import { Markdown } from "./markdown.js";
import { tokenView } from "./tokens.js";

const NAMES = { user: "You", assistant: "Answer", tool: "Result" };

export class MessageView {
  /** `actions` does what the buttons say: edit, again, goOn, choose, turn, results. */
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.root = el("article", { class: `message ${message.role}`, "aria-label": NAMES[message.role] });
    this.text = el("div", { class: "text", dir: "auto" });
    this.notes = el("div", { class: "notes" });
    this.foot = el("footer");
    this.root.append(this.text, this.notes, this.foot);
    if (message.role === "assistant") {
      this.markdown = new Markdown(this.text);
      this.text.addEventListener("click", copyCode);
    }
    this.running = false;
    this.at = [0, 1];
    this.shownFoot = "";
  }

  /** Where it is among its siblings, and whether it is being answered; drawn in the next frame. */
  place(at, count, running) {
    this.at = [at, count];
    this.running = running;
    schedule(this);
  }

  /** Draws what has changed. */
  paint() {
    const { message, running } = this;
    this.root.classList.toggle("running", running);
    this.root.setAttribute("aria-busy", running);
    if (this.editing) return;
    if (message.role === "assistant") {
      if (running && this.tokens) this.#toggleTokens();
      this.#reasoning();
      if (!this.tokens) this.markdown.show(message.content, !running);
      this.text.hidden = !message.content;
      this.#calls();
    } else if (this.text.textContent !== message.content) this.text.textContent = message.content;
    this.#notes();
    this.#foot();
    this.actions.painted(this);
  }

  #reasoning() {
    const { message, running } = this;
    if (!message.reasoning) return void (this.fold?.remove(), (this.fold = null));
    if (!this.fold) {
      this.thought = el("div", { class: "thought", dir: "auto" });
      this.thoughtName = el("summary");
      this.fold = el("details", { class: "reasoning", toggle: () => schedule(this) }, this.thoughtName, this.thought);
      this.text.before(this.fold);
    }
    const seconds = message.reasoned ? ` · ${(message.reasoned / 1000).toFixed(1)} s` : "";
    const name = running && !message.content ? `Reasoning…${seconds}` : `Reasoning${seconds}`;
    if (this.thoughtName.textContent !== name) this.thoughtName.textContent = name;
    if (!this.fold.open) return;
    // One text node that grows.
    const node = this.thought.firstChild ?? this.thought.appendChild(document.createTextNode(""));
    if (message.reasoning.startsWith(node.data)) node.appendData(message.reasoning.slice(node.length));
    else node.data = message.reasoning;
  }

  #calls() {
    const { message, running } = this;
    if (!message.calls.length) return void (this.calls?.remove(), (this.calls = null));
    if (!this.calls) {
      this.calls = el("div", { class: "calls" });
      this.notes.before(this.calls);
    }
    message.calls.forEach((call, at) => {
      const card = this.calls.children[at] ?? this.calls.appendChild(
        el("section", { class: "call", "aria-label": "Tool call" }, el("h2", {}, "Calls ", el("bdi")), el("pre", { tabindex: "0" })));
      card.querySelector("bdi").textContent = call.name || "…";
      card.querySelector("pre").textContent = running ? call.arguments : indented(call.arguments);
    });
    const wanted = !running && this.actions.isLast(message);
    if (wanted && !this.results) this.#askResults();
    if (!wanted && this.results) {
      this.results.remove();
      this.results = null;
    }
  }

  /** The user is the tools: a field for the result of each call. */
  #askResults() {
    const fields = this.message.calls.map((call) =>
      el("label", { class: "field" }, el("span", {}, "Result of ", el("bdi", {}, call.name)), el("textarea", { rows: "2", spellcheck: "false" })));
    const submit = (event) => {
      event.preventDefault();
      this.actions.results(this.message, fields.map((f) => f.querySelector("textarea").value));
    };
    this.results = el("form", { class: "results", submit }, fields, el("button", { type: "submit", class: "accent" }, "Send results"));
    this.calls.after(this.results);
  }

  #notes() {
    const { message, running } = this;
    const lines = [];
    if (message.error) {
      lines.push(["error", `${message.error} ${message.advice ?? ""}`.trim()]);
    } else if (!running && message.role === "assistant") {
      const finish = message.finish;
      if (finish === "length") lines.push(["note", "Cut at the length that was allowed."]);
      else if (finish === "stopped") lines.push(["note", "Stopped."]);
      else if (finish === null) lines.push(["note", "The page was left before the answer was whole."]);
      else if (!message.content && !message.calls.length) lines.push(["note", "The answer is empty."]);
    }
    if (message.note) lines.push(["note", message.note]);
    if (running && !message.content && !message.reasoning && !message.calls.length) lines.push(["waits", "Reading the prompt…"]);
    const key = JSON.stringify(lines);
    if (this.shownNotes === key) return;
    this.shownNotes = key;
    this.notes.replaceChildren(...lines.map(([kind, text]) =>
      el("p", { class: kind, role: kind === "error" && "alert" }, text,
        kind === "error" && el("button", { type: "button", click: () => this.actions.again(message) }, "Retry"))));
  }

  #foot() {
    const { message, running, at: [at, count] } = this;
    const speed = speedLine(message);
    const key = [running, at, count, message.finish, message.tokens.length > 0 && !running, Boolean(this.tokens)].join();
    if (this.shownFoot !== key) {
      const focused = this.foot.contains(document.activeElement) && document.activeElement.title;
      this.shownFoot = key;
      this.speed = el("span", { class: "speed" });
      this.foot.replaceChildren(...this.#tools(), this.speed);
      if (focused) this.foot.querySelector(`[title="${CSS.escape(focused)}"]`)?.focus();
    }
    if (this.speed.textContent !== speed) this.speed.textContent = speed;
  }

  #tools() {
    const { message, running, actions, at: [at, count] } = this;
    const tools = [];
    if (count > 1) {
      const turn = (name, label, to) => {
        const turned = button(name, label, () => actions.turn(message, to));
        turned.disabled = to < 0 || to >= count;
        return turned;
      };
      tools.push(el("span", { class: "versions" },
        turn("left", "Version before", at - 1), el("span", {}, `${at + 1} / ${count}`), turn("right", "Version after", at + 1)));
    }
    if (running) return tools;
    tools.push(button("copy", "Copy", () => copy(message.content)));
    if (message.role === "tool") return tools;
    tools.push(button("edit", "Edit", () => this.#edit()));
    if (message.role === "user") return tools;
    tools.push(button("again", "Regenerate", () => actions.again(message)));
    if (message.content && !["stop", "tool_calls"].includes(message.finish)) tools.push(button("on", "Continue", () => actions.goOn(message)));
    if (message.content && message.tokens.length) {
      const toggle = button("tokens", "Tokens", () => this.#toggleTokens());
      toggle.setAttribute("aria-pressed", Boolean(this.tokens));
      tools.push(toggle);
    }
    return tools;
  }

  #toggleTokens() {
    if (this.tokens) {
      this.tokens = null;
      this.markdown = new Markdown(this.text);
    } else {
      this.tokens = tokenView(this.message, (at, token) => this.actions.choose(this.message, at, token));
      this.text.replaceChildren(this.tokens);
    }
    schedule(this);
  }

  #edit() {
    this.editing = true;
    const area = el("textarea", { "aria-label": "Text of the message", rows: "3" });
    area.value = this.message.content;
    const stop = () => {
      this.editing = false;
      form.replaceWith(this.text);
      this.foot.hidden = false;
      schedule(this);
      queueMicrotask(() => this.foot.querySelector('[title="Edit"]')?.focus());
    };
    const submit = (event) => {
      event.preventDefault();
      const text = area.value;
      stop();
      if (text.trim() && text !== this.message.content) this.actions.edit(this.message, text);
    };
    const keydown = (event) => {
      if (event.key === "Escape") stop();
      else if (event.key === "Enter" && !event.shiftKey && !event.isComposing && this.message.role === "user") submit(event);
      else return;
      event.stopPropagation();
    };
    const save = this.message.role === "user" ? "Send" : "Save";
    const form = el("form", { class: "edit", submit, keydown }, area,
      el("div", { class: "row" }, el("button", { type: "submit", class: "accent" }, save), el("button", { type: "button", click: stop }, "Cancel")));
    this.text.hidden = false;
    this.text.replaceWith(form);
    this.foot.hidden = true;
    area.style.height = `${Math.min(area.scrollHeight + 2, innerHeight / 2)}px`;
    area.focus();
  }
}

/** Copies the code block whose button was clicked. */
function copyCode(event) {
  const clicked = event.target.closest("[data-copy]");
  if (clicked) copy(clicked.closest("figure").querySelector("code").textContent.replace(/\n$/, ""));
}

/** JSON with lines; other texts as they are. */
function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Tokens, tokens per second, time to the first one, the prompt, the seed. */
function speedLine(message) {
  const { speed, usage, seed } = message;
  if (!speed || speed.first === null) return "";
  const parts = [`${speed.tokens} ${speed.tokens === 1 ? "token" : "tokens"}`];
  if (speed.tokens > 1 && speed.ms > 0) parts.push(`${((speed.tokens - 1) / (speed.ms / 1000)).toFixed(1)} tok/s`);
  parts.push(`first after ${(speed.first / 1000).toFixed(2)} s`);
  if (usage) parts.push(usage.cached ? `prompt ${usage.prompt} (${usage.cached} cached)` : `prompt ${usage.prompt}`);
  if (seed) parts.push(`seed ${seed}`);
  // A line ends behind a dot, never before it.
  return parts.join("\u00a0· ");
}
