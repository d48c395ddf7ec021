// The console in a real browser. Run by crates/center/tests/it/console_browser.rs, which says by the
// environment where the center is:
//   BASE, ADMIN, EDITOR   its URL, an admin's token, and that of an editor of service `stock`
//   MODULES               where playwright-core and axe-core are (scripts/setup)
//   CHROMIUM              the browser
//   PICTURES              a directory: pictures of every page go there, and nothing else is checked
import { createRequire } from "node:module";
import http from "node:http";
import net from "node:net";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const { BASE, ADMIN, EDITOR, MODULES, CHROMIUM, PICTURES } = process.env;
const require = createRequire(join(MODULES, "package.json"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const PATIENCE = 30_000;

const began = Date.now();
const step = (what) => console.log(`${((Date.now() - began) / 1000).toFixed(1)} s: ${what}`);
function must(holds, what) {
  if (!holds) throw new Error(what);
}

// A way to the center that can be cut.
class Way {
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

const browser = await chromium.launch({
  executablePath: CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
});
const way = await Way.open(new URL(BASE));
const faults = [];

async function visitor(options = {}) {
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
    if (!url.startsWith(way.url) && !url.startsWith("data:")) faults.push(`a request to ${url}`);
  });
  return page;
}

async function signIn(page, token, path = "/overview") {
  await page.goto(`${way.url}${path}`);
  await page.fill("#token", token);
  await Promise.all([page.waitForURL((url) => url.pathname !== "/login"), page.click("main form .btn.primary")]);
}

async function look(page, what) {
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

const API = { authorization: `Bearer ${ADMIN}`, "content-type": "application/json" };
async function api(method, path, body) {
  const answer = await fetch(`${BASE}${path}`, { method, headers: API, body: JSON.stringify(body) });
  must(answer.ok, `${method} ${path}: ${answer.status} ${await answer.text()}`);
}

const QUESTION = `principal=${encodeURIComponent('user::"bob"')}&action=DELETE&resource=${encodeURIComponent('route::"/orders"')}`;
const PAGES = {
  overview: "/overview?service=orders",
  why: `/why?service=orders&${QUESTION}`,
  "why-empty": "/why?service=orders",
  "why-then": `/why?service=orders&as_of=6&${QUESTION}`,
  "why-allowed": `/why?service=orders&${QUESTION.replace("bob", "alice")}`,
  access: "/access?service=orders",
  who: `/access?service=orders&tab=who&action=DELETE&resource=${encodeURIComponent('route::"/orders"')}`,
  what: `/access?service=orders&tab=what&principal=${encodeURIComponent('user::"alice"')}`,
  role: "/access?service=orders&tab=role&role=orders-admin",
  give: "/access/give?service=orders&member=bob&role=orders-admin",
  take: "/access/take?service=orders&member=alice&role=orders-admin",
  grant: "/access/grant?service=orders&principal=guests&actions=GET",
  policies: "/policies?service=orders",
  routes: "/policies?service=orders&tab=routes",
  limits: "/policies?service=orders&tab=limits",
  callers: "/callers?service=orders",
  history: "/history?service=orders",
  revision: "/history?service=orders&revision=4",
  diff: "/history/diff?service=orders&from=2",
  back: "/history/back?service=orders&to=10",
  "back-conflict": "/history/back?service=orders&to=9",
  missing: "/policies?service=nowhere",
};

async function choose(page, theme, language) {
  await page.context().addCookies([
    { name: "keepgate-theme", value: theme, url: way.url },
    { name: "keepgate-language", value: language, url: way.url },
  ]);
}

async function checkErrors(page) {
  await page.goto(`${way.url}/policies?service=orders`);
  const text = await page.inputValue("textarea");
  await page.fill("textarea", `${text}\n@id("night")\npermit (principal in role::, action, resource);\n`);
  await page.click("button[value=check]");
  await page.waitForSelector(".diag li");
}

async function pictures() {
  mkdirSync(PICTURES, { recursive: true });
  const page = await visitor();
  const take = async (name) => {
    for (const [size, width, height] of [["wide", 1360, 900], ["phone", 390, 844]]) {
      await page.setViewportSize({ width, height });
      await page.screenshot({ path: join(PICTURES, `${name}-${size}.png`), fullPage: true });
    }
    await page.setViewportSize({ width: 1360, height: 900 });
  };
  for (const [theme, language] of [["light", "en"], ["dark", "en"], ["light", "zh-Hans"], ["dark", "zh-Hans"]]) {
    const suffix = `${theme}-${language.slice(0, 2)}`;
    await page.context().clearCookies();
    await choose(page, theme, language);
    await page.goto(`${way.url}/login`);
    await look(page, `login ${suffix}`);
    await take(`login-${suffix}`);
    await signIn(page, ADMIN);
    for (const [name, path] of Object.entries(PAGES)) {
      await page.goto(`${way.url}${path}`);
      await page.waitForFunction(() => document.getElementById("live-word").textContent !== "");
      await look(page, `${name} ${suffix}`);
      await take(`${name}-${suffix}`);
      step(`${name} ${suffix}`);
    }
    await checkErrors(page);
    await look(page, `errors ${suffix}`);
    await take(`errors-${suffix}`);
    await page.goto(`${way.url}/policies?service=orders`);
    const text = await page.inputValue("textarea");
    await page.fill("textarea", `${text}\n@id("night")\npermit (principal in role::"night", action, resource);\n`);
    await page.click("button[value=check]");
    await page.waitForSelector("#would");
    await look(page, `preview ${suffix}`);
    await take(`preview-${suffix}`);
    await page.goto(`${way.url}/overview`);
    await page.click("[popovertarget=me]");
    await look(page, `settings ${suffix}`);
    await take(`settings-${suffix}`);
  }
}

async function check() {
  // Wrong token, then in; by keyboard.
  const page = await visitor();
  await page.goto(way.url);
  must(new URL(page.url()).pathname === "/login", "not led to the sign-in page");
  await look(page, "login");
  await page.fill("#token", "kgt_000000000000_0");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#token-error");
  await look(page, "a wrong token");
  await page.fill("#token", ADMIN);
  await Promise.all([page.waitForURL("**/overview"), page.keyboard.press("Enter")]);
  await page.waitForFunction(() => document.getElementById("live-word").textContent === "Live.");
  await page.keyboard.press("Tab");
  const first = await page.evaluate(() => document.activeElement.className);
  must(first === "skip", `the first stop is ${first}`);
  step("signed in");

  // Live: what others change shows by itself; a cut way is said, and all is right again after it.
  await api("PUT", "/v1/services/fresh", {});
  await page.waitForSelector('#all-services a:text-is("fresh")');
  way.break();
  await page.waitForFunction(() => document.getElementById("live-word").textContent.startsWith("Not live since"));
  await look(page, "not live");
  await api("PUT", "/v1/services/later", {});
  way.mend();
  await page.waitForFunction(() => document.getElementById("live-word").textContent === "Live.");
  await page.waitForSelector('#all-services a:text-is("later")');
  step("live again");

  // Each page, in both themes and both languages.
  for (const [theme, language] of [["light", "en"], ["dark", "zh-Hans"]]) {
    await choose(page, theme, language);
    for (const [name, path] of Object.entries(PAGES)) {
      await page.goto(`${way.url}${path}`, { waitUntil: "domcontentloaded" });
      await look(page, `${name} ${theme} ${language}`);
    }
    must((await page.getAttribute("html", "lang")) === language, "the language");
    step(`pages in ${theme} ${language}`);
  }
  await choose(page, "light", "en");
  await page.setViewportSize({ width: 390, height: 844 });
  for (const path of Object.values(PAGES)) {
    await page.goto(`${way.url}${path}`);
    const sideways = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    must(sideways <= 0, `${path} scrolls sideways on a phone by ${sideways} px`);
  }
  await page.setViewportSize({ width: 1360, height: 900 });
  await checkErrors(page);
  await look(page, "errors");
  step("a phone, errors");

  // Two editors at once.
  const other = await visitor();
  await signIn(other, ADMIN, "/policies?service=orders");
  await page.goto(`${way.url}/policies?service=orders`);
  const text = await page.inputValue("textarea");
  await other.fill("textarea", `${text}\n// theirs\n@id("theirs")\nforbid (principal, action, resource) when { false };\n`);
  await other.click("button[value=save]");
  await other.waitForSelector(".notice.ok");
  await page.fill("textarea", `${text}\n// mine\n@id("mine")\nforbid (principal, action, resource) when { false };\n`);
  await page.click("button[value=save]");
  await page.waitForSelector("#conflict");
  must((await page.inputValue("textarea")).includes("// mine"), "the text is not kept");
  must((await page.textContent("#conflict")).includes("theirs"), "theirs is not shown");
  await look(page, "a conflict");
  step("two editors");

  // An expired session: back on the page, with the text, and nothing sent.
  await page.context().clearCookies({ name: "keepgate-session" });
  await page.click("button[value=save]");
  await page.waitForSelector("#token");
  await look(page, "an expired session");
  await page.fill("#token", ADMIN);
  await page.click("main form .btn.primary");
  await page.waitForSelector("textarea");
  must((await page.inputValue("textarea")).includes("// mine"), "the text is not kept over a sign-in");
  const stored = await fetch(`${BASE}/v1/services/orders/cedar`, { headers: API });
  must(!(await stored.text()).includes("mine"), "it was sent");
  step("an expired session");

  // A form of another origin: the cookie goes along, as it is the same site.
  const evil = http.createServer((_, answer) => {
    answer.setHeader("content-type", "text/html");
    answer.end(`<form method="post" action="${way.url}/access/give"><input name="member" value="eve">
      <input name="role" value="orders-admin"><input name="do" value="make"><button>go</button></form>`);
  });
  await new Promise((done) => evil.listen(0, "127.0.0.1", done));
  const seen = faults.length;
  await page.goto(`http://127.0.0.1:${evil.address().port}/`);
  await page.click("button");
  await page.waitForSelector(".notice.bad");
  faults.length = seen;
  must((await page.textContent(".notice.bad")).includes("This form was refused"), "not refused");
  await look(page, "a forged form");
  evil.close();
  step("a forged form");

  // The editor of another service.
  const editor = await visitor();
  await signIn(editor, EDITOR, "/access/give?service=orders&member=eve&role=orders-admin");
  await editor.click("#preview .btn.primary");
  await editor.waitForSelector(".notice.bad");
  must((await editor.textContent(".notice.bad")).includes("may not do this"), "not refused");
  await look(editor, "the editor of another service");
  const members = await fetch(`${BASE}/v1/members`, { headers: API });
  must(!(await members.text()).includes("eve"), "eve is in");
  step("the editor of another service");

  // A field is completed while one types.
  await page.goto(`${way.url}/why?service=orders`);
  await page.locator("#f-principal").pressSequentially("ali");
  await page.waitForSelector('#list-principal option[value="user::\\"alice\\""]', { state: "attached" });
  step("a field is completed");

  // Going back gives back what was taken away only when that is confirmed.
  await page.goto(`${way.url}/history/back?service=orders&to=9`);
  await page.click("button[value=make]");
  must(await page.evaluate(() => document.querySelector("#f-confirmed:invalid") !== null), "not asked");
  await page.check("#f-confirmed");
  await page.click("button[value=make]");
  await page.waitForSelector(".notice.ok");
  must((await page.textContent("#revision")).includes('user::"carol"'), "it is not shown");
  await look(page, "gone back");
  step("gone back");

  // A role is given in the browser, and taken.
  await page.goto(`${way.url}/access/give?service=orders&member=bob&role=orders-admin`);
  await page.click("#preview .btn.primary");
  await page.waitForSelector("#members th:has-text('bob')");
  await page.goto(`${way.url}/why?service=orders&${QUESTION}`);
  must((await page.getAttribute(".answer", "class")).includes("ok"), "bob is not allowed");
  step("a role is given");
  must(faults.length === 0, faults.join("\n"));
}

const timer = setTimeout(() => {
  console.log("too slow");
  process.exit(1);
}, PICTURES ? 600_000 : 240_000);
let code = 0;
try {
  await (PICTURES ? pictures() : check());
} catch (error) {
  console.log(`failed: ${error.stack}`);
  code = 1;
} finally {
  clearTimeout(timer);
  way.close();
  await browser.close();
}
process.exit(code);
