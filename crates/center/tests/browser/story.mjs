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

// A crawler gets 429, and follows `help` to the page for callers.
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
  return page;
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

// The operator makes a key in a plan.
async function plan(page) {
  await page.click('.nav a[href^="/callers"]');
  await page.fill("#new-key input[name=principal]", 'client::"crawler"');
  await page.selectOption("#f-plan", "bulk");
  await page.click("#new-key .btn.primary");
  await page.waitForSelector(".notice.ok pre");
  await look(page, "a key in a plan");
  return (await page.textContent(".notice.ok pre")).trim();
}

await end(async () => {
  const page = await visitor();
  await signIn(page, CENTER, ADMIN);
  step("signed in");
  await bob(page);
  await crawler();
  await goesOn(await plan(page));
}, 180);
