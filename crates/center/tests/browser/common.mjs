// What the tests in a browser share: the browser, a way to the center that can be cut, axe-core, who
// looks. The environment says where they are:
//   MODULES     where playwright-core and axe-core are (scripts/setup)
//   CHROMIUM    the browser
import { createRequire } from "node:module";
import net from "node:net";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const { MODULES, CHROMIUM } = process.env;
const require = createRequire(join(MODULES, "package.json"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
export const PATIENCE = 30_000;

const began = Date.now();
export const step = (what) => console.log(`${((Date.now() - began) / 1000).toFixed(1)} s: ${what}`);
export function must(holds, what) {
  if (!holds) throw new Error(what);
}

// A way to the center that can be cut.
export class Way {
  static async open(to) {
    const way = new Way();
    way.sockets = new Set();
    way.cut = false;
    way.server = net.createServer((socket) => {
      if (way.cut) return socket.destroy();
      const peer = net.connect(Number(to.port), to.hostname);
      for (const one of [socket, peer]) {
        way.sockets.add(one);
        one.on("error", () => {});
        one.on("close", () => {
          way.sockets.delete(one);
          socket.destroy();
          peer.destroy();
        });
      }
      socket.pipe(peer);
      peer.pipe(socket);
    });
    await new Promise((done) => way.server.listen(0, "127.0.0.1", done));
    way.url = `http://127.0.0.1:${way.server.address().port}`;
    return way;
  }
  break() {
    this.cut = true;
    for (const socket of this.sockets) socket.destroy();
  }
  mend() {
    this.cut = false;
  }
  close() {
    this.break();
    this.server.close();
  }
}

export const browser = await chromium.launch({
  executablePath: CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
});

// What no page may do: break its policy, fail, ask another host than `hosts`.
export const faults = [];
export const hosts = [];

export async function visitor(options = {}) {
  const context = await browser.newContext({
    viewport: { width: 1360, height: 900 },
    locale: "en-US",
    ...options,
  });
  context.setDefaultTimeout(PATIENCE);
  await context.addInitScript({ content: axe });
  const page = await context.newPage();
  // Nothing that the policy refuses, and nothing of another host.
  page.on("console", (said) => {
    if (/Content Security Policy|Refused to/i.test(said.text())) faults.push(said.text());
  });
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("request", (request) => {
    const url = request.url();
    if (![...hosts, "data:"].some((host) => url.startsWith(host))) faults.push(`a request to ${url}`);
  });
  return page;
}

export async function signIn(page, base, token, path = "/overview") {
  await page.goto(`${base}${path}`);
  await page.fill("#token", token);
  await Promise.all([page.waitForURL((url) => url.pathname !== "/login"), page.click("main form .btn.primary")]);
}

export async function look(page, what) {
  const found = await page.evaluate(async () => {
    const told = await globalThis.axe.run(document, {
      runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    });
    return told.violations.map((one) => `${one.id}: ${one.nodes.map((node) => `${node.html} ${node.failureSummary}`).slice(0, 3).join(" | ")}`);
  });
  must(found.length === 0, `${what}: ${found.join("\n")}`);
  const sideways = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  must(sideways <= 0, `${what}: it scrolls sideways by ${sideways} px`);
}

// Does it, and ends the browser and this program; a failure is said and is exit code 1.
export async function end(work, seconds) {
  const timer = setTimeout(() => {
    console.log("too slow");
    process.exit(1);
  }, seconds * 1000);
  let code = 0;
  try {
    await work();
    must(faults.length === 0, faults.join("\n"));
  } catch (error) {
    console.log(`failed: ${error.stack}`);
    code = 1;
  } finally {
    clearTimeout(timer);
    await browser.close();
  }
  process.exit(code);
}
