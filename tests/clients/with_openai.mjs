// openai for JavaScript: chat, stream, embeddings, responses, errors.
import assert from "node:assert/strict";
import OpenAI from "openai";

const model = process.env.GEB_NAME;
const client = new OpenAI({ baseURL: process.env.GEB_URL + "/v1", apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "In the beginning" }];
const how = { model, messages, max_tokens: 24, seed: 7 };

const whole = await client.chat.completions.create(how);
const text = whole.choices[0].message.content;
assert.ok(text);
let streamed = "", usage = null;
for await (const chunk of await client.chat.completions.create({ ...how, stream: true, stream_options: { include_usage: true } })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(streamed, text);
assert.deepEqual([usage.prompt_tokens, usage.completion_tokens], [whole.usage.prompt_tokens, whole.usage.completion_tokens]);
const final = await client.chat.completions.stream(how).finalContent();
assert.equal(final, text);

const texts = await Promise.all(Array.from({ length: 16 }, () => client.chat.completions.create(how)));
assert.ok(texts.every((t) => t.choices[0].message.content === text));

// Base64 is its default.
const coded = await client.embeddings.create({ model, input: ["a river", "a hill"] });
const plain = await client.embeddings.create({ model, input: ["a river", "a hill"], encoding_format: "float" });
coded.data.forEach((d, i) => d.embedding.forEach((x, j) => assert.ok(Math.abs(x - plain.data[i].embedding[j]) < 1e-6)));
assert.equal(coded.data[0].embedding.length, 256);

const response = await client.responses.create({ model, input: "In the beginning", max_output_tokens: 24, seed: 7 });
assert.equal(response.output_text, text);
let deltas = "";
for await (const event of await client.responses.create({ model, input: "In the beginning", max_output_tokens: 24, seed: 7, stream: true })) {
  if (event.type === "response.output_text.delta") deltas += event.delta;
}
assert.equal(deltas, text);

// A stream that is left in the middle.
const left = await client.chat.completions.create({ ...how, max_tokens: 400, stream: true });
for await (const _ of left) break;

await assert.rejects(client.chat.completions.create({ ...how, model: "x" }), (e) => e instanceof OpenAI.NotFoundError && e.code === "model_not_found");
await assert.rejects(client.chat.completions.create({ ...how, temperature: 3 }), (e) => e instanceof OpenAI.BadRequestError && e.param === "temperature");
assert.deepEqual((await client.models.list()).data.map((m) => m.id), [model]);
console.log("openai for JavaScript");
