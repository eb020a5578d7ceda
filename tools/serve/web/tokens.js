// Tokens of an answer, their probabilities, and the alternatives that another answer can go on from.

import { $, el, pop } from "./dom.js";

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lax = new TextDecoder("utf-8", { ignoreBOM: true });
const encoder = new TextEncoder();

/** The text of these bytes; null if characters are cut. */
export function textOf(bytes) {
  try {
    return strict.decode(Uint8Array.from(bytes));
  } catch {
    return null;
  }
}

/** The bytes of tokens; one that ends an answer has none. */
function bytesOf(tokens) {
  const all = [];
  for (const t of tokens) if (!t.end) for (const b of t.bytes ?? encoder.encode(t.text)) all.push(b);
  return all;
}

/** The text of tokens; null if characters are cut. */
export function joined(tokens) {
  return textOf(bytesOf(tokens));
}

/** The text before token `at`, and then another token; null if that is no whole text. */
export function textWith(message, at, other) {
  const tokens = message.tokens.slice(0, at);
  const text = joined([...tokens, other]);
  if (text === null) return null;
  // Some templates begin an answer behind a space or a line, which is not part of its text.
  const all = lax.decode(Uint8Array.from(bytesOf(message.tokens)));
  const begins = message.content.startsWith(all.slice(0, message.content.length));
  return begins ? text : text.slice(all.length - all.trimStart().length);
}

/** A token with its spaces and lines visible. */
function visible(token) {
  if (token.end) return `${token.text} ends the answer`;
  if (token.bytes) return token.bytes.map((b) => `<${b.toString(16).toUpperCase().padStart(2, "0")}>`).join("");
  return token.text.replace(/^ | $/g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥") || "(empty)";
}

/** A probability in percent. */
export function percent(p) {
  const n = Math.exp(p) * 100;
  if (n >= 99.95) return "100 %";
  if (n >= 10) return `${n.toFixed(0)} %`;
  if (n >= 0.1) return `${n.toFixed(1)} %`;
  return n >= 0.01 ? `${n.toFixed(2)} %` : "< 0.01 %";
}

/** How sure the model was, in five steps. */
function level(p) {
  if (p === null) return "";
  const n = Math.exp(p);
  return n > 0.9 ? "p4" : n > 0.6 ? "p3" : n > 0.3 ? "p2" : n > 0.1 ? "p1" : "p0";
}

/** Shows the tokens of a message; `choose(at, token)` goes on from another one. */
export function tokenView(message, choose) {
  const spans = message.tokens.map((token, at) =>
    el("span", {
      class: `token ${level(token.p)}`,
      role: "button",
      tabindex: at === 0 ? "0" : "-1",
      "data-at": at,
      "aria-haspopup": "dialog",
      "aria-label": token.p === null ? visible(token) : `${visible(token)}, ${percent(token.p)}`,
    }, el("bdi", {}, token.end || token.bytes ? visible(token) : token.text.replace(/\n/g, "⏎\n"))));
  const view = el("div", { class: "tokens", role: "group", "aria-label": "Tokens; arrow keys move, Enter shows alternatives" }, spans);
  let current = 0;
  const go = (at) => {
    if (!spans[at]) return;
    spans[current].setAttribute("tabindex", "-1");
    current = at;
    spans[at].setAttribute("tabindex", "0");
    spans[at].focus();
  };
  const show = (span) => showAlternatives(message, Number(span.dataset.at), span, choose);
  view.addEventListener("click", (event) => {
    const span = event.target.closest(".token");
    if (!span) return;
    go(Number(span.dataset.at));
    show(span);
  });
  const moves = { ArrowLeft: (n) => n - 1, ArrowRight: (n) => n + 1, Home: () => 0, End: () => spans.length - 1 };
  view.addEventListener("keydown", (event) => {
    if (moves[event.key]) go(moves[event.key](current));
    else if (event.key === "Enter" || event.key === " ") show(spans[current]);
    else return;
    event.preventDefault();
  });
  return view;
}

/** Lists the alternatives of a token. */
function showAlternatives(message, at, beside, choose) {
  const token = message.tokens[at];
  const same = (a) => a.text === token.text && String(a.bytes) === String(token.bytes);
  const list = [...(token.top ?? [])].sort((a, b) => b.p - a.p);
  if (!list.some(same)) list.push(token);
  const popover = $("alternatives");
  const rows = list.map((other) => {
    const taken = same(other);
    const dead = !taken && !other.end && textWith(message, at, other) === null;
    const bar = el("span", { class: "bar" }, el("span"));
    bar.firstChild.style.width = other.p === null ? "0" : `${Math.exp(other.p) * 100}%`;
    return el("button", {
      type: "button",
      class: "alternative",
      disabled: taken || dead,
      title: dead ? "part of a character: nothing can go on from it" : taken ? "this one was taken" : false,
      "aria-current": taken && "true",
      click: () => {
        popover.hidePopover();
        choose(at, other);
      },
    }, el("bdi", { class: "code" }, visible(other)), bar, el("span", { class: "percent" }, other.p === null ? "—" : percent(other.p)));
  });
  const none = list.length > 1 ? null : el("p", { class: "hint" }, "Alternatives were not asked for.");
  popover.replaceChildren(el("p", { class: "hint" }, "Go on from another token"), ...rows, ...(none ? [none] : []));
  pop(popover, beside);
}
