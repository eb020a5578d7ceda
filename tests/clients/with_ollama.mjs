// ollama for JavaScript: chat, generate, embed, models, errors.
import assert from "node:assert/strict";
import { Ollama } from "ollama";

const client = new Ollama({ host: process.env.GEB_URL });
const model = process.env.GEB_NAME;
const messages = [{ role: "user", content: "In the beginning" }];
const options = { seed: 7, num_predict: 24 };
const whole = await client.chat({ model, messages, options });
assert.ok(whole.message.content && whole.done);
let text = "";
for await (const part of await client.chat({ model, messages, options, stream: true })) text += part.message.content;
assert.equal(text, whole.message.content);
const raw = await client.generate({ model, prompt: "In the beginning\n", raw: true, options });
assert.equal(raw.response, text);
assert.equal((await client.embed({ model, input: ["a", "b"] })).embeddings.length, 2);
assert.deepEqual((await client.list()).models.map((m) => m.name), [model + ":latest"]);
assert.ok((await client.show({ model })).capabilities.includes("completion"));
assert.ok((await client.version()).version);
await assert.rejects(client.chat({ model: "x", messages }), (e) => e.status_code === 404);
console.log("ollama for JavaScript");
