// One story from start to end, at a real center, a real gate and a real upstream. Run by
// crates/keepgate/tests/it/story.rs, which says by the environment where they are:
//   CENTER, GATE          their URLs
//   ADMIN                 an admin's token
//   BOB, CRAWLER          their API keys
//   MODULES, CHROMIUM     as common.mjs says
import { end, hosts, look, must, signIn, step, visitor } from "./common.mjs";

const { CENTER, GATE, ADMIN, BOB, CRAWLER } = process.env;
hosts.push(CENTER, GATE);

const ask = (key, path = "/orders") => fetch(`${GATE}${path}`, { headers: { "x-api-key": key, accept: "application/json" } });

// Asks until the gate has followed.
async function until(key, status, path) {
  const last = Date.now() + 60_000;
  for (;;) {
    const answer = await ask(key, path);
    await answer.arrayBuffer();
    if (answer.status === status) return;
    must(Date.now() < last, `expected ${status} of the gate, got ${answer.status}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

// Bob is denied; the operator finds out why, gives him the role, and he is let through.
async function bob(page) {
  await until(BOB, 403);
  await page.click('.nav a[href^="/why"]');
  await page.fill("#f-principal", 'user::"bob"');
  await page.fill("#f-action", "GET");
  await page.fill("#f-resource", 'route::"/orders"');
  await page.click("main form .btn.primary");
  await page.waitForSelector(".answer.bad");
  await look(page, "why bob is denied");
  must((await page.textContent("#near")).includes("orders-reader"), "the nearest policy is not shown");
  step("why bob is denied");

  await page.click('#near a[href^="/access/give"]');
  await page.fill("input[name=role]", "orders-reader");
  await page.click("main form .btn");
  await page.waitForSelector("#preview");
  await look(page, "what bob gets");
  await until(BOB, 403);
  await page.click("#preview .btn.primary");
  await page.waitForSelector("#members th:has-text('bob')");
  await until(BOB, 200);
  step("bob is let through");
}

// It is in the history, and the operator goes back.
async function back(page) {
  await page.click('.nav a[href^="/history"]');
  await page.waitForSelector("main");
  await look(page, "the history");
  await page.click('main tbody a[href*="revision="], main li a[href*="revision="]');
  await page.waitForSelector('main a.btn[href*="/history/back"]');
  must((await page.textContent("main")).includes('user::"bob"'), "the newest revision does not name bob");
  await look(page, "the revision that let bob in");
  await page.click('main a.btn[href*="/history/back"]');
  await page.waitForSelector("button[value=make]");
  must((await page.textContent("main")).includes("bob"), "what it takes is not shown");
  await look(page, "going back");
  const confirm = page.locator("#f-confirmed");
  if (await confirm.count()) await confirm.check();
  await page.click("button[value=make]");
  await page.waitForSelector(".notice.ok");
  await until(BOB, 403);
  step("gone back: bob is denied");
}

// A crawler gets 429, follows `help` to the page for callers, and asks there.
async function crawler() {
  let answer;
  for (let n = 0; n < 100 && answer?.status !== 429; n += 1) {
    answer = await ask(CRAWLER, `/orders/${n}`);
    if (answer.status !== 429) await answer.arrayBuffer();
  }
  must(answer.status === 429, `the crawler gets ${answer.status}`);
  const { help } = await answer.json();
  const link = answer.headers.get("link");
  must(link.includes(help) && link.includes('rel="help"'), `the link is ${link}`);
  const page = await visitor({ bypassCSP: true });
  await page.goto(new URL(help, GATE).href);
  await look(page, "the page for callers");
  must((await page.textContent("main")).includes("bulk"), "the plans are not shown");
  must(page.url().startsWith(GATE), "the page is not the gate's");
  step("a crawler follows help");
  await page.fill("#who", "Price crawler, crawler@example.org");
  await page.fill("#what-for", "Reads each order once a day");
  await page.fill("#per-day", "100000");
  await page.click('form[action$="/ask"] button');
  await page.waitForSelector("section.ok pre");
  await look(page, "the crawler has asked");
  const code = (await page.textContent("section.ok pre")).trim();
  // Nobody has decided yet.
  await page.fill("#code", code);
  await page.click('form[action$="/key"] button');
  await page.waitForSelector("section.bad, section.warn, main section[role]");
  must((await page.locator("section.ok pre").count()) === 0, "there is a key before anybody decided");
  step("the crawler has asked");
  return { page, code };
}

// The operator approves what the crawler asked for.
async function approve(page) {
  await page.click('.nav a[href^="/callers"]');
  await page.waitForSelector("#requests");
  must((await page.textContent("#requests")).includes("Price crawler"), "the request is not shown");
  await look(page, "a request for access");
  await page.click('#requests a[href*="/callers/request"]');
  await page.fill("#approve input[name=principal]", 'client::"crawler"');
  await page.selectOption("#f-plan", "bulk");
  await look(page, "one request for access");
  await page.click("#approve .btn.primary");
  await page.waitForSelector(".notice.ok");
  must((await page.textContent("#requests")).includes("fetched"), "it is not shown as approved");
  step("the request is approved");
}

// The crawler fetches its key, once.
async function fetchKey({ page, code }) {
  const again = async () => {
    await page.fill("#code", code);
    await page.click('form[action$="/key"] button');
    await page.waitForSelector("main section[role]");
  };
  await again();
  const key = (await page.textContent("section.ok pre")).trim();
  must(key.startsWith("kgk_"), `the key is ${key}`);
  await look(page, "the key is fetched");
  await again();
  must((await page.locator("section.ok pre").count()) === 0, "the key is there twice");
  step("the key is fetched once");
  return key;
}

// It goes on under a plan.
async function goesOn(key) {
  await until(key, 200);
  for (let n = 0; n < 20; n += 1) {
    const answer = await ask(key, `/orders/${n}`);
    await answer.arrayBuffer();
    must(answer.status === 200, `under its plan it gets ${answer.status}`);
  }
  step("the crawler goes on under its plan");
}

await end(async () => {
  const page = await visitor();
  await signIn(page, CENTER, ADMIN);
  step("signed in");
  await bob(page);
  await back(page);
  const asked = await crawler();
  await approve(page);
  await goesOn(await fetchKey(asked));
}, 180);
