// An answer: what is asked for, and how the pieces that come become a message.

import { ApiError, chat } from "./api.js";
import { joined, textOf } from "./tokens.js";

/** Settings that are sent as they are. */
const SENT = [
  "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "seed",
  "max_tokens", "stop", "tools",
];

/** A message as the API wants it; null for an answer of which nothing came. */
function asSent(message) {
  const { role, content } = message;
  if (role === "tool") return { role, content, tool_call_id: message.callId };
  if (role !== "assistant") return { role, content };
  if (!content && !message.calls.length) return null;
  const sent = { role, content };
  if (message.reasoning) sent.reasoning_content = message.reasoning;
  if (message.calls.length) {
    sent.tool_calls = message.calls.map((call) => ({
      id: call.id,
      type: "function",
      function: { name: call.name, arguments: call.arguments },
    }));
  }
  return sent;
}

/** What to ask for the answer `message` behind `before`; one that has a text already is continued. Also what of the
 * settings does not hold then. */
export function request(model, settings, before, message) {
  const messages = [...before, message].map(asSent).filter((m) => m !== null);
  if (settings.system) messages.unshift({ role: "system", content: settings.system });
  const body = { messages, stream: true, stream_options: { include_usage: true } };
  if (model) body.model = model;
  for (const name of SENT) if (settings[name] !== undefined) body[name] = settings[name];
  if (settings.alternatives !== false) Object.assign(body, { logprobs: true, top_logprobs: 5 });
  if (settings.thinking) body.chat_template_kwargs = { enable_thinking: settings.thinking === "on" };
  if (!settings.schema) return { body };
  // A schema describes a whole answer, not the rest of one.
  if (message.content) return { body, note: "The schema holds for whole answers, not for one that is continued." };
  body.response_format = { type: "json_schema", json_schema: { name: "answer", schema: settings.schema } };
  return { body };
}

/** Writes an answer into `message` as it comes, and calls `changed` after each piece. Never throws. */
export async function receive(message, { body, note }, signal, changed) {
  const reader = new Reader(message);
  message.model = body.model ?? "";
  message.error = message.advice = undefined;
  message.note = note;
  message.finish = null;
  changed();
  try {
    const headers = (found) => {
      message.seed = found.get("x-geb-seed") ?? undefined;
      const ignored = found.get("x-geb-ignored");
      if (ignored) message.note = `Without effect on this server: ${ignored}.`;
      changed();
    };
    for await (const chunk of chat(body, signal, headers)) {
      reader.take(chunk);
      changed();
    }
    message.finish ??= "stop";
  } catch (error) {
    if (error.name === "AbortError") {
      message.finish = "stopped";
    } else {
      message.finish = "error";
      message.error = error.message;
      message.advice = error instanceof ApiError ? error.advice : "";
    }
  }
  reader.end();
  changed();
}

/** Reads the chunks of one answer. */
class Reader {
  constructor(message) {
    this.message = message;
    this.asked = performance.now();
    /** Tokens whose text has not come yet. */
    this.open = [];
    message.speed = { tokens: 0, first: null, ms: 0 };
  }

  take(chunk) {
    const { message } = this;
    if (typeof chunk.model === "string") message.model = chunk.model;
    if (chunk.usage) message.usage = usage(chunk.usage);
    const choice = chunk.choices?.[0];
    if (!choice) return;
    const delta = choice.delta ?? {};
    const tokens = (choice.logprobs?.content ?? []).map(token);
    const reasoning = text(delta.reasoning_content ?? delta.reasoning);
    const content = text(delta.content);
    if (reasoning || content || delta.tool_calls || tokens.length) this.#tick(tokens.length);
    this.open.push(...tokens);
    if (reasoning) {
      this.thinking ??= performance.now();
      message.reasoning += reasoning;
      message.reasoned = performance.now() - this.thinking;
      this.open = [];
    }
    if (content) {
      message.content += content;
      message.tokens.push(...ofText(this.open, content, tokens.length));
      this.open = [];
    }
    if (Array.isArray(delta.tool_calls)) {
      for (const piece of delta.tool_calls) this.#call(piece);
      this.open = [];
    }
    if (typeof choice.finish_reason === "string") message.finish = choice.finish_reason;
  }

  #tick(tokens) {
    const { speed } = this.message;
    const now = performance.now();
    speed.tokens += tokens || 1;
    speed.first ??= now - this.asked;
    speed.ms = now - this.asked - speed.first;
  }

  /** A piece of a tool call. */
  #call(piece) {
    const { calls } = this.message;
    const at = Number.isInteger(piece?.index) && piece.index < 128 ? piece.index : calls.length;
    while (calls.length <= at) calls.push({ id: "", name: "", arguments: "" });
    calls[at].id += text(piece?.id);
    calls[at].name += text(piece?.function?.name);
    calls[at].arguments += text(piece?.function?.arguments);
  }

  /** What is open at the end: the token that ended the answer. */
  end() {
    const { message } = this;
    const ends = this.open.filter((t) => t.end);
    if (message.content && ends.length) message.tokens.push(...ends);
    if (message.usage) message.speed.tokens = message.usage.sampled;
  }
}

const text = (value) => (typeof value === "string" ? value : "");

/** Of the tokens since the last text those that make up `content`: markers before it are not part of it. */
function ofText(tokens, content, fresh) {
  for (let from = 0; from < tokens.length - fresh; from++) {
    if (joined(tokens.slice(from)) === content) return tokens.slice(from);
  }
  return fresh && joined(tokens) === content ? tokens : tokens.slice(-fresh || tokens.length);
}

/** A token as it is kept: text, log-probability, bytes if they are no whole text, alternatives. */
function token(told) {
  const kept = { text: text(told?.token), p: Number.isFinite(told?.logprob) ? told.logprob : null };
  if (told?.bytes === null) kept.end = true;
  else if (Array.isArray(told?.bytes)) {
    const whole = textOf(told.bytes);
    if (whole === null) kept.bytes = told.bytes;
    else kept.text = whole;
  }
  if (Array.isArray(told?.top_logprobs)) kept.top = told.top_logprobs.map(token);
  return kept;
}

/** Counts of tokens. */
function usage(told) {
  const count = (n) => (Number.isFinite(n) ? n : 0);
  return {
    prompt: count(told.prompt_tokens),
    cached: count(told.prompt_tokens_details?.cached_tokens),
    sampled: count(told.completion_tokens),
    reasoning: count(told.completion_tokens_details?.reasoning_tokens),
  };
}
