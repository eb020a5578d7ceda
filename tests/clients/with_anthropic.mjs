// @anthropic-ai/sdk: messages, stream, errors.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: process.env.GEB_URL, apiKey: "none", maxRetries: 0 });
const how = { model: process.env.GEB_NAME, max_tokens: 24, seed: 7, messages: [{ role: "user", content: "In the beginning" }] };
const whole = await client.messages.create(how);
const text = whole.content[0].text;
assert.ok(text);
const final = await client.messages.stream(how).finalMessage();
assert.equal(final.content[0].text, text);
assert.equal(final.stop_reason, whole.stop_reason);
assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
const left = await client.messages.create({ ...how, max_tokens: 400, stream: true });
for await (const _ of left) break;
await assert.rejects(client.messages.create({ ...how, model: "x" }), (e) => e instanceof Anthropic.NotFoundError);
console.log("@anthropic-ai/sdk");
