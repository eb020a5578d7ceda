// What a user does. Flows with `real` ask the server's model; the others need words that it would not say.

import { alternatives, colours, errors, keyboard, keys, markdown, narrow, tokens, toolCall, transfer, wrongImports } from "./acts.mjs";
import { becomes, check, equal, inTab } from "./browser.mjs";
import { says, stream, told } from "./stage.mjs";

const LONG = "And the king spake unto the people, and said";
const MOST_BYTES = 300_000;

export function all({ browser, stage, address }) {
  const flows = [];
  /** A flow with the server's own model. */
  const real = (title, work, options) =>
    flows.push([title, async () => {
      const seeds = await longSeeds(address);
      return inTab(browser, address, async (tab) => {
        tab.seeds = seeds;
        tab.seed = (n) => tab.page.evaluate((seed) => localStorage.setItem("geb.settings", JSON.stringify({ seed, max_tokens: 300 })), seeds[n]);
        await tab.seed(0);
        await tab.page.reload();
        await tab.ready();
        return work(tab);
      }, options);
    }]);
  /** A flow with a played API. */
  const played = (title, answer, work, options) =>
    flows.push([title, () => (stage.reset(answer), inTab(browser, stage.address, work, options))]);
  flows.push(["the page's files: headers, size, what stands at / for others", () => files(address)]);

  // ---- answers

  real("an empty page names the model and has examples that ask", async ({ page, asks, ready }) => {
    await ready();
    const { data } = await (await fetch(`${address}/v1/models`)).json();
    equal(await page.textContent("#empty h2"), data[0].id, "the model");
    const examples = await page.locator(".examples button").allTextContents();
    check(examples.length >= 2, "there are too few examples");
    await asks(() => page.locator(".examples button").first().click());
    equal(await page.textContent(".message.user .text"), examples[0], "what was asked");
    check(await page.locator("#empty").isHidden(), "the empty page still shows");
  });

  real("an answer streams, and its speed is told", async ({ page, say, answer }) => {
    await page.evaluate(() => {
      globalThis.lengths = new Set();
      const look = () => lengths.add(document.querySelector(".message.assistant .text")?.textContent.length ?? 0);
      new MutationObserver(look).observe(document.getElementById("messages"), { subtree: true, childList: true, characterData: true });
    });
    await say(LONG);
    const lengths = await page.evaluate(() => lengths.size);
    check(lengths >= 4, `the answer was seen at ${lengths} lengths`);
    const speed = (await answer().locator(".speed").textContent()).replace(/\u00a0/g, " ");
    check(/^\d+ tokens · [\d.]+ tok\/s · first after \d+\.\d\d s · prompt \d+/.test(speed), `the speed line says ${speed}`);
    return speed;
  });

  real("stop keeps what came, frees the server; continue goes on behind it", async ({ page, asks, say, answer, stored }) => {
    // As soon as something has come, Escape: a small model would be ready before a test could press it.
    await page.evaluate(() => {
      const watch = new MutationObserver(() => {
        if ((document.querySelector(".message.assistant .text")?.textContent.length ?? 0) < 10) return;
        watch.disconnect();
        document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
      });
      watch.observe(document.getElementById("messages"), { subtree: true, childList: true, characterData: true });
    });
    await say(LONG);
    check((await answer().locator(".note").textContent()) === "Stopped.", "it does not say that it was stopped");
    const before = (await stored())[0].messages.at(-1);
    check(before.content.length >= 10 && before.finish === "stopped", "what came is not kept");
    const slots = async () => (await fetch(`${address}/slots`)).json();
    check((await slots()).length > 0, "the server has no slots");
    await becomes(async () => (await slots()).some((s) => s.is_processing), false, "the server still works on it");
    await asks(() => answer().getByRole("button", { name: "Continue" }).click());
    const after = (await stored())[0].messages.at(-1);
    check(after.content.startsWith(before.content), "the text before is lost");
    equal(after.parent, before.parent, "the parent");
  });

  real("regenerate makes a version; the arrows turn between them", async ({ page, asks, say, seeds, painted, answer, stored }) => {
    await say(LONG);
    await page.click("#settings-open");
    await page.fill("#set-seed", String(seeds[1]));
    await page.click("#settings button[type=submit]");
    await asks(() => answer().getByRole("button", { name: "Regenerate" }).click());
    equal(await answer().locator(".versions > span").textContent(), "2 / 2", "the version");
    const [, first, second] = (await stored())[0].messages;
    check(first.content && second.content && first.content !== second.content, "two seeds gave the same text");
    const shown = () => answer().evaluate((e) => e.querySelector(".text").textContent.replace(/\s+/g, ""));
    const flat = (m) => m.content.replace(/\s+/g, "");
    equal(await shown(), flat(second), "the second version");
    await answer().getByRole("button", { name: "Version before" }).click();
    await painted();
    equal(await shown(), flat(first), "the first version");
    equal(await answer().locator(".versions > span").textContent(), "1 / 2", "the version");
  });

  real("an earlier message edited is a branch; the old one stays", async ({ page, asks, say, painted }) => {
    await say(LONG);
    await say("And then");
    await page.locator(".message.user").first().hover();
    await page.locator(".message.user").first().getByRole("button", { name: "Edit" }).click();
    await page.fill(".edit textarea", "And the people said");
    await asks(() => page.press(".edit textarea", "Enter"));
    equal(await page.locator(".message.user .text").allTextContents(), ["And the people said"], "the branch");
    await page.locator(".message.user").first().getByRole("button", { name: "Version before" }).click();
    await painted();
    equal(await page.locator(".message.user .text").allTextContents(), [LONG, "And then"], "the old one");
  });

  real("the same seed gives the same text again", async ({ page, asks, say, seeds, answer, stored }) => {
    equal(await page.textContent("#summary"), `seed ${seeds[0]} · most tokens 300`, "the summary");
    await say(LONG);
    await asks(() => answer().getByRole("button", { name: "Regenerate" }).click());
    const [, first, second] = (await stored())[0].messages;
    check(first.content.length > 20, "there is no text");
    equal(first.content, second.content, "the text");
    check((await answer().locator(".speed").textContent()).endsWith(`seed ${seeds[0]}`), "the seed is not told");
  });

  real("while one conversation answers, another is used", async ({ page, say, painted, stored }) => {
    await page.fill("#entry", LONG);
    await page.press("#entry", "Enter");
    await page.evaluate(() => document.getElementById("new").click());
    await say("A second one");
    await page.locator("#list .open", { hasText: LONG }).click();
    await page.waitForSelector("#send:not([hidden])", { timeout: 120_000 });
    await painted();
    const all = await stored();
    equal(all.length, 2, "conversations");
    for (const c of all) check(["stop", "length"].includes(c.messages.at(-1).finish), `an answer ended with ${c.messages.at(-1).finish}`);
  });

  // ---- conversations

  real("a reload keeps conversations, the open one, and answers", async ({ page, say, painted }) => {
    await say(LONG);
    const before = await page.locator(".message .text").allTextContents();
    await page.reload();
    await page.waitForSelector(".message.assistant footer");
    await painted();
    equal(await page.locator(".message .text").allTextContents(), before, "the messages");
    equal(await page.locator("#list .open").count(), 1, "conversations");
  });

  played("rename, export, delete and import bring back the same", says("An **answer**.\n\n1. one\n2. two"), transfer);
  played("delete all asks first and leaves nothing", says("Gone soon."), async ({ page, say, stored }) => {
    await say("one");
    await page.click("#new");
    await say("two");
    await page.click("#settings-open");
    await page.click("#clear");
    await page.click("#ask [data-close]");
    equal((await stored()).length, 2, "conversations");
    await page.click("#clear");
    await page.click("#ask-ok");
    await page.waitForSelector(".examples");
    equal((await stored()).length, 0, "conversations");
  });
  played("an import that is wrong names the field", says("x"), wrongImports);

  // ---- settings

  played("settings reach the request; new conversations begin with them", says("{}"), async ({ page, say }) => {
    await page.click("#settings-open");
    const fields = { system: "Be brief.", temperature: "0.5", top_p: "0.9", top_k: "40", min_p: "0.05", repetition_penalty: "1.1",
      frequency_penalty: "-0.5", presence_penalty: "0.25", seed: "0", max_tokens: "99", stop: "END\n###",
      schema: '{"type": "object"}', tools: '[{"type": "function", "function": {"name": "f"}}]' };
    for (const [name, value] of Object.entries(fields)) await page.fill(`#set-${name}`, value);
    await page.selectOption("#set-thinking", "off");
    await page.check("#set-default");
    await page.click("#settings button[type=submit]");
    await say("Hello");
    const { messages, logprobs, top_logprobs, stream_options, model, ...rest } = stage.asked[0].body;
    equal(messages, [{ role: "system", content: "Be brief." }, { role: "user", content: "Hello" }], "messages");
    equal([logprobs, top_logprobs, stream_options, model], [true, 5, { include_usage: true }, "stage-model"], "what is always asked");
    equal(rest, {
      stream: true, temperature: 0.5, top_p: 0.9, top_k: 40, min_p: 0.05, repetition_penalty: 1.1, frequency_penalty: -0.5,
      presence_penalty: 0.25, seed: 0, max_tokens: 99, stop: ["END", "###"], tools: [{ type: "function", function: { name: "f" } }],
      chat_template_kwargs: { enable_thinking: false },
      response_format: { type: "json_schema", json_schema: { name: "answer", schema: { type: "object" } } },
    }, "the request");
    await page.reload();
    await page.click("#new");
    await page.click("#settings-open");
    equal(await page.inputValue("#set-system"), "Be brief.", "the system prompt of a new conversation");
  });
  played("a schema that is no JSON is not taken", says("x"), async ({ page }) => {
    await page.click("#settings-open");
    for (const [text, says] of [["{", "No JSON"], ["[]", "Allowed: an object."]]) {
      await page.fill("#set-schema", text);
      await page.click("#settings button[type=submit]");
      check(await page.isVisible("#settings"), "the dialog has closed");
      check((await page.textContent("#bad-schema")).startsWith(says), `it says ${await page.textContent("#bad-schema")}`);
    }
    await page.fill("#set-schema", "");
    await page.fill("#set-temperature", "3");
    await page.click("#settings button[type=submit]");
    check(await page.isVisible("#settings"), "a temperature of 3 was taken");
  });
  played("the model that is picked is asked, after a reload too", says("x"), async ({ page, say }) => {
    stage.models = [{ id: "first" }, { id: "second", meta: { n_ctx: 512 } }];
    await page.reload();
    await page.waitForSelector(".examples");
    await page.selectOption("#model", "second");
    equal(await page.textContent("#empty h2"), "second", "the empty page");
    await page.reload();
    await page.waitForSelector(".examples");
    await say("Hello");
    equal(stage.asked[0].body.model, "second", "the model");
  });
  real("colours follow the system, and the switch", colours, { colorScheme: "dark" });

  // ---- what models say

  played("reasoning is folded, and opens", (body, response) => {
    const out = stream(response);
    const mark = (text) => out.delta({ content: "" }, { content: [told(text)] });
    mark("<think>");
    for (const piece of ["First ", "I think", " hard."]) out.delta({ reasoning_content: piece }, { content: [told(piece)] });
    mark("</think>");
    mark("\n\n");
    out.delta({ content: "Forty" }, { content: [told("Forty")] });
    mark("-");
    out.delta({ content: "-two." }, { content: [told("two.")] });
    mark(null);
    out.end();
  }, async ({ page, say, answer, stored }) => {
    await say("What is it?");
    const { tokens } = (await stored())[0].messages.at(-1);
    equal(tokens.map((t) => t.text), ["Forty", "-", "two.", "</s>"], "tokens of the answer");
    check(await answer().locator(".thought").isHidden(), "it is not folded");
    equal(await answer().locator(".text").innerText(), "Forty-two.", "the answer");
    await answer().locator("summary").focus();
    await page.keyboard.press("Enter");
    await answer().locator(".thought").waitFor();
    await page.waitForFunction(() => document.querySelector(".thought").textContent === "First I think hard.");
    await say("And again?");
    equal(stage.asked[1].body.messages[1].reasoning_content, "First I think hard.", "the reasoning that is sent back");
  });
  played("a tool call is shown, its result sent, the answer follows", toolCall, async ({ page, asks, say, answer }) => {
    await say("Weather in Oslo?");
    equal(await answer().locator(".call bdi").textContent(), "get_weather", "the tool");
    equal(JSON.parse(await answer().locator(".call pre").textContent()), { city: "Oslo" }, "the arguments");
    await page.fill(".results textarea", '{"celsius": -3}');
    await asks(() => page.click(".results button"));
    const { messages } = stage.asked[1].body;
    equal(messages[1].tool_calls, [{ id: "call_1", type: "function", function: { name: "get_weather", arguments: '{"city": "Oslo"}' } }], "the call");
    equal(messages[2], { role: "tool", content: '{"celsius": -3}', tool_call_id: "call_1" }, "the result");
    equal(await answer().locator(".text").innerText(), "It is cold.", "the answer");
  });
  played("code and messages are copied whole", says("Look:\n\n```py\nprint(1 < 2)\n```\n"), async ({ page, say, answer }) => {
    await say("Code?");
    const clipboard = () => page.evaluate(() => navigator.clipboard.readText());
    await answer().locator("[data-copy]").click();
    await page.waitForFunction(() => document.getElementById("status").textContent === "Copied.");
    equal(await clipboard(), "print(1 < 2)", "the code");
    await answer().locator("footer").getByRole("button", { name: "Copy" }).click();
    await becomes(clipboard, "Look:\n\n```py\nprint(1 < 2)\n```\n", "the message");
    // Long code is shown in parts; what is selected with the mouse knows nothing of them.
    const code = Array.from({ length: 180 }, (_, i) => (i % 7 ? `line ${i}` : "")).join("\n");
    stage.answer = says(`\`\`\`\n${code}\n\`\`\``, 50);
    await say("Long code?");
    const selected = await answer().locator("code").evaluate((e) => (getSelection().selectAllChildren(e), getSelection().toString()));
    equal(await answer().locator(".part").count(), 4, "parts");
    equal(selected.trimEnd(), code.trimEnd(), "what is selected");
  });
  played("Markdown that comes in pieces is that of the whole text", says("x"), markdown);

  // ---- tokens

  played("alternatives of a token: shown on click, chosen, continued", tokens, alternatives);
  real("alternatives of the server's own model go on from another token", async ({ page, asks, say, answer, stored }) => {
    await say(LONG);
    await answer().getByRole("button", { name: "Tokens" }).click();
    const shown = answer().locator(".token");
    check((await shown.count()) > 3, "there are too few tokens");
    await shown.nth(2).click();
    equal(await page.locator(".alternative .percent").count() >= 5, true, "five alternatives");
    const { tokens: before } = (await stored())[0].messages.at(-1);
    const other = await page.locator(".alternative:not(:disabled) bdi").first().textContent();
    await asks(() => page.locator(".alternative:not(:disabled)").first().click());
    const after = (await stored())[0].messages.at(-1);
    equal(after.tokens.slice(0, 2).map((t) => t.text), before.slice(0, 2).map((t) => t.text), "the tokens before");
    const text = after.tokens.slice(0, 3).map((t) => (t.end ? "" : t.text)).join("");
    check(after.content.trimStart().startsWith(text.trim()), `the text ${after.content.slice(0, 40)} does not begin with ${text}`);
    return `${before[2].text} became ${other}`;
  });

  // ---- what goes wrong

  played("a server that wants a key gets it, after a wrong one", says("Open."), (tab) => keys(tab, stage));
  played("errors are one line with what to do, and retry works", says("x"), (tab) => errors(tab, stage));
  played("without a server the page says so, and retries", says("x"), async ({ page, ready }) => {
    stage.guard = (request, response) => void response.destroy();
    await page.reload();
    await page.waitForSelector("#empty .error");
    equal(await page.textContent("#empty .error"), "The server cannot be reached. Look whether the server runs, then retry.Retry", "the line");
    stage.guard = null;
    await page.click("#empty .error button");
    await ready();
  });

  // ---- keyboard and small screens

  played("everything is reached by keyboard", tokens, keyboard);
  played("320 px: nothing is cut, the list is a drawer", says("```\n" + "long ".repeat(60) + "\n```\n\n| a | b | c |\n|---|---|---|\n| " + "wide ".repeat(9) + "| " + "x".repeat(90) + " | 1 |\n\n" + "w".repeat(300)),
    narrow, { viewport: { width: 320, height: 600 }, hasTouch: true });
  return flows;
}

let found = null;
/** Two seeds with which the server's model has much to say to `LONG`. */
async function longSeeds(address) {
  if (found) return found;
  const seeds = [];
  for (let seed = 1; seed < 200 && seeds.length < 2; seed++) {
    const body = JSON.stringify({ messages: [{ role: "user", content: LONG }], seed, max_tokens: 60 });
    const response = await fetch(`${address}/v1/chat/completions`, { method: "POST", headers: { "content-type": "application/json" }, body });
    const answer = await response.json();
    check(response.ok, `the server answers ${JSON.stringify(answer)}`);
    if (answer.usage.completion_tokens === 60) seeds.push(seed);
  }
  check(seeds.length === 2, "the model has nothing to say");
  return (found = seeds);
}

/** Headers and size of what the server serves. */
async function files(address) {
  const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
  const names = new Set(["/"]);
  let bytes = 0;
  for (const name of names) {
    const response = await fetch(address + name, { headers: { accept: "text/html" } });
    const text = await response.text();
    equal(response.status, 200, name);
    equal(response.headers.get("content-security-policy"), policy, `the policy of ${name}`);
    equal(response.headers.get("x-content-type-options"), "nosniff", name);
    equal(response.headers.get("set-cookie"), null, `cookies of ${name}`);
    check(response.headers.get("etag") || /no-cache/.test(response.headers.get("cache-control")), `${name} has neither ETag nor no-cache`);
    bytes += Buffer.byteLength(text);
    for (const [, found] of text.matchAll(/(?:src="|href="|from "\.\/|import "\.\/)([\w.-]+\.(?:js|css))"/g)) names.add(`/${found}`);
    if (!name.includes("markdown-it")) {
      const sinks = text.match(/\.(?:innerHTML|outerHTML)\b|insertAdjacentHTML|document\.write|\beval\(|new Function/g) ?? [];
      equal(sinks, name === "/markdown.js" ? [".innerHTML"] : [], `sinks of ${name}`);
    }
  }
  check(bytes <= MOST_BYTES, `${bytes} bytes`);
  for (const [method, headers] of [["GET", {}], ["GET", { accept: "*/*" }], ["HEAD", {}]]) {
    const response = await fetch(`${address}/`, { method, headers });
    equal([response.status, await response.text()], [200, method === "HEAD" ? "" : "Ollama is running"], `${method} /`);
    check(response.headers.get("content-type").startsWith("text/plain"), `${method} /: ${response.headers.get("content-type")}`);
  }
  return `${names.size} files, ${bytes} bytes`;
}
