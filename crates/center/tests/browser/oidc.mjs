// Sign-in to the console at an identity provider, in a real browser. The provider is `oidc-provider`, a
// certified implementation of OpenID Connect; only its page for a password is made here. Run by
// crates/center/tests/it/console_browser.rs, which says by the environment:
//   BASE, ADMIN       the center's URL, and an admin's token
//   ISSUER, SECRET    where the provider is to be, and the secret of the client `keepgate`
//   DATABASE          the center's SQLite file
//   MODULES, CHROMIUM as in common.mjs
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

import { end, hosts, look, must, step, visitor } from "./common.mjs";

const { BASE, ADMIN, ISSUER, SECRET, DATABASE, MODULES } = process.env;
hosts.push(BASE, ISSUER);
const main = join(MODULES, "node_modules/oidc-provider/lib/index.js");
const { Provider } = await import(pathToFileURL(main).href);

const GROUPS = { ada: ["platform"], eve: ["guests"] };

function provider() {
  const made = new Provider(ISSUER, {
    clients: [{
      client_id: "keepgate",
      client_secret: SECRET,
      redirect_uris: [`${BASE}/login/oidc/back`],
    }],
    scopes: ["openid", "groups"],
    claims: { openid: ["sub"], groups: ["groups"] },
    conformIdTokenClaims: false,
    cookies: { keys: ["for this test"] },
    ttl: { AccessToken: 600, Grant: 600, IdToken: 600, Interaction: 600, Session: 600 },
    features: { devInteractions: { enabled: false } },
    pkce: { required: () => true },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, groups: GROUPS[id] ?? [] }) }),
    interactions: { url: (_, one) => `/interaction/${one.uid}` },
  });
  // The page for a password, and consent that is given at once.
  made.use(async (ctx, next) => {
    if (!ctx.path.startsWith("/interaction/")) return next();
    const asked = await made.interactionDetails(ctx.req, ctx.res);
    if (asked.prompt.name === "consent") {
      const grant = new made.Grant({ accountId: asked.session.accountId, clientId: asked.params.client_id });
      grant.addOIDCScope(asked.params.scope);
      return done(made, ctx, { consent: { grantId: await grant.save() } });
    }
    const name = new URL(ctx.href).searchParams.get("name");
    if (name) return done(made, ctx, { login: { accountId: name } });
    ctx.type = "html";
    ctx.body = `<form action="${ctx.path}"><input name="name"><button>In</button></form>`;
  });
  return made;
}

async function done(made, ctx, result) {
  ctx.respond = false;
  await made.interactionFinished(ctx.req, ctx.res, result, { mergeWithLastSubmission: true });
}

const at = new URL(ISSUER);
let server = null;
async function open() {
  await new Promise((listens) => (server = provider().listen(Number(at.port), at.hostname, listens)));
}
async function close() {
  server.closeAllConnections();
  await new Promise((closed) => server.close(closed));
}

const link = "main a.btn.primary";
const isPage = (path) => (url) => url.origin === BASE && url.pathname + url.search === path;

async function person(page, name, path) {
  await page.goto(`${BASE}${path}`);
  await look(page, "sign in");
  await page.click(link);
  await page.waitForURL((url) => url.origin === ISSUER);
  await page.fill("input[name=name]", name);
  await page.click("button");
}

function endSessions() {
  const program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=30); c.execute('UPDATE sessions SET expires_unix_s = 1'); c.commit()";
  execFileSync("python3", ["-c", program, DATABASE]);
}

await end(async () => {
  await open();
  const page = await visitor();
  await person(page, "ada", "/policies?service=orders&tab=limits");
  await page.waitForURL(isPage("/policies?service=orders&tab=limits"));
  must((await page.textContent("[popovertarget=me]")).includes("oidc:ada"), "her name is not there");
  step("she is in, on the page that she wanted");

  // What she had written when her session ended is there again.
  await page.goto(`${BASE}/access/give?service=orders&member=bob&role=staff`);
  endSessions();
  await Promise.all([page.waitForNavigation(), page.click("main button.primary")]);
  must((await page.textContent("main")).includes("Your session has ended"), "it should have ended");
  await look(page, "ended");
  await page.click(link);
  await page.waitForURL((url) => url.origin === BASE && url.pathname === "/access/give");
  await page.waitForSelector("main button.primary");
  must((await page.content()).includes("bob"), "what she wrote is gone");
  await page.click("main button.primary");
  await page.waitForURL((url) => url.pathname === "/access");
  const members = await fetch(`${BASE}/v1/members`, { headers: { authorization: `Bearer ${ADMIN}` } });
  must((await members.text()).includes("bob"), "bob has not the role");
  step("her session ended, and she goes on with what she wrote");

  const stranger = await visitor({ locale: "zh-CN" });
  await person(stranger, "eve", "/overview");
  await stranger.waitForURL((url) => url.origin === BASE && url.pathname === "/login/oidc/back");
  must((await stranger.textContent("main")).includes("eve"), "she is not told who she is");
  await look(stranger, "no role");
  await stranger.goto(`${BASE}/overview`);
  must(new URL(stranger.url()).pathname === "/login", "a stranger is in");
  step("who has no role is told so");

  await close();
  const late = await visitor({ colorScheme: "dark" });
  await late.goto(`${BASE}/login`);
  await late.fill("#token", ADMIN);
  await late.press("#token", "Enter");
  await late.waitForURL((url) => url.pathname === "/overview");
  step("without the provider, tokens open the console");
}, 100);
