// The longer flows, and what the played API says in them.

import { readFile } from "node:fs/promises";
import { becomes, check, equal } from "./browser.mjs";
import { json, refuse, says, stream, told } from "./stage.mjs";

export async function transfer({ page, say, stored, painted }) {
  await say("Name a river.");
  const act = async (name) => {
    await page.locator("#list .icon").first().click();
    await page.locator("#menu").getByRole("button", { name }).click();
  };
  await act("Rename…");
  await page.fill("#ask-input", "Rivers & “more”");
  await page.press("#ask-input", "Enter");
  await page.waitForFunction(() => document.getElementById("title").textContent === "Rivers & “more”");
  const before = await stored();
  const download = page.waitForEvent("download");
  await act("Export");
  const file = await (await download).path();
  equal((await download).suggestedFilename(), "Rivers more.json", "the file's name");
  await act("Delete…");
  await page.click("#ask-ok");
  await page.waitForFunction(() => !document.querySelector("#list .open"));
  equal((await stored()).length, 0, "conversations after deleting");
  await page.setInputFiles("#import-file", { name: "c.json", mimeType: "application/json", buffer: await readFile(file) });
  await page.waitForSelector(".message.assistant footer");
  await painted();
  // Ids are new; what is undefined is not written.
  const plain = (all) => JSON.parse(JSON.stringify(all.map((c) => [c.title, c.settings, c.messages.map(({ id, parent, conversation, ...m }) => m)])));
  equal(plain(await stored()), plain(before), "what came back");
  equal(await page.locator(".message.assistant .text li").allTextContents(), ["one", "two"], "what is shown");
  const everything = page.waitForEvent("download");
  await page.click("#export");
  equal(JSON.parse(await readFile(await (await everything).path())).conversations.length, 1, "all conversations");
}

export async function wrongImports({ page, stored }) {
  const good = () => ({ format: "geb-chat", version: 1, conversations: [{ title: "t", messages: [{ id: "a", parent: null, role: "user", content: "x" }] }] });
  const change = (work) => {
    const value = good();
    work(value, value.conversations[0]);
    return JSON.stringify(value);
  };
  const cases = [
    ["{", "The file is no JSON."],
    ["[]", "The file is []"],
    [change((v) => (v.format = "other")), "format is"],
    [change((v) => (v.version = 2)), "version is 2, allowed: 1."],
    [change((v) => (v.conversations = {})), "conversations is"],
    [change((_, c) => (c.title = 3)), "conversations[0].title is 3"],
    [change((_, c) => (c.messages[0].role = "bard")), "conversations[0].messages[0].role is"],
    [change((_, c) => (c.messages[0].parent = "z")), "conversations[0].messages[0].parent is"],
    [change((_, c) => (c.messages[0].parent = "a")), "conversations[0].messages[0].parent is"],
    [change((_, c) => c.messages.push(c.messages[0])), "conversations[0].messages[1].id is"],
    [change((_, c) => (c.messages[0].content = ["x"])), "conversations[0].messages[0].content is"],
    [change((_, c) => (c.messages[0].tokens = [{ text: "x", p: "y" }])), "conversations[0].messages[0].tokens[0].p is"],
    [change((_, c) => (c.messages[0].tokens = [{ text: "x", bytes: [256] }])), "conversations[0].messages[0].tokens[0].bytes is 256"],
    [change((_, c) => (c.settings = { temperature: 9 })), "conversations[0].settings.temperature is 9"],
    [change((_, c) => (c.settings = { tools: "x" })), "conversations[0].settings.tools is"],
  ];
  for (const [text, says] of cases) {
    await page.setInputFiles("#import-file", { name: "c.json", mimeType: "application/json", buffer: Buffer.from(text) });
    await page.waitForFunction((s) => document.getElementById("status").textContent.startsWith(`Not imported. ${s}`), says)
      .catch(async () => {
        throw new Error(`${text.slice(0, 60)}: it says ${await page.textContent("#status")}, wanted: ${says}`);
      });
  }
  equal((await stored()).length, 0, "conversations");
  await page.setInputFiles("#import-file", { name: "c.json", mimeType: "application/json", buffer: Buffer.from(change(() => {})) });
  await page.waitForSelector(".message.user");
  return `${cases.length} refused`;
}

export async function colours({ page }) {
  const light = () => page.evaluate(() => {
    const [r] = getComputedStyle(document.body).backgroundColor.match(/\d+/g);
    return Number(r) > 128;
  });
  equal(await light(), false, "a dark system gives a light page");
  await page.emulateMedia({ colorScheme: "light" });
  equal(await light(), true, "a light system gives a light page");
  await page.emulateMedia({ colorScheme: "dark" });
  await page.click("#theme");
  equal([await page.getAttribute("#theme", "title"), await light()], ["Colours: light", true], "the switch");
  await page.reload();
  equal(await light(), true, "a reload keeps it");
  await page.click("#theme");
  await page.emulateMedia({ colorScheme: "light" });
  equal([await page.getAttribute("#theme", "title"), await light()], ["Colours: dark", false], "the switch");
  await page.click("#settings-open");
  await page.check('input[name=theme][value=""]');
  await page.keyboard.press("Escape");
  equal([await page.getAttribute("#theme", "title"), await light()], ["Colours: as the system", true], "the settings");
}

/** Calls a tool, then answers its result. */
export function toolCall(body, response) {
  const out = stream(response);
  if (body.messages.at(-1).role === "tool") {
    out.delta({ content: "It is cold." });
    return out.end();
  }
  const call = (piece) => out.delta({ tool_calls: [piece] });
  call({ index: 0, id: "call_1", type: "function", function: { name: "get_weather", arguments: "" } });
  for (const piece of ['{"city"', ': "Os', 'lo"}']) call({ index: 0, function: { arguments: piece } });
  return out.end("tool_calls");
}

/** A sentence with alternatives: of a part of a character, and of the end; goes on in words. */
export function tokens(body, response) {
  const out = stream(response);
  const give = (content, ...tokens) => out.delta({ content }, { content: tokens });
  if (body.messages.at(-1).role === "assistant") {
    give(" flows", told(" flows"));
    give(" on", told(" on"));
    return out.end();
  }
  give("The", told("The", -0.2, [["A", -2], [null, -6]]));
  give(" river", told(" river", -1.2, [[" lake", -1.4], [[0xe2], -3]]));
  out.delta({ content: "" }, { content: [told([0xf0, 0x9f], -0.5, [["!", -1]])] });
  give("🌊", told([0x8c, 0x8a], -0.1, [[[0x8c, 0x8b], -2], [".", -3]]));
  give(".", told(".", -0.05, [["!", -3], [" and", -5]]));
  out.delta({ content: "" }, { content: [told(null, -0.3, [["\n", -2]])] });
  out.end();
}

export async function alternatives({ page, asks, say, painted, answer, stored }) {
  const showTokens = async () => {
    const toggle = answer().getByRole("button", { name: "Tokens" });
    if ((await toggle.getAttribute("aria-pressed")) === "false") await toggle.click();
    await painted();
  };
  await say("Say it.");
  equal(await answer().locator(".text").innerText(), "The river🌊.", "the answer");
  await showTokens();
  const token = (at) => answer().locator(".token").nth(at);
  const rows = () => page.locator(".alternative").evaluateAll((all) => all.map((r) => [r.querySelector("bdi").textContent, r.querySelector(".percent").textContent, r.disabled]));
  await token(1).click();
  equal(await rows(), [["␣river", "30 %", true], ["␣lake", "25 %", false], ["<E2>", "5.0 %", true]], "alternatives of river");
  await page.keyboard.press("Escape");
  await token(3).click();
  equal(await rows(), [["<8C><8A>", "90 %", true], ["<8C><8B>", "14 %", false], [".", "5.0 %", true]], "alternatives in a character");
  await asks(() => page.locator(".alternative:not(:disabled)").click());
  equal((await stored())[0].messages.at(-1).content, "The river🌋 flows on", "another character");
  await answer().getByRole("button", { name: "Version before" }).click();
  await painted();
  await showTokens();
  await token(1).click();
  await asks(() => page.locator(".alternative", { hasText: "lake" }).click());
  equal((await stored())[0].messages.at(-1).content, "The lake flows on", "another word");
  equal(await answer().locator(".versions > span").textContent(), "3 / 3", "the version");
  await answer().getByRole("button", { name: "Version before" }).click();
  await answer().getByRole("button", { name: "Version before" }).click();
  await painted();
  await showTokens();
  await token(0).click();
  await page.locator(".alternative", { hasText: "ends the answer" }).click();
  await painted();
  equal((await stored())[0].messages.at(-1).content, "", "an answer that ends at once");
}

export async function markdown({ page }) {
  const told = await page.evaluate(async () => {
    const { Markdown } = await import(new URL("markdown.js", location));
    const parts = [
      "A paragraph with **bold**, *slant*, `code` and a [link](https://example.com).\nAnother line.\n\n", "# Heading\n", "Under\n===\n\n",
      "- one\n- two\n\n- three\n\n  more of three\n", "1. first\n\n2. second\n   - inner\n\n     text\n10. tenth\n", "> quote\ngoes on\n\n> > deeper\n\n",
      "```rust\nfn main() {}\n\n```\n", "~~~\n```\n~~~\n", "    indented\n\n    code\n\n", "| a | b |\n|:--|--:|\n| 1 | `2` |\n\n", "text before\n| a |\n|---|\n| 1 |\n",
      "---\n", "* star\n+ plus\n- dash\n\n", "[ref] and [other][ref]\n\n", "[ref]: https://example.com 'title'\n\n", "<b>no html</b>\n\n", "![no](https://example.com/i.png)\n\n",
      "https://example.com/x and mail@example.com\n\n", "\r\nwindows\r\n\r\nlines\r\n", "unclosed **bold and `code\n\n", "1) paren\n2) two\n\n", "\\* no list\n\n", "a\n\n\n\nb\n",
      `| n | square |\n|--:|:-:|\n${Array.from({ length: 80 }, (_, n) => `| ${n} | **${n * n}** |\r\n`).join("")}`,
      `\n| x |\n|---|\n${"| [ref] |\n".repeat(40)}\n`,
    ];
    let seed = 12345;
    const random = (n) => (seed = (seed * 1103515245 + 12345) % 2147483648) % n;
    const html = (root) => root.innerHTML.replace(/<div class="tail">([\s\S]*)<\/div>$/, "$1");
    let texts = 0;
    for (let round = 0; round < 300; round++) {
      const text = Array.from({ length: 1 + random(9) }, () => parts[random(parts.length)]).join("");
      const [whole, pieces] = [document.createElement("div"), document.createElement("div")];
      new Markdown(whole).show(text, true);
      const growing = new Markdown(pieces);
      for (let at = 0; at < text.length; at += 1 + random(round % 3 ? 6 : 40)) growing.show(text.slice(0, at), false);
      growing.show(text, true);
      if (html(whole) !== html(pieces)) return { text, whole: html(whole), pieces: html(pieces) };
      texts++;
    }
    return { texts };
  });
  check(!told.text, `differs: ${JSON.stringify(told)}`);
  return `${told.texts} texts`;
}

export async function keys({ page, asks, settled, painted, answer, context }, stage) {
  let wanted = "right-key";
  stage.guard = (request, response) => {
    if (request.headers.authorization === `Bearer ${wanted}`) return true;
    refuse(response, 401, "no valid API key", "invalid_api_key");
    return false;
  };
  await page.reload();
  await page.waitForSelector("#key[open]");
  await page.fill("#key-text", "wrong-key");
  await page.press("#key-text", "Enter");
  await page.waitForFunction(() => document.getElementById("key").open && document.getElementById("key-text").value === "");
  await page.fill("#key-text", "right-key");
  await page.press("#key-text", "Enter");
  await page.waitForSelector(".examples");
  equal(await page.evaluate(() => [sessionStorage.getItem("geb.key"), localStorage.getItem("geb.key")]), ["right-key", null], "where the key is kept");
  await page.reload();
  await page.waitForSelector(".examples");
  wanted = "new-key";
  await page.fill("#entry", "Hello");
  await page.press("#entry", "Enter");
  await page.waitForSelector("#key[open]");
  await page.keyboard.press("Escape");
  await settled();
  await painted();
  equal(await answer().locator(".error").innerText().then((t) => t.replace(/\s+/g, " ")), "no valid API key. Enter a key in the settings, then retry. Retry", "the line");
  await answer().getByRole("button", { name: "Retry" }).click();
  await page.waitForSelector("#key[open]");
  await page.fill("#key-text", "new-key");
  await page.check("#key-keep");
  await asks(() => page.press("#key-text", "Enter"));
  equal(await answer().locator(".text").innerText(), "Open.", "the answer");
  equal(await page.evaluate(() => [sessionStorage.getItem("geb.key"), localStorage.getItem("geb.key")]), [null, "new-key"], "where the key is kept");
  equal((await context.cookies()).length, 0, "cookies");
}

export async function errors({ page, asks, say, answer }, stage) {
  const cases = [
    [(_, r) => refuse(r, 503, "too many requests wait"), "too many requests wait. Retry in a moment."],
    [(_, r) => refuse(r, 404, "no model x", "model_not_found"), "no model x. Choose another model."],
    [(_, r) => refuse(r, 400, "This model's maximum context length is 5 tokens. However, your messages resulted in 9 tokens.", "context_length_exceeded"),
      "This model's maximum context length is 5 tokens. However, your messages resulted in 9 tokens. Shorten the text or begin a new conversation."],
    [(_, r) => refuse(r, 403, "Origin is x, allowed: y"), "Origin is x, allowed: y. Open the page by an address that the server allows."],
    [(_, r) => refuse(r, 501, "the model has no chat template"), "the model has no chat template."],
    [(_, r) => r.writeHead(500).end("<h1>Oops</h1>"), "The server answers 500. Retry; the server’s log has more."],
    [(_, r) => r.destroy(), "The server cannot be reached. Look whether the server runs, then retry."],
    [(_, r) => {
      const out = stream(r);
      out.delta({ content: "Half an" });
      setTimeout(() => r.destroy(), 150);
    }, "The connection broke off. Look whether the server runs, then retry.", "Half an"],
    [(_, r) => {
      stream(r).delta({ content: "Half a" });
      r.end();
    }, "The connection broke off before the answer was whole. Look whether the server runs, then retry.", "Half a"],
    [(_, r) => {
      const out = stream(r);
      out.delta({ content: "Half" });
      out.raw('data: {"error": {"message": "a number is not finite", "code": null}}\n\n');
      r.end();
    }, "a number is not finite. Retry; the server’s log has more.", "Half"],
    [(_, r) => {
      stream(r).raw("data: {nonsense\n\n");
      r.end();
    }, "The server sent something that is no JSON. Retry; the server’s log has more."],
    [(_, r) => json(r, 400, ["odd"]), "The server answers 400."],
  ];
  for (const [fails, line, text = ""] of cases) {
    await page.click("#new");
    stage.answer = fails;
    await say("Hello");
    equal(await answer().locator(".error").evaluate((e) => e.firstChild.data), line, "the line");
    equal(await answer().locator(".text").textContent().then((t) => t.trim()), text, "what came before");
    stage.answer = says("Well again.");
    await asks(() => answer().getByRole("button", { name: "Retry" }).click());
    equal(await answer().locator(".text").innerText(), "Well again.", "after the retry");
    equal(await answer().locator(".error").count(), 0, "errors after the retry");
  }
  return `${cases.length} errors`;
}

export async function keyboard({ page, asks, ready, painted, answer, stored }) {
  await ready();
  const focused = () => page.evaluate(() => {
    const e = document.activeElement;
    return e.getAttribute("aria-label") || e.id || e.textContent.slice(0, 30);
  });
  /** Presses Tab until the element with this name has the focus. */
  const tabTo = async (name, key = "Tab") => {
    for (let i = 0; i < 60; i++) {
      if ((await focused()) === name) {
        const outlined = await page.evaluate(() => {
          const of = (e) => getComputedStyle(e).outlineStyle !== "none";
          return of(document.activeElement) || of(document.activeElement.closest("form") ?? document.activeElement);
        });
        check(outlined, `${name} shows no focus`);
        return;
      }
      await page.keyboard.press(key);
    }
    throw new Error(`${name} is not reached`);
  };
  await tabTo("entry");
  await page.keyboard.type("Say it.");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("Now.");
  await asks(() => page.keyboard.press("Enter"));
  equal(await page.textContent(".message.user .text"), "Say it.\nNow.", "what was asked");
  await tabTo("Tokens", "Shift+Tab");
  await page.keyboard.press("Enter");
  await tabTo("The, 82 %", "Shift+Tab");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#alternatives:popover-open");
  equal(await focused(), "␣lake25 %", "the first alternative");
  await asks(() => page.keyboard.press("Enter"));
  equal((await stored())[0].messages.at(-1).content, "The lake flows on", "the answer");
  for (const name of ["Edit", "Regenerate", "Copy", "Version before"]) await tabTo(name, "Shift+Tab");
  await page.keyboard.press("Enter");
  await painted();
  equal(await answer().locator(".versions > span").textContent(), "1 / 2", "the version");
  await tabTo("Settings", "Shift+Tab");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#settings[open]");
  await page.keyboard.press("Escape");
  equal(await focused(), "Settings", "the focus after the settings");
  await tabTo("Colours: as the system", "Shift+Tab");
  await tabTo("Actions for Say it.", "Shift+Tab");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#menu:popover-open");
  equal(await focused(), "Rename…", "the first action");
  await page.keyboard.press("Enter");
  await page.keyboard.type("By keys");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.getElementById("title").textContent === "By keys");
  for (const name of ["import", "export"]) await tabTo(name);
  await tabTo("new", "Shift+Tab");
  await page.keyboard.press("Enter");
  equal(await focused(), "entry", "the focus in a new conversation");
}

export async function narrow({ page, say, painted, answer }) {
  const fits = async (what) => {
    await painted();
    const found = await page.evaluate(() => {
      const wide = [];
      for (const e of document.querySelectorAll("#page *, #side *, dialog[open] *, :popover-open *")) {
        if (e.closest("pre, .table, .unseen, h1, [hidden]") || !e.checkVisibility({ visibilityProperty: true })) continue;
        const box = e.getBoundingClientRect();
        if (box.width && (box.right > innerWidth + 1 || box.left < -1)) wide.push(`${e.tagName}.${e.className} ${Math.round(box.left)} to ${Math.round(box.right)}`);
      }
      return { wide, page: document.documentElement.scrollWidth, scroll: document.getElementById("scroll").scrollWidth };
    });
    equal(found, { wide: [], page: 320, scroll: 320 }, what);
  };
  await page.waitForSelector(".examples");
  await fits("the empty page");
  await say("A question with a_very_long_word_that_has_no_spaces_at_all_and_goes_on_and_on_for_ever");
  await fits("a conversation");
  await page.click("#settings-open");
  await fits("the settings");
  await page.keyboard.press("Escape");
  check(!(await page.isVisible("#side")), "the list covers the page");
  await page.focus("#side-open");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#list .open");
  await page.evaluate(() => Promise.all(document.getAnimations().map((a) => a.finished)));
  await fits("the list");
  check(await page.evaluate(() => document.getElementById("page").inert), "the page behind the list is reached");
  await page.keyboard.press("Escape");
  await becomes(() => page.isVisible("#side"), false, "the list after Escape");
  equal(await page.evaluate(() => document.activeElement.id), "side-open", "the focus");
  await page.click("#side-open");
  await page.click("#new");
  await page.waitForSelector(".examples");
  check(!(await answer().isVisible()), "the old conversation still shows");
}
