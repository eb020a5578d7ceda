// A stage between the browser and the server: the page's files come from the server as they are, the API is played.

import http from "node:http";

/** What a stage says if it is told nothing else. */
const MODELS = [{ id: "stage-model", meta: { n_params: 1_500_000_000, n_ctx: 8192, size: 1_100_000_000 } }];

export async function startStage(address) {
  const target = new URL(address);
  const stage = {
    /** Answers a chat: gets the body, the response, the request. */
    answer: null,
    models: MODELS,
    /** Bodies of all chats, and headers. */
    asked: [],
  };
  const server = http.createServer(async (request, response) => {
    const path = request.url.split("?")[0];
    if (path === "/v1/models") {
      if (stage.guard && !stage.guard(request, response)) return;
      return json(response, 200, { object: "list", data: stage.models });
    }
    if (path === "/v1/chat/completions") {
      if (stage.guard && !stage.guard(request, response)) return;
      let text = "";
      for await (const piece of request) text += piece;
      const body = JSON.parse(text);
      stage.asked.push({ body, headers: request.headers });
      return stage.answer(body, response, request);
    }
    const headers = { ...request.headers, host: target.host };
    delete headers.origin;
    const passed = http.request({ host: target.hostname, port: target.port, path: request.url, method: request.method, headers });
    passed.on("response", (found) => {
      response.writeHead(found.statusCode, found.headers);
      found.pipe(response);
    });
    passed.on("error", () => response.destroy());
    request.pipe(passed);
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  stage.address = `http://127.0.0.1:${server.address().port}`;
  stage.reset = (answer) => {
    Object.assign(stage, { answer, models: MODELS, asked: [], guard: null });
  };
  stage.close = () => {
    server.closeAllConnections();
    return new Promise((done) => server.close(done));
  };
  return stage;
}

/** A response in JSON. */
export function json(response, status, value) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(value));
}

/** An error as the server writes them. */
export function refuse(response, status, message, code = null) {
  json(response, status, { error: { message, type: "invalid_request_error", param: null, code } });
}

/** Begins a stream; `send` takes choices, `end` finishes it. */
export function stream(response, headers = {}) {
  response.writeHead(200, { "content-type": "text/event-stream", ...headers });
  const chunk = (value) => ({ id: "chatcmpl-1", object: "chat.completion.chunk", created: 1, model: "stage-model", ...value });
  const write = (value) => response.write(`data: ${JSON.stringify(value)}\n\n`);
  const self = {
    raw: (text) => response.write(text),
    delta(delta, logprobs = null) {
      return write(chunk({ choices: [{ index: 0, delta, logprobs, finish_reason: null }], usage: null }));
    },
    end(reason = "stop", usage = { prompt_tokens: 12, completion_tokens: 34, prompt_tokens_details: { cached_tokens: 5 } }) {
      write(chunk({ choices: [{ index: 0, delta: {}, finish_reason: reason }], usage: null }));
      write(chunk({ choices: [], usage }));
      response.end("data: [DONE]\n\n");
    },
  };
  self.delta({ role: "assistant", content: "" });
  return self;
}

/** An answer that says a text at once, in pieces of `size` characters. */
export const says = (text, size = 7) => (body, response) => {
  const out = stream(response);
  for (let at = 0; at < text.length; at += size) out.delta({ content: text.slice(at, at + size) });
  out.end();
};

/** A token with its log-probability, as the API tells it. */
export function told(token, logprob = -0.1, others = []) {
  const one = ([text, p]) => ({ token: text === null ? "</s>" : Array.isArray(text) ? "\ufffd" : text, logprob: p, bytes: bytes(text) });
  return { ...one([token, logprob]), top_logprobs: [[token, logprob], ...others].map(one) };
}

/** Bytes of a text; a list is bytes already, null is a token that ends. */
function bytes(text) {
  if (text === null || Array.isArray(text)) return text;
  return [...Buffer.from(text)];
}
