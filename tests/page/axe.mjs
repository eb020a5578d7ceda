// Every state of the page under axe: nothing serious, nothing critical. With --shots FOLDER each state is a picture.

import { createRequire } from "node:module";
import { readFile } from "node:fs/promises";
import { check, equal, inTab } from "./browser.mjs";
import { says, stream, told } from "./stage.mjs";

const ANSWER = `Rivers carry water from high ground to the sea. **Three** of them:

1. The *Glomma*, the longest in Norway
2. The [Drammenselva](https://example.com/drammen)
3. The Numedalslågen

| River | Length | Mouth |
|:------|-------:|-------|
| Glomma | 621 km | Fredrikstad |
| Numedalslågen | 352 km | Larvik |

\`\`\`python
def flow(width, depth, speed):
    """Cubic metres per second, for a bed that is a plain rectangle and not the valley it is in."""
    return width * depth * speed
\`\`\`

> What is wide is slow.

The \`flow\` is the same at every width.`;

/** An answer with all that an answer can have. */
function rich(body, response) {
  const out = stream(response, { "x-geb-ignored": "verbosity", "x-geb-seed": "4711" });
  out.delta({ reasoning_content: "The user asks about rivers. I should name three, and a formula." });
  let at = 0;
  for (const piece of ANSWER.match(/[\s\S]{1,5}/g)) {
    const p = -[0.02, 0.4, 0.9, 1.6, 2.8][at++ % 5];
    out.delta({ content: piece }, { content: [told(piece, p, [[" other", -1.5], [" more", -2.5], ["\n", -3.2], [null, -5]])] });
  }
  if (body.tools) out.delta({ tool_calls: [{ index: 0, id: "c", function: { name: "river_length", arguments: '{"name": "Glomma", "unit": "km"}' } }] });
  out.end(body.tools ? "tool_calls" : "stop", { prompt_tokens: 48, completion_tokens: at, prompt_tokens_details: { cached_tokens: 32 } });
}

const SCREENS = { wide: { width: 1280, height: 860 }, narrow: { width: 320, height: 640 } };

export function all({ browser, stage, shots }) {
  const tests = [];
  for (const colorScheme of ["light", "dark"]) {
    for (const [size, viewport] of Object.entries(SCREENS)) {
      tests.push([`${colorScheme}, ${size}`, () => {
        stage.reset(rich);
        return inTab(browser, stage.address, (tab) => states(tab, stage, size, `${shots ?? ""}/${colorScheme}-${size}`, shots), { colorScheme, viewport, reducedMotion: "reduce" });
      }]);
    }
  }
  return tests;
}

/** Goes through the states; how many there were, and what axe found beside the grave. */
async function states({ page, say, ready, painted, answer }, stage, size, shot, shots) {
  const source = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
  let seen = 0;
  const minor = new Set();
  const look = async (name) => {
    await painted();
    if (shots) await page.screenshot({ path: `${shot}-${name}.png` });
    // By the debugger, which the page's policy does not hold.
    await page.evaluate(source);
    const { violations, passes } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
    check(passes.length > 10, "axe looked at nothing");
    const grave = violations.filter((v) => ["serious", "critical"].includes(v.impact));
    equal(grave.map((v) => `${v.impact} ${v.id}: ${v.nodes[0].html.slice(0, 150)}`), [], name);
    for (const v of violations) minor.add(`${v.impact} ${v.id} (${v.nodes.map((n) => n.target).slice(0, 3)})`);
    seen++;
  };
  await ready();
  await look("empty");
  await say("Tell me about rivers, with a table and some code.");
  await look("answer");
  await answer().locator("summary").click();
  await page.evaluate(() => (document.getElementById("scroll").scrollTop = 0));
  await look("reasoning");
  await answer().getByRole("button", { name: "Tokens" }).click();
  await page.locator(".token").nth(3).click();
  await look("tokens");
  await page.keyboard.press("Escape");
  await answer().getByRole("button", { name: "Regenerate" }).click();
  await page.waitForSelector("#send:not([hidden])");
  await look("versions");
  await page.locator(".message.user").first().hover();
  await page.locator(".message.user").first().getByRole("button", { name: "Edit" }).click();
  await look("edit");
  await page.keyboard.press("Escape");
  await page.click("#settings-open");
  await look("settings");
  await page.fill("#set-tools", '[{"type": "function", "function": {"name": "river_length"}}]');
  await page.fill("#set-schema", "{");
  await page.click("#settings button[type=submit]");
  await look("settings-wrong");
  await page.fill("#set-schema", "");
  await page.click("#settings button[type=submit]");
  await say("How long is the Glomma?");
  await look("tool");
  await page.fill(".results textarea", "621");
  stage.answer = (_, response) => {
    response.writeHead(503, { "content-type": "application/json" });
    response.end('{"error": {"message": "8 requests wait, allowed: 8"}}');
  };
  await page.click(".results button");
  await page.waitForSelector(".error");
  await look("error");
  stage.answer = () => {};
  await page.click(".error button");
  await page.waitForSelector(".waits");
  await look("waiting");
  await page.keyboard.press("Escape");
  if (size === "narrow") {
    await page.click("#side-open");
    await page.waitForSelector("#list .open");
    await look("list");
  }
  await page.locator("#list .icon").first().click();
  await look("menu");
  await page.locator("#menu button").first().click();
  await look("rename");
  await page.keyboard.press("Escape");
  if (size === "narrow") await page.keyboard.press("Escape");
  stage.guard = (_, response) => {
    response.writeHead(401, { "content-type": "application/json" });
    response.end('{"error": {"message": "no valid API key", "code": "invalid_api_key"}}');
    return false;
  };
  await page.reload();
  await page.waitForSelector("#key[open]");
  await look("key");
  return `${seen} states, nothing serious or critical${minor.size ? `; else: ${[...minor].join(", ")}` : ""}`;
}
