// The server's API: models, and answers as a stream of server-sent events.

const KEY = "geb.key";
const kept = (storage) => {
  try {
    return storage().getItem(KEY) ?? "";
  } catch {
    return "";
  }
};
let key = kept(() => sessionStorage) || kept(() => localStorage);

/** Uses a key, until the tab is closed or for good. */
export function setKey(text, forGood) {
  key = text;
  try {
    sessionStorage.removeItem(KEY);
    localStorage.removeItem(KEY);
    if (text) (forGood ? localStorage : sessionStorage).setItem(KEY, text);
  } catch {
    // Without storage the page alone knows it.
  }
}

/** Why there is no answer. */
export class ApiError extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }

  /** What to do about it. */
  get advice() {
    if (this.code === "context_length_exceeded") return "Shorten the text or begin a new conversation.";
    if (this.code === "model_not_found") return "Choose another model.";
    switch (this.status) {
      case 0: return "Look whether the server runs, then retry.";
      case 401: return "Enter a key in the settings, then retry.";
      case 403: return "Open the page by an address that the server allows.";
      case 503: return "Retry in a moment.";
      case 500: return "Retry; the server’s log has more.";
      default: return "";
    }
  }
}

let askKey = async () => false;
/** What asks for a key; true: try again. */
export function onKey(asks) {
  askKey = asks;
}

/** A request; a server that wants a key gets one if there is one to be had. */
async function call(path, options = {}) {
  for (;;) {
    const headers = { ...options.headers };
    // A header holds bytes; what is none cannot be a key.
    if (key && /^[\x21-\x7e]+$/.test(key)) headers.authorization = `Bearer ${key}`;
    let response;
    try {
      response = await fetch(path, { ...options, headers, credentials: "omit", referrerPolicy: "no-referrer" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The server cannot be reached.");
    }
    if (response.ok) return response;
    const body = await response.json().catch(() => null);
    const told = body?.error;
    const text = typeof told?.message === "string" ? told.message : `The server answers ${response.status}.`;
    if (response.status === 401 && (await askKey(text))) continue;
    throw new ApiError(sentence(text), response.status, told?.code ?? null);
  }
}

/** A text as a sentence. */
function sentence(text) {
  const whole = text.trim();
  return /[.!?…]$/.test(whole) ? whole : `${whole}.`;
}

/** The models that are served. */
export async function models() {
  const body = await (await call("v1/models")).json();
  return Array.isArray(body?.data) ? body.data.filter((m) => typeof m?.id === "string") : [];
}

/** The data of server-sent events, as it comes. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let open = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (open + value).split("\n");
      open = lines.pop();
      for (const raw of lines) {
        const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Asks for an answer: first calls `started` with the response's headers, then gives each chunk. */
export async function* chat(body, signal, started) {
  const response = await call("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  started(response.headers);
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      let chunk;
      try {
        chunk = JSON.parse(data);
      } catch {
        throw new ApiError("The server sent something that is no JSON.", 500);
      }
      if (chunk?.error) throw new ApiError(sentence(String(chunk.error.message ?? "The answer failed.")), 500, chunk.error.code);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError("The connection broke off.");
  }
  throw new ApiError("The connection broke off before the answer was whole.");
}
