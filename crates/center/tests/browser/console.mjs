// The console in a real browser. Run by crates/center/tests/it/console_browser.rs, which says by the
// environment where the center is:
//   BASE, ADMIN, EDITOR   its URL, an admin's token, and that of an editor of service `stock`
//   DATABASE              its SQLite file
//   MODULES               where playwright-core and axe-core are (scripts/setup)
//   CHROMIUM              the browser
//   PICTURES              a directory: pictures of every page go there, and nothing else is checked
import { execFileSync } from "node:child_process";
import http from "node:http";
import { mkdirSync } from "node:fs";
import { join } from "node:path";

import { Way, end, faults, hosts, look, must, signIn, step, visitor } from "./common.mjs";

const { BASE, ADMIN, EDITOR, DATABASE, PICTURES } = process.env;
const way = await Way.open(new URL(BASE));
hosts.push(way.url);

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
  request: `/callers/request?service=orders&request=${process.env.REQUEST}`,
  history: "/history?service=orders",
  revision: "/history?service=orders&revision=4",
  diff: "/history/diff?service=orders&from=2",
  back: "/history/back?service=orders&to=10",
  "back-conflict": "/history/back?service=orders&to=9",
  missing: "/policies?service=nowhere",
};

// Sets the end of every session to a time long ago, in the store.
function endSessions() {
  const program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=30); c.execute('UPDATE sessions SET expires_unix_s = 1'); c.commit()";
  execFileSync("python3", ["-c", program, DATABASE]);
}

async function stored() {
  return (await fetch(`${BASE}/v1/services/orders/cedar`, { headers: API })).text();
}

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

// The page for callers: asked, approved, fetched, and the key shown; `seen` looks at each step.
async function callersPage(theme, language, seen) {
  const page = await visitor({ locale: language === "en" ? "en-US" : "zh-CN", colorScheme: theme });
  await page.goto(`${way.url}/apis/orders`);
  must((await page.getAttribute("html", "lang")) === language, "the page for callers: the language");
  await seen(page, "apis");
  await page.fill("#who", "Nightly import");
  await page.fill("#what-for", "Copies new orders");
  await page.fill("#per-day", "1,000");
  await page.click("form[action$='/ask'] button");
  const code = (await page.textContent("section.ok pre")).trim();
  await seen(page, "apis-asked");
  const asked = await (await fetch(`${BASE}/v1/services/orders/requests?state=pending`, { headers: API })).json();
  const { id } = asked.requests.find((one) => one.who === "Nightly import");
  await api("POST", `/v1/services/orders/requests/${id}/approve`, { principal: 'client::"import"', plan: "bulk" });
  await page.fill("#code", code);
  await page.click("form[action$='/key'] button");
  const key = (await page.textContent("section.ok pre")).trim();
  must(key.startsWith("kgk_") && !page.url().includes(code), "no key, or the code is in the address");
  await page.fill("#shown", key);
  await page.click("form[action$='/left'] button");
  must((await page.locator("td.yes").count()) > 0, "what the key may do is not said");
  await page.locator("summary").first().click();
  await seen(page, "apis-key");
  await page.fill("#per-day", "many");
  await page.fill("#who", "a");
  await page.fill("#what-for", "b");
  await page.click("form[action$='/ask'] button");
  must((await page.locator("#per-day[aria-invalid]").count()) === 1, "what is wrong is not marked");
  await seen(page, "apis-wrong");
  await page.context().close();
}

async function pictures() {
  mkdirSync(PICTURES, { recursive: true });
  const page = await visitor();
  const take = async (name, of = page) => {
    await of.evaluate(() => scrollTo(0, 0));
    for (const [size, width, height] of [["wide", 1360, 900], ["phone", 390, 844]]) {
      await of.setViewportSize({ width, height });
      await of.screenshot({ path: join(PICTURES, `${name}-${size}.png`), fullPage: true });
    }
    await of.setViewportSize({ width: 1360, height: 900 });
  };
  for (const [theme, language] of [["light", "en"], ["dark", "en"], ["light", "zh-Hans"], ["dark", "zh-Hans"]]) {
    const suffix = `${theme}-${language.slice(0, 2)}`;
    await page.context().clearCookies();
    await choose(page, theme, language);
    await page.goto(`${way.url}/login`);
    await look(page, `login ${suffix}`);
    await take(`login-${suffix}`);
    await signIn(page, way.url, ADMIN);
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
    await callersPage(theme, language, async (of, name) => {
      await look(of, `${name} ${suffix}`);
      await take(`${name}-${suffix}`, of);
    });
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
  await choose(page, "dark", "zh-Hans");
  await page.goto(`${way.url}/login`);
  await page.fill("#token", "kgt_000000000000_0");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#token-error");
  must((await page.getAttribute("html", "lang")) === "zh-Hans", "a wrong token: the language");
  await look(page, "a wrong token in Chinese");
  await choose(page, "light", "en");
  await page.goto(`${way.url}/login`);
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

  // The page for callers, for everybody.
  for (const [theme, language] of [["light", "en"], ["dark", "zh-Hans"]]) {
    await callersPage(theme, language, async (of, name) => {
      await look(of, `${name} ${theme} ${language}`);
      await of.setViewportSize({ width: 390, height: 844 });
      const sideways = await of.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      must(sideways <= 0, `${name} scrolls sideways on a phone by ${sideways} px`);
      await of.setViewportSize({ width: 1360, height: 900 });
    });
  }
  step("the page for callers");

  // Two editors at once.
  const other = await visitor();
  await signIn(other, way.url, ADMIN, "/policies?service=orders");
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
  const kept = await stored();
  must(kept.includes("theirs") && !kept.includes("mine"), "theirs is not what is stored");
  step("two editors");

  // An expired session: back on the page, with the text, and nothing sent.
  for (const language of ["zh-Hans", "en"]) {
    endSessions();
    await choose(page, "light", language);
    await page.click("button[value=save]");
    await page.waitForSelector("#token");
    must((await page.getAttribute("html", "lang")) === language, "an expired session: the language");
    await look(page, `an expired session ${language}`);
    await page.fill("#token", ADMIN);
    await page.click("main form .btn.primary");
    await page.waitForSelector("textarea");
    must((await page.inputValue("textarea")).includes("// mine"), "the text is not kept over a sign-in");
    must(!(await stored()).includes("mine"), "it was sent");
  }
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
  await signIn(editor, way.url, EDITOR, "/access/give?service=orders&member=eve&role=orders-admin");
  for (const [language, refusal] of [["en", "may not do this"], ["zh-Hans", "无权"]]) {
    await choose(editor, "dark", language);
    await editor.goto(`${way.url}/access/give?service=orders&member=eve&role=orders-admin`);
    await editor.click("#preview .btn.primary");
    await editor.waitForSelector(".notice.bad");
    must((await editor.textContent(".notice.bad")).includes(refusal), `not refused in ${language}`);
    await look(editor, `the editor of another service ${language}`);
  }
  const members = await fetch(`${BASE}/v1/members`, { headers: API });
  must(!(await members.text()).includes("eve"), "eve is in");
  step("the editor of another service");

  // A crawl by name leads to a key in the plan that fits.
  await page.goto(`${way.url}/callers?service=orders`);
  await page.click("#crawls a");
  must((await page.inputValue("#new-key input[name=principal]")) === 'client::"crawler"', "the crawler is not filled in");
  must((await page.inputValue("#f-plan")) === "bulk", "the plan is not chosen");
  step("a plan is offered");

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
}

await end(PICTURES ? pictures : check, PICTURES ? 600 : 240);
