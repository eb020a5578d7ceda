// A browser, and tabs that count what must not happen.

import { existsSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import { chromium } from "playwright-core";

/** Starts the system's Chromium. */
export function openBrowser() {
  // The shell without a window does the same for a third of the processor time.
  const places = [process.env.CHROMIUM, "/usr/bin/chromium-headless-shell", "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
  const executablePath = places.find((p) => p && existsSync(p));
  if (!executablePath) throw new Error(`no browser at ${places.filter(Boolean).join(", ")}; set CHROMIUM`);
  // Chromium has no sandbox for root; the page is ours.
  return chromium.launch({ executablePath, args: process.getuid?.() === 0 ? ["--no-sandbox"] : [] });
}

/** A tab of its own, with nothing stored, at this address. `bad` collects what must not happen. */
export async function openTab(browser, address, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1100, height: 760 }, acceptDownloads: true, ...options });
  await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: address });
  const bad = [];
  const own = new URL(address).host;
  context.on("request", (request) => {
    const url = new URL(request.url());
    if (!["data:", "blob:"].includes(url.protocol) && url.host !== own) bad.push(`request to ${url}`);
  });
  const page = await context.newPage();
  context.on("page", (other) => bad.push(`a second page: ${other.url()}`));
  page.on("dialog", (dialog) => {
    bad.push(`dialog ${dialog.type()}: ${dialog.message()}`);
    dialog.dismiss().catch(() => {});
  });
  page.on("pageerror", (error) => bad.push(`error: ${error.stack}`));
  page.on("console", (message) => {
    if (message.type() === "error" && !/Failed to load resource/.test(message.text())) bad.push(`console: ${message.text()}`);
  });
  await page.addInitScript(() => {
    globalThis.violations = [];
    document.addEventListener("securitypolicyviolation", (e) => violations.push(`${e.violatedDirective} ${e.blockedURI}`));
  });
  await page.goto(`${address}/`);
  const tab = { page, context, bad };
  tab.settled = () => page.waitForSelector("#send:not([hidden])", { timeout: 120_000 });
  tab.ready = () => page.waitForSelector(".examples button");
  /** Does what makes the page ask the server, and waits until the answer is whole. */
  tab.asks = async (act) => {
    // Before it asks, the page shows that it does.
    const asked = page.waitForRequest(/\/v1\/chat\/completions$/);
    await Promise.all([asked, act()]);
    await tab.settled();
    await tab.painted();
  };
  /** Sends a text and waits until the answer is whole. */
  tab.say = (text) =>
    tab.asks(async () => {
      await page.fill("#entry", text);
      await page.press("#entry", "Enter");
    });
  tab.painted = () => page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
  tab.answer = () => page.locator(".message.assistant").last();
  /** The conversations as the page has stored them, once they are whole. */
  tab.stored = async () => {
    for (let tries = 0; ; tries++) {
      const all = await page.evaluate(async () => {
        const store = await import(new URL("store.js", location));
        const all = [];
        for (const c of await store.list()) all.push({ ...c, messages: (await store.messages(c.id)).sort((a, b) => a.created - b.created) });
        return all;
      });
      // What has just been shown is being written.
      const whole = all.every((c) => c.messages.every((m) => m.role !== "assistant" || m.finish !== null));
      if (whole || tries > 400) return all;
      await page.waitForTimeout(50);
    }
  };
  /** Fails if something happened that must not; closes the tab. */
  tab.close = async () => {
    const found = [...bad, ...(await page.evaluate(() => globalThis.violations))];
    if (await page.evaluate(() => Boolean(globalThis.hit))) found.push("a script ran");
    await context.close();
    if (found.length) throw new Error(`must not happen: ${found.slice(0, 5).join("; ")}`);
  };
  return tab;
}

/** Does `work` in a tab of its own. */
export async function inTab(browser, address, work, options) {
  const tab = await openTab(browser, address, options);
  let told;
  try {
    await tab.page.waitForLoadState("load");
    told = await work(tab);
  } catch (error) {
    await tab.context.close();
    if (tab.bad.length) error.message += ` (${tab.bad.slice(0, 3).join("; ")})`;
    throw error;
  }
  await tab.close();
  return told;
}

/** Waits until `found()` is what is wanted; fails if it is not after half a minute. */
export async function becomes(found, wanted, what) {
  const end = Date.now() + 30_000;
  while (!isDeepStrictEqual(await found(), wanted) && Date.now() < end) await new Promise((done) => setTimeout(done, 50));
  equal(await found(), wanted, what);
}

/** Fails unless `good`. */
export function check(good, what) {
  if (!good) throw new Error(what);
}

/** Fails unless both are the same. */
export function equal(found, wanted, what) {
  if (isDeepStrictEqual(found, wanted)) return;
  throw new Error(`${what}: ${JSON.stringify(found)}, wanted: ${JSON.stringify(wanted)}`);
}
