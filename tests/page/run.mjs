// The page in a real browser, against a server that runs.
//
//   npm install --no-package-lock
//   node run.mjs http://127.0.0.1:8080|GEB-RUN [--only flows,injections,axe,frames] [--shots FOLDER] [--timed]
//
// The server should be `geb-run serve --demo`, which is started if the program is named in the place of an address,
// or serve any model with a chat template. CHROMIUM names the browser (default: chromium at its usual place). What the
// server's model cannot be made to say comes from a stage (stage.mjs) that passes on the server's own files and plays
// the API. What frames take is told; with `--timed`, on a machine that does nothing else, one that takes too long fails.
// The last line is `N passed, N failed`; the exit code is 1 if one failed.

import { spawn } from "node:child_process";
import { openBrowser } from "./browser.mjs";
import { startStage } from "./stage.mjs";
import * as axe from "./axe.mjs";
import * as flows from "./flows.mjs";
import * as frames from "./frames.mjs";
import * as injections from "./injections.mjs";

const option = (name) => {
  const at = process.argv.indexOf(name);
  return at < 0 ? null : process.argv[at + 1];
};
const where = process.argv[2];
if (!where || where.startsWith("-")) {
  console.error("usage: node run.mjs ADDRESS|GEB-RUN [--only flows,injections,axe,frames] [--shots FOLDER] [--timed]");
  process.exit(2);
}

const parts = { flows, injections, axe, frames };
const wanted = option("--only")?.split(",") ?? Object.keys(parts);
const browser = await openBrowser();
const server = where.startsWith("http") ? null : await startServer(where);
const address = (server?.address ?? where).replace(/\/$/, "");
const stage = await startStage(address);
const world = { browser, stage, address, shots: option("--shots"), timed: process.argv.includes("--timed") };
let passed = 0;
let failed = 0;
try {
  for (const name of wanted) {
    console.log(`== ${name}`);
    for (const [title, work] of parts[name].all(world)) {
      const start = Date.now();
      try {
        const told = await work();
        passed++;
        console.log(`ok    ${title}${told ? `: ${told}` : ""} (${Date.now() - start} ms)`);
      } catch (error) {
        failed++;
        console.log(`FAILED ${title}\n      ${String(error.stack ?? error).split("\n").slice(0, 8).join("\n      ")}`);
      }
    }
  }
} finally {
  await browser.close();
  await stage.close();
  const code = await server?.stop();
  if (code) {
    failed++;
    console.log(`FAILED the server ended with ${code}`);
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed || !passed ? 1 : 0);

/** Starts a server of the built-in model on a free port. */
async function startServer(program) {
  const started = spawn(program, ["serve", "--demo", "--port", "0", "--log", "off"], { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  const address = await new Promise((done, fail) => {
    started.on("error", fail);
    started.on("exit", () => fail(new Error(`the server ended: ${said}`)));
    started.stderr.on("data", (text) => {
      said += text;
      const found = /http:\/\/\S+/.exec(said);
      if (found && said.includes("\n", found.index)) done(found[0]);
    });
  });
  const ended = new Promise((done) => started.on("exit", (code, signal) => done(code ?? signal)));
  return { address, stop: () => (started.kill(), ended) };
}
