// The page for callers in a real browser. Run by crates/gate/tests/it/help_page_browser.rs, which says by
// the environment where things are:
//   PAGE       the page's URL, at a gate whose center answers a code and then a key
//   KEY        an API key
//   MODULES    where playwright-core and axe-core are (scripts/setup)
//   CHROMIUM   the browser
//   PICTURES   a directory for pictures of the page; none: no pictures
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const { PAGE, KEY, MODULES, CHROMIUM, PICTURES } = process.env;
const require = createRequire(join(MODULES, "package.json"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const browser = await chromium.launch({
  executablePath: CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
});
const faults = [];
const host = new URL(PAGE).origin;

async function visitor(options) {
  const context = await browser.newContext({ viewport: { width: 1360, height: 900 }, ...options });
  context.setDefaultTimeout(30_000);
  const page = await context.newPage();
  page.on("console", (said) => {
    if (/Content Security Policy|Refused to/i.test(said.text())) faults.push(said.text());
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(host)) faults.push(`a request to ${request.url()}`);
  });
  return page;
}

function must(holds, what) {
  if (!holds) throw new Error(what);
}

async function check(page, what) {
  const found = await page.evaluate(async (source) => {
    // The page's own policy allows no script; that of the test's world is another one.
    (0, eval)(source);
    return (await globalThis.axe.run(document)).violations.map(
      (one) => `${one.id}: ${one.nodes.map((node) => node.html).join(" ")}`,
    );
  }, axe);
  for (const one of found) faults.push(`${what}: ${one}`);
}

// Without script, as it is served: the style is there, and the forms work.
async function story(locale, texts) {
  const page = await visitor({ locale, javaScriptEnabled: false });
  await page.goto(PAGE);
  must((await page.locator("html").getAttribute("lang")) === texts.lang, "the browser's language");
  await page.fill("#who", "Nightly import");
  await page.fill("#what-for", "Copies new orders.");
  await page.fill("#per-day", "100000");
  await page.click("form[action$='/ask'] button");
  const code = (await page.locator("section.ok pre").textContent()).trim();
  must(code === "c0de", `a code: ${code}`);
  must(!page.url().includes(code), "the code is not in the address");
  await page.fill("#code", code);
  await page.click("form[action$='/key'] button");
  must((await page.locator("section.ok pre").textContent()).includes("kgk_new"), "a key");
  must((await page.locator("html").getAttribute("lang")) === texts.lang, "the language stays");
  await page.context().close();
}

try {
  await story("en-US", { lang: "en" });
  await story("zh-CN", { lang: "zh-Hans" });
  for (const locale of ["en-US", "zh-CN"]) {
    for (const colorScheme of ["light", "dark"]) {
      const page = await visitor({ locale, colorScheme, bypassCSP: true });
      await page.goto(PAGE);
      const background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      must(background !== "rgba(0, 0, 0, 0)", "the style is loaded");
      await check(page, `${locale} ${colorScheme}`);
      await page.fill("#shown", KEY);
      await page.click("form[action$='/left'] button");
      must((await page.locator("dl").count()) === 1, "what the key has left");
      await page.locator("summary").first().click();
      await check(page, `${locale} ${colorScheme}, a key`);
      if (PICTURES) {
        const to = join(PICTURES, `callers-page-${locale}-${colorScheme}.png`);
        await page.screenshot({ path: to, fullPage: true });
      }
      await page.setViewportSize({ width: 360, height: 780 });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      must(wide <= 360, `a phone scrolls sideways: ${wide}`);
      await page.context().close();
    }
  }
  // With what is wrong marked.
  const page = await visitor({ locale: "en-US", bypassCSP: true });
  await page.goto(PAGE);
  await page.fill("#who", "Nightly import");
  await page.fill("#what-for", "Copies");
  await page.fill("#per-day", "many");
  await page.click("form[action$='/ask'] button");
  must((await page.locator("#per-day[aria-invalid]").count()) === 1, "what is wrong is marked");
  must((await page.inputValue("#who")) === "Nightly import", "what was written stays");
  await check(page, "a mistake");
  must(faults.length === 0, faults.join("\n"));
  console.log("good");
} catch (error) {
  console.log(String(error.stack ?? error), faults.join("\n"));
  process.exitCode = 1;
} finally {
  await browser.close();
}
