// 10,000 tokens come fast, and all are shown. What a frame takes is told; with `--timed` none may take 50 ms.

import { check, equal, inTab } from "./browser.mjs";
import { stream, told } from "./stage.mjs";

const TOKENS = 10_000;
const MOST_MS = 50;
/** Tokens a second; more than any CPU decodes for one reader. */
const RATE = 1_000;

const words = "the river runs from high ground down to the sea and what is wide is slow while what is narrow is quick".split(" ");
const word = (i) => ` ${words[(i * 7 + (i >> 3)) % words.length]}`;
/** What the tokens say: nothing special, and the blocks that never end. */
const TEXTS = {
  "a mixed text": (i) => (i % 97 === 0 ? "\n\n" : i % 401 === 17 ? "\n\n```py\n" : i % 401 === 60 ? "\n```\n\n" : i % 53 === 9 ? "\n- " : i % 31 === 0 ? ` **${words[i % 20]}**` : word(i)),
  "one paragraph": word,
  "one list": (i) => (i % 12 === 0 ? "\n- " : word(i)),
  "one block of code": (i) => (i === 0 ? "```\n" : i % 10 === 0 ? "\n" : word(i)),
  "one table": (i) => (i === 0 ? "| a | b |\n|---|---|\n" : i % 8 === 0 ? " |\n| " : i % 8 === 4 ? " | " : word(i)),
  "one quotation of quotations": (i) => (i % 20 === 0 ? `\n${"> ".repeat(1 + (i / 20) % 6)}` : word(i)),
};

const whole = (token) => Array.from({ length: TOKENS }, (_, i) => token(i)).join("");

export function all({ browser, stage, timed }) {
  return Object.entries(TEXTS).map(([name, token]) => [`${TOKENS} tokens, ${name}`, () => {
    stage.reset((_, response) => play(response, token));
    return inTab(browser, stage.address, (tab) => measure(tab, browser, timed, whole(token)));
  }]);
}

/** Streams the tokens, with alternatives, at the rate. */
async function play(response, token) {
  const out = stream(response);
  const start = Date.now();
  for (let i = 0; i < TOKENS && !response.destroyed; ) {
    const due = Math.min(TOKENS, ((Date.now() - start) / 1000) * RATE);
    for (; i < due; i++) {
      const text = token(i);
      out.delta({ content: text }, { content: [told(text, -0.5, [[" a", -1], [" b", -2], [" c", -3], [" d", -4]])] });
    }
    await new Promise((done) => setTimeout(done, 8));
  }
  out.end("stop", { prompt_tokens: 5, completion_tokens: TOKENS });
}

/** Times are those of the processor: what else the machine does is not the page's. The clock's are told beside. */
async function measure({ page, asks, answer, stored }, browser, timed, whole) {
  await page.evaluate(() => {
    globalThis.frames = [];
    let last = null;
    const frame = (now) => {
      if (last !== null) frames.push(now - last);
      last = now;
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  });
  await browser.startTracing(page, { categories: ["-*", "toplevel"] });
  let trace;
  try {
    await page.fill("#entry", "Go");
    await asks(() => page.press("#entry", "Enter"));
  } finally {
    trace = JSON.parse(await browser.stopTracing());
  }
  const frames = await page.evaluate(() => frames);
  equal((await stored())[0].messages.at(-1).content, whole, "what is kept");
  check((await answer().locator(".speed").textContent()).startsWith(`${TOKENS} tokens`), "not all tokens came");
  const work = tasks(trace);
  const at = (list, q) => list.sort((a, b) => a - b)[Math.min(list.length - 1, Math.floor(list.length * q))]?.toFixed(0);
  const told = `${work.length} tasks of the page, p99 ${at(work, 0.99)}, worst ${at(work, 1)} ms; ${frames.length} frames by the clock, p50 ${at(frames, 0.5)}, p99 ${at(frames, 0.99)}, worst ${at(frames, 1)} ms`;
  check(work.length && frames.length, "nothing was measured");
  if (timed) {
    check(work.length > 500 && frames.length > 100, `too few frames: ${told}`);
    check(work.at(-1) < MOST_MS, told);
  }
  return told;
}

/** What each task of the page's main thread took of the processor, in ms. A frame is one task. */
function tasks(trace) {
  const events = trace.traceEvents;
  const main = new Set(events.filter((e) => e.name === "thread_name" && e.args.name === "CrRendererMain").map((e) => `${e.pid} ${e.tid}`));
  // Of all tabs the one that has most to do.
  const lists = [...main].map((thread) =>
    events.filter((e) => e.name.endsWith("RunTask") && e.tdur !== undefined && `${e.pid} ${e.tid}` === thread).map((e) => e.tdur / 1000));
  const sum = (list) => list.reduce((a, b) => a + b, 0);
  return lists.sort((a, b) => sum(b) - sum(a))[0] ?? [];
}
