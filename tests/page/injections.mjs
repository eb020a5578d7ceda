// Texts that would do something if a place took them for more than a text: in every place where a text of somebody
// else is shown. Nothing may run, ask elsewhere, open or submit; and the text must be there to be read.

import { check, equal, openTab } from "./browser.mjs";
import { says, stream, told } from "./stage.mjs";

const FOREIGN = "http://foreign.invalid";
const RUNS = "globalThis.hit=1,alert(1)";

/** What would run or ask elsewhere as HTML. */
const HTML = [
  `<script>${RUNS}</script>`,
  `<img src=x onerror="${RUNS}">`,
  `<img src="${FOREIGN}/pixel.png">`,
  `<svg onload="${RUNS}"><script>${RUNS}</script></svg>`,
  `<iframe src="javascript:${RUNS}"></iframe>`,
  `<iframe srcdoc="<script>parent.hit=1</script>"></iframe>`,
  `<a href="javascript:${RUNS}">click</a>`,
  `<form action="${FOREIGN}"><input autofocus onfocus="${RUNS}"><button>x</button></form>`,
  `<details open ontoggle="${RUNS}">x</details>`,
  `<video><source onerror="${RUNS}"></video>`,
  `<link rel=stylesheet href="${FOREIGN}/a.css">`,
  `<style>@import "${FOREIGN}/a.css"; body { display: none }</style>`,
  `<meta http-equiv="refresh" content="0;url=${FOREIGN}">`,
  `<base href="${FOREIGN}/">`,
  `<object data="${FOREIGN}"></object><embed src="${FOREIGN}">`,
  `<math><mtext><table><mglyph><style><img src=x onerror=${RUNS}></style></mglyph></table></mtext></math>`,
  `<noscript><p title="</noscript><img src=x onerror=${RUNS}>">`,
  `"><script>${RUNS}</script>`,
  `'-${RUNS}-'`,
  `</textarea><script>${RUNS}</script>`,
  `</title><script>${RUNS}</script>`,
  `<!--><img src=x onerror=${RUNS}>-->`,
  `<div style="background:url(${FOREIGN}/b.png)" id="messages">x</div>`,
  `<template shadowrootmode="open"><script>${RUNS}</script></template>`,
];

/** What would as Markdown. */
const MARKDOWN = [
  `[click](javascript:${RUNS})`,
  `[click](JaVaScRiPt:${RUNS})`,
  `[click](java&#10;script:${RUNS})`,
  `[click](&#106;avascript:${RUNS})`,
  `[click](data:text/html,<script>${RUNS}</script>)`,
  `[click](vbscript:x)`,
  `[click](file:///etc/passwd)`,
  `[click](blob:${FOREIGN}/1)`,
  `[click](//foreign.invalid/x)`,
  `[click](/v1/models)`,
  `<javascript:${RUNS}>`,
  `![pixel](${FOREIGN}/p.png)`,
  `![pixel][p]\n\n[p]: ${FOREIGN}/p.png`,
  `[![pixel](${FOREIGN}/p.png)](javascript:${RUNS})`,
  `[t](https://example.com "x\\" onmouseover=\\"${RUNS}")`,
  `[a](https://example.com/"onclick="${RUNS})`,
  "```\"><script>" + RUNS + "</script>\ncode\n```",
  "```html\n<script>" + RUNS + "</script></code></pre><img src=x onerror=" + RUNS + ">\n```",
  "`<img src=x onerror=" + RUNS + ">`",
  `| <img src=x onerror=${RUNS}> |\n|:--|\n| <script>${RUNS}</script> |`,
  `# <img src=x onerror=${RUNS}>`,
  `- <script>${RUNS}</script>\n  > <svg onload=${RUNS}>`,
  `[x]: javascript:${RUNS}\n\n[x]`,
  `https://example.com/<script>${RUNS}</script>`,
  `www.foreign.invalid javascript:${RUNS} data:text/html,x`,
  `&lt;script&gt;${RUNS}&lt;/script&gt;`,
];

/** What would leave its place by other means. */
const OTHER = ["\u202eevil\u202c name", "\u0000\u0008\u001b[31m", "{{constructor.constructor('hit=1')()}}", "${alert(1)}", "x".repeat(5000), "#scroll", "__proto__"];

export function all({ browser, stage }) {
  const tests = [];
  /** One text in one place. `act` puts it there and may say what is shown. */
  const place = (name, texts, prepare, act) => {
    for (const text of texts) {
      tests.push([`${name}: ${JSON.stringify(text).slice(0, 70)}`, async () => {
        stage.reset(says("An answer."));
        prepare?.(text);
        const tab = await openTab(browser, stage.address);
        try {
          await act(tab, text);
          await tab.page.waitForTimeout(60);
          await harmless(tab.page);
        } catch (error) {
          await tab.context.close();
          throw error;
        }
        await tab.close();
      }]);
    }
  };
  const shows = async (page, selector, text) => {
    const found = await page.locator(selector).first().textContent();
    check(found.includes(text), `${selector} shows ${found.slice(0, 200)}`);
  };
  const some = (n, ...lists) => lists.flatMap((l) => l.slice(0, n));

  place("user", [...HTML, ...OTHER], null, async (tab, text) => {
    await tab.say(text);
    const [found, sent] = [await tab.page.textContent(".message.user .text"), stage.asked[0].body.messages[0].content];
    equal(found, sent, "what is shown");
  });
  place("model", [...HTML, ...MARKDOWN, ...OTHER], (text) => (stage.answer = says(text, 3)), async ({ page, say }, text) => {
    await say("Hello");
    if (HTML.includes(text)) {
      // Typed out, but for the marks that Markdown has read.
      const squeezed = (t) => t.replace(/\s+/g, "");
      const found = squeezed(await page.locator(".assistant .text").textContent());
      check(found.includes(squeezed(text).slice(0, 5)), `the answer shows ${found}`);
    }
    await page.locator(".assistant").getByRole("button", { name: "Edit" }).click();
    equal((await page.inputValue(".edit textarea")).slice(0, 30), text.slice(0, 30).replace(/\0/g, "\0"), "what is edited");
  });
  place("reasoning", some(6, HTML, MARKDOWN), (text) => (stage.answer = (_, response) => {
    const out = stream(response);
    out.delta({ reasoning_content: text });
    out.delta({ content: "So." });
    out.end();
  }), async ({ page, say }, text) => {
    await say("Hello");
    await page.click(".reasoning summary");
    await page.waitForFunction((t) => document.querySelector(".thought").textContent === t, text);
  });
  place("tool", some(8, HTML, OTHER), (text) => (stage.answer = (body, response) => {
    const out = stream(response);
    if (body.messages.at(-1).role === "tool") out.delta({ content: body.messages.at(-1).content });
    else out.delta({ tool_calls: [{ index: 0, id: text, function: { name: text, arguments: JSON.stringify({ [text]: text }) } }] });
    out.end(body.messages.at(-1).role === "tool" ? "stop" : "tool_calls");
  }), async ({ page, asks, say }, text) => {
    await say("Hello");
    await shows(page, ".call bdi", text);
    equal(JSON.parse(await page.textContent(".call pre"))[text] ?? text, text, "the arguments");
    await page.fill(".results textarea", text);
    const written = await page.inputValue(".results textarea");
    await asks(() => page.click(".results button"));
    equal(await page.textContent(".message.tool .text"), written, "the result");
  });
  place("token", some(5, HTML, OTHER), (text) => (stage.answer = (_, response) => {
    const out = stream(response);
    out.delta({ content: text }, { content: [told(text, -0.1, [[`${text}!`, -2]])] });
    out.end();
  }), async ({ page, say }, text) => {
    await say("Hello");
    await page.locator(".assistant").getByRole("button", { name: "Tokens" }).click();
    await page.locator(".token").click();
    await shows(page, ".alternative:not(:disabled) bdi", text.slice(1, -1).replace(/\t/g, "⇥"));
  });
  place("model name", some(8, HTML), (text) => (stage.models = [{ id: text }, { id: "other" }]), async ({ page, ready }, text) => {
    await ready();
    await page.selectOption("#model", text);
    await shows(page, "#empty h2", text);
  });
  place("error", some(8, HTML), (text) => (stage.answer = (_, response) => {
    response.writeHead(400, { "content-type": "application/json" });
    response.end(JSON.stringify({ error: { message: text, code: text } }));
  }), async ({ page, say }, text) => {
    await say("Hello");
    await shows(page, ".error", text);
  });
  place("header", some(5, HTML), (text) => (stage.answer = (_, response) => {
    const out = stream(response, { "x-geb-ignored": text, "x-geb-seed": text });
    out.delta({ content: "Yes." });
    out.end();
  }), async ({ page, say }, text) => {
    await say("Hello");
    await shows(page, ".note", text);
  });
  place("conversation's name", [...HTML.slice(0, 10), ...OTHER.filter((t) => !/[\0\b]/.test(t))], null, async ({ page, say }, text) => {
    await say("Hello");
    await page.locator("#list .icon").click();
    await page.locator("#menu button").first().click();
    await page.fill("#ask-input", text);
    await page.press("#ask-input", "Enter");
    await page.waitForFunction((t) => document.getElementById("title").textContent === t.slice(0, 200), text);
    await shows(page, "#list .open", text.slice(0, 200));
    await page.locator("#list .icon").click();
    await page.locator("#menu button").last().click();
    await shows(page, "#ask-text", text.slice(0, 200));
  });
  place("import", [...some(12, HTML), ...some(8, MARKDOWN), ...OTHER], null, async ({ page }, text) => {
    const message = (id, role, parent, more) => ({ id, parent, role, content: text, ...more });
    const file = {
      format: "geb-chat",
      version: 1,
      conversations: [{
        id: text, title: text.slice(0, 200), settings: { system: text }, chosen: { root: "a", [text]: "a" }, created: 1, updated: 1,
        messages: [
          message("a", "user", null, {}),
          message("b", "assistant", "a", {
            finish: "error", error: text.slice(0, 2000), advice: "", note: text.slice(0, 2000), reasoning: text, seed: text.slice(0, 2000), model: text.slice(0, 400),
            calls: [{ id: text.slice(0, 200), name: text.slice(0, 200), arguments: text }],
            tokens: [{ text: text.slice(0, 4000), p: -1, top: [{ text: text.slice(0, 4000), p: -1 }] }],
            speed: { tokens: 1, first: 1, ms: 1 },
          }),
          message("c", "tool", "b", { callId: text.slice(0, 200) }),
        ],
      }],
    };
    // What JavaScript would take for a prototype.
    const buffer = Buffer.from(JSON.stringify(file).replace('"chosen":{', '"__proto__":{"hit":1},"chosen":{"__proto__":"a",'));
    await page.setInputFiles("#import-file", { name: "c.json", mimeType: "application/json", buffer });
    await page.waitForSelector(".message.tool footer button");
    equal(await page.textContent(".message.user .text"), text, "the message");
    await page.click(".reasoning summary");
    await page.locator(".assistant").getByRole("button", { name: "Tokens" }).click();
    await page.locator(".token").click();
    await page.waitForSelector("#alternatives:popover-open");
  });
  place("import, raw", ["null", '"x"', "[[[[]]]]", '{"__proto__":{"hit":1}}', '{"format":"geb-chat","version":1,"conversations":[null]}', "\ufeff{}", "<script>globalThis.hit=1</script>"], null, async ({ page }, text) => {
    await page.setInputFiles("#import-file", { name: "c.json", mimeType: "application/json", buffer: Buffer.from(text) });
    await page.waitForFunction(() => document.getElementById("status").textContent.startsWith("Not imported."));
  });
  place("system prompt", some(4, HTML), null, async (tab, text) => {
    await tab.page.click("#settings-open");
    await tab.page.fill("#set-system", text);
    await tab.page.fill("#set-stop", text);
    await tab.page.click("#settings button[type=submit]");
    await tab.say("Hello");
    equal(stage.asked[0].body.messages[0], { role: "system", content: text }, "the system prompt");
  });
  place("address", some(4, HTML), null, async ({ page, ready }, text) => {
    await page.goto(`${stage.address}/?${encodeURIComponent(text)}#${text}`);
    await page.reload();
    await ready();
  });
  return tests;
}

/** Fails if the page holds anything that a text must not make. */
async function harmless(page) {
  const found = await page.evaluate(() => {
    const bad = [];
    if (globalThis.hit || {}.hit) bad.push("a script ran, or a prototype was changed");
    const shell = document.getElementById("shell");
    for (const e of document.querySelectorAll("body *")) {
      const inMessage = e.closest(".text, .thought, .call pre, bdi, .note, .error, .speed, .token, option");
      if (/^(script|iframe|object|embed|style|link|meta|base|img|video|audio|source|math|template|frame)$/i.test(e.localName)) bad.push(e.outerHTML.slice(0, 120));
      if (inMessage && !e.closest(".edit") && /^(svg|form|input)$/i.test(e.localName) && !e.closest("button")) bad.push(e.outerHTML.slice(0, 120));
      for (const { name, value } of e.attributes) {
        if (/^on/i.test(name)) bad.push(`${name} of ${e.outerHTML.slice(0, 120)}`);
        if (name === "style" && inMessage) bad.push(`style of ${e.outerHTML.slice(0, 120)}`);
        if (["src", "srcset", "action", "formaction", "data", "poster", "background", "ping"].includes(name)) bad.push(`${name} of ${e.outerHTML.slice(0, 120)}`);
      }
      if (e.localName === "a" && !e.classList.contains("skip")) {
        if (!["http:", "https:", "mailto:"].includes(e.protocol)) bad.push(`link to ${e.href}`);
        if (e.rel !== "noopener noreferrer" || e.target !== "_blank") bad.push(`link ${e.outerHTML.slice(0, 120)}`);
      }
    }
    if (!shell || document.querySelectorAll("#messages, #scroll").length !== 2) bad.push("the page's own elements were changed");
    return bad;
  });
  equal(found, [], "the page");
}
