// Small helpers for elements, dialogs and frames. Texts only ever become text nodes.

/** The element with this id. */
export const $ = (id) => document.getElementById(id);

/** An element with attributes and children; functions listen, texts become text nodes. */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child != null && child !== false));
  return made;
}

/** One of the page's icons. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** A button with an icon and a name that narrow screens hide. */
export function button(symbol, label, click) {
  return el("button", { type: "button", class: "tool", title: label, "aria-label": label, click },
    icon(symbol), el("span", {}, label));
}

/** An id that nobody else has; `randomUUID` exists over TLS and on localhost only. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

let quiet = 0;
/** Tells what has happened, by eye and by ear. */
export function tell(text) {
  const status = $("status");
  status.textContent = text;
  status.className = "toast";
  clearTimeout(quiet);
  quiet = setTimeout(() => {
    status.className = "unseen";
    status.textContent = "";
  }, 4000);
}

/** Tells screen readers alone. */
export function whisper(text) {
  const status = $("status");
  if (status.className !== "toast") status.textContent = text;
}

/** Copies a text. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Over plain HTTP there is no clipboard but the old one.
    const area = el("textarea", { class: "unseen", "aria-hidden": "true" });
    area.value = text;
    const back = document.activeElement;
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    back?.focus();
    if (!done) return tell("The browser does not let this page copy.");
  }
  tell("Copied.");
}

/** Opens a dialog; its answer is what `read` gives when it is submitted, or null. */
export function open(dialog, read) {
  return new Promise((resolve) => {
    let answer = null;
    const form = dialog.querySelector("form");
    const submit = (event) => {
      event.preventDefault();
      const found = read();
      if (found === undefined) return;
      answer = found;
      dialog.close();
    };
    const click = (event) => {
      if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
    };
    const close = () => {
      form.removeEventListener("submit", submit);
      dialog.removeEventListener("click", click);
      resolve(answer);
    };
    form.addEventListener("submit", submit);
    dialog.addEventListener("click", click);
    dialog.addEventListener("close", close, { once: true });
    dialog.showModal();
  });
}

/** Asks for a yes (true), or for a text if one is given; null: no. */
export function ask({ title, text = "", input, ok, danger = false }) {
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-text").hidden = !text;
  $("ask-field").hidden = input === undefined;
  $("ask-input").value = input ?? "";
  $("ask-ok").textContent = ok;
  $("ask-ok").className = danger ? "danger solid" : "accent";
  const answer = open($("ask"), () => (input === undefined ? true : $("ask-input").value.trim() || undefined));
  if (input !== undefined) $("ask-input").select();
  return answer;
}

/** Shows a popover beside an element, inside the window. */
export function pop(popover, beside) {
  popover.showPopover();
  const at = beside.getBoundingClientRect();
  const { width, height } = popover.getBoundingClientRect();
  const left = Math.min(at.left, innerWidth - width - 8);
  const below = at.bottom + 4;
  const top = below + height > innerHeight - 8 ? at.top - height - 4 : below;
  popover.style.left = `${Math.max(8, left)}px`;
  popover.style.top = `${Math.max(8, top)}px`;
  popover.querySelector("button:not(:disabled)")?.focus();
}

const waiting = new Set();
let asked = false;
let rest = 0;
/** Calls `paint` of a view in the next frame, once, and leaves frames out when painting takes long. */
export function schedule(view) {
  waiting.add(view);
  if (asked) return;
  asked = true;
  requestAnimationFrame(frame);
}

function frame(now) {
  if (now < rest) return void requestAnimationFrame(frame);
  asked = false;
  const views = [...waiting];
  waiting.clear();
  const start = performance.now();
  for (const view of views) view.paint();
  const took = performance.now() - start;
  rest = took > 6 ? now + 4 * took : 0;
}
