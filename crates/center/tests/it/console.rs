//! The console over HTTP: who comes in, what a form needs, and that the admin API's rules hold.

use bytes::Bytes;
use http::{Request, StatusCode};
use keepgate_center::CONSOLE_PATHS;
use serde_json::{Value, json};

use crate::fixture::{Answer, Dir, Running, STAFF, config};

/// A browser as far as a server sees it.
pub(crate) struct Visitor<'c> {
    center: &'c Running,
    cookies: Vec<(String, String)>,
    /// What the last page's forms have.
    csrf: String,
}

pub(crate) fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.to_vec()).unwrap()
}

pub(crate) fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// The value of a hidden field.
pub(crate) fn field(page: &str, name: &str) -> String {
    let found = page.split(&format!("name=\"{name}\" value=\"")).nth(1);
    found.and_then(|rest| rest.split('"').next()).unwrap_or_default().replace("&quot;", "\"")
}

impl<'c> Visitor<'c> {
    pub(crate) fn new(center: &'c Running) -> Visitor<'c> {
        Visitor { center, cookies: Vec::new(), csrf: String::new() }
    }

    /// What the browser keeps when the center goes.
    pub(crate) fn cookies(self) -> Vec<(String, String)> {
        self.cookies
    }

    /// The same browser, at another center.
    pub(crate) fn with(center: &'c Running, cookies: Vec<(String, String)>) -> Visitor<'c> {
        Visitor { center, cookies, csrf: String::new() }
    }

    pub(crate) async fn signed_in(center: &'c Running, token: &str) -> Visitor<'c> {
        let mut visitor = Visitor::new(center);
        let answer = visitor.sign_in(token).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", text(&answer));
        visitor.get("/overview").await;
        visitor
    }

    async fn sign_in(&mut self, token: &str) -> Answer {
        self.get("/login").await;
        self.post("/login", &[("token", token)]).await
    }

    fn origin(&self) -> String {
        format!("http://{}", self.center.addr)
    }

    async fn send(&mut self, mut request: http::request::Builder, body: String) -> Answer {
        if !self.cookies.is_empty() {
            let all: Vec<String> =
                self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header("cookie", all.join("; "));
        }
        let answer = self.center.send(request.body(Bytes::from(body)).unwrap()).await;
        for cookie in answer.headers.get_all("set-cookie") {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            self.cookies.retain(|(held, _)| held != name);
            if !value.is_empty() {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        let csrf = field(&text(&answer), "csrf");
        if !csrf.is_empty() {
            self.csrf = csrf;
        }
        answer
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(Request::get(path), String::new()).await
    }

    pub(crate) async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let (origin, csrf) = (self.origin(), self.csrf.clone());
        let mut all = vec![("csrf", csrf.as_str())];
        all.extend(fields);
        self.post_from(path, &[("origin", &origin)], &all).await
    }

    pub(crate) async fn post_from(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        fields: &[(&str, &str)],
    ) -> Answer {
        let mut request =
            Request::post(path).header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        self.send(request, body.join("&")).await
    }
}

pub(crate) async fn revision(center: &Running) -> u64 {
    center.ask("GET", "/v1/revision", None).await.good()["revision"].as_u64().unwrap()
}

/// What a browser holds the pages to.
fn is_guarded(answer: &Answer, path: &str) {
    let policy = header(answer, "content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; style-src 'self'; script-src 'self'"),
        "{path}"
    );
    assert!(policy.contains("frame-ancestors 'none'") && policy.contains("form-action 'self'"));
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(header(answer, "x-content-type-options"), "nosniff", "{path}");
    assert_eq!(header(answer, "referrer-policy"), "same-origin", "{path}");
    assert_eq!(header(answer, "cache-control"), "no-store", "{path}");
    let page = text(answer);
    for inline in ["<style", " style=", " onclick=", "<script>", "javascript:"] {
        assert!(!page.contains(inline), "{path}: {inline}");
    }
    for other in ["src=\"http", "href=\"http", "action=\"http", "url("] {
        assert!(!page.contains(other), "{path} names another host: {other}");
    }
}

/// Each path without a session, for another host, and with forms that nobody made here.
#[tokio::test]
async fn every_path_has_its_door() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    let mut inside = Visitor::signed_in(&center, &center.admin).await;
    let good = inside.csrf.clone();
    let before = revision(&center).await;
    let own = format!("http://{}", center.addr);
    for path in CONSOLE_PATHS {
        let (method, name) = (path.method, path.path);
        let request = Request::builder().method(method).uri(name).header("host", "evil.example");
        let answer = center.send(request.body(Bytes::new()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST, "{method} {name}");

        let mut outside = Visitor::new(&center);
        if method == "GET" {
            let answer = outside.get(name).await;
            match (path.signed_in, name) {
                (true, "/live") => assert_eq!(answer.status, StatusCode::UNAUTHORIZED),
                (true, _) => {
                    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{name}");
                    let to = decoded(header(&answer, "location"));
                    assert_eq!(to, format!("/login?next={name}"));
                }
                // Without a provider there is nothing to go to.
                (false, "/" | "/login/oidc" | "/login/oidc/back") => {
                    assert_eq!(header(&answer, "location"), "/login");
                }
                (false, _) => assert_eq!(answer.status, StatusCode::OK, "{name}"),
            }
            is_guarded(&answer, name);
            if name == "/live" {
                continue;
            }
            let answer = inside.get(name).await;
            let is_page = !name.starts_with("/login") && !matches!(name, "/" | "/access/ungrant");
            assert!(!is_page || answer.status == StatusCode::OK, "{name}: {}", answer.status);
            is_guarded(&answer, name);
            continue;
        }
        // Without a session nothing is done, whatever the form says.
        let answer = outside.post_from(name, &[("origin", &own)], &[("csrf", &good)]).await;
        let expected =
            if path.signed_in { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN };
        assert_eq!(answer.status, expected, "{name}");
        is_guarded(&answer, name);
        // With one: forms of others.
        let wrong = "0".repeat(good.len());
        for (headers, fields) in [
            (vec![("origin", own.as_str())], vec![]),
            (vec![("origin", own.as_str())], vec![("csrf", wrong.as_str())]),
            (vec![("origin", "http://evil.example")], vec![("csrf", good.as_str())]),
            (vec![("origin", "null")], vec![("csrf", good.as_str())]),
            (vec![], vec![("csrf", good.as_str())]),
            (
                vec![("origin", own.as_str()), ("sec-fetch-site", "cross-site")],
                vec![("csrf", good.as_str())],
            ),
        ] {
            let answer = inside.post_from(name, &headers, &fields).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{name} {headers:?} {fields:?}");
            is_guarded(&answer, name);
        }
    }
    assert_eq!(revision(&center).await, before);
    // The session is still there: none of these ended it.
    assert_eq!(inside.get("/overview").await.status, StatusCode::OK);
    center.stop().await;
}

/// Without escapes.
fn decoded(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        out += before;
        out.push(char::from(u8::from_str_radix(&after[..2], 16).unwrap()));
        rest = &after[2..];
    }
    out + rest
}

#[tokio::test]
async fn a_session_is_a_tokens_and_ends_with_it() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let viewer = center.token("viewer", "").await;
    let mut visitor = Visitor::new(&center);
    let answer = visitor.sign_in(&viewer).await;
    let cookies: Vec<&str> =
        answer.headers.get_all("set-cookie").iter().map(|one| one.to_str().unwrap()).collect();
    let session = cookies.iter().find(|one| one.starts_with("keepgate-session=")).unwrap();
    assert!(session.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{session}");
    assert_eq!(visitor.get("/overview").await.status, StatusCode::OK);
    // A copy of the cookie works as long as the session, and no longer.
    let mut copy = Visitor::new(&center);
    copy.cookies.clone_from(&visitor.cookies);
    assert_eq!(copy.get("/overview").await.status, StatusCode::OK);
    assert_eq!(visitor.post("/logout", &[]).await.status, StatusCode::SEE_OTHER);
    assert_eq!(copy.get("/overview").await.status, StatusCode::SEE_OTHER);

    let mut visitor = Visitor::signed_in(&center, &viewer).await;
    let id = viewer.split('_').nth(1).unwrap();
    center.ask("DELETE", &format!("/v1/tokens/{id}"), None).await.good();
    assert_eq!(visitor.get("/overview").await.status, StatusCode::SEE_OTHER);

    // Those who read nothing, and what is no token.
    let mut visitor = Visitor::new(&center);
    let gate = center.token("gate", "orders").await;
    let answer = visitor.sign_in(&gate).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(text(&answer).contains("role gate"));
    for token in [viewer.as_str(), "kgt_0_0", "", &"x".repeat(300)] {
        let answer = visitor.sign_in(token).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{token}");
        // Mistyped or revoked: the page does not say which.
        assert!(text(&answer).contains("is mistyped, was revoked, or has expired"));
    }
    for _ in 0..20 {
        visitor.sign_in("kgt_0_0").await;
    }
    let answer = visitor.sign_in(&center.admin).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(header(&answer, "retry-after").parse::<u64>().unwrap() > 0);
    center.stop().await;
}

/// A session outlives the center that began it: another one of the same store knows it.
#[tokio::test]
async fn a_session_is_in_the_store() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let cookies = Visitor::signed_in(&center, &center.admin).await.cookies;
    center.stop().await;
    let center = Running::start(&dir).await;
    let mut visitor = Visitor::new(&center);
    visitor.cookies = cookies;
    assert_eq!(visitor.get("/overview").await.status, StatusCode::OK);
    center.stop().await;
}

#[tokio::test]
async fn beyond_loopback_cookies_are_for_tls_alone() {
    let dir = Dir::new();
    let mut config = config(&dir);
    config.public_url = Some("https://pdp.example.com".to_owned());
    let center = Running::with(config).await;
    let get = Request::get("/login").header("host", "pdp.example.com");
    let page = center.send(get.body(Bytes::new()).unwrap()).await;
    let cookie = header(&page, "set-cookie").to_owned();
    assert!(cookie.starts_with("__Host-keepgate-form="), "{cookie}");
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict; Secure"), "{cookie}");
    let csrf = field(&text(&page), "csrf");
    let post = |origin: &str| {
        Request::post("/login")
            .header("host", "pdp.example.com")
            .header("origin", origin)
            .header("cookie", cookie.split(';').next().unwrap())
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Bytes::from(format!("csrf={csrf}&token={}", center.admin)))
            .unwrap()
    };
    // Plain HTTP is another origin.
    let answer = center.send(post("http://pdp.example.com")).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let answer = center.send(post("https://pdp.example.com")).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    let set = answer.headers.get("set-cookie").unwrap().to_str().unwrap();
    assert!(set.starts_with("__Host-keepgate=") && set.ends_with("; Secure"), "{set}");
    center.stop().await;
}

const NEW: &str = "@id(\"staff\")\npermit (principal in role::\"staff\", action, resource);\n\n\
                   @id(\"guests\")\npermit (principal in role::\"guests\", action == Action::\"GET\", resource);\n";

#[tokio::test]
async fn two_editors_at_once_and_one_of_another_service() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    center.service("stock", &[]).await;
    let editor = center.token("editor", "orders").await;
    let mut one = Visitor::signed_in(&center, &editor).await;
    let mut two = Visitor::signed_in(&center, &center.admin).await;
    let page = text(&one.get("/policies?service=orders").await);
    let tag = field(&page, "tag");
    let also = field(&text(&two.get("/policies?service=orders").await), "tag");
    assert_eq!(tag, also);

    // A dry run names what is wrong at its line, and what would change; nothing is saved.
    let before = revision(&center).await;
    let bad = NEW.replace("role::\"guests\"", "role::");
    let fields = [("service", "orders"), ("tag", tag.as_str()), ("over", "1"), ("text", &bad)];
    let with = |deed: &'static str| [&fields[..], &[("do", deed)]].concat();
    let page = one.post("/policies", &with("check")).await;
    assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
    let page = text(&page);
    assert!(page.contains("warnings: 0") && page.contains("line "), "{page}");
    assert!(page.contains("<li class=\"e\">") && page.contains("principal in role::,"), "{page}");
    let fields = [("service", "orders"), ("tag", tag.as_str()), ("over", "1"), ("text", NEW)];
    let with = |deed: &'static str| [&fields[..], &[("do", deed)]].concat();
    let page = text(&one.post("/policies", &with("check")).await);
    assert!(page.contains("What would change") && page.contains("guests"), "{page}");
    assert_eq!(revision(&center).await, before);

    // The first one saves; the second one is told, and keeps what was written.
    let answer = one.post("/policies", &with("save")).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", text(&answer));
    let landed = revision(&center).await;
    assert_eq!(landed, before + 1, "one revision");
    let theirs = STAFF.replace("staff", "others");
    let late = [("service", "orders"), ("tag", also.as_str()), ("over", "1"), ("text", &theirs)];
    let late = [&late[..], &[("do", "save")]].concat();
    let answer = two.post("/policies", &late).await;
    assert_eq!(answer.status, StatusCode::PRECONDITION_FAILED);
    let page = text(&answer);
    assert!(page.contains("Somebody else has changed these policies"), "{page}");
    assert!(
        page.contains("role::&quot;others&quot;") || page.contains("role::\"others\""),
        "{page}"
    );
    assert_ne!(field(&page, "tag"), also);
    assert_eq!(revision(&center).await, landed);
    // Both texts are on the page, and theirs is still what is stored.
    let stored = page.split("id=\"theirs\"").nth(1).unwrap();
    assert!(stored.contains("What is stored now") && stored.contains("guests"), "{stored}");
    let cedar = center.ask("GET", "/v1/services/orders/cedar", None).await.good();
    let cedar = cedar["text"].as_str().unwrap();
    assert!(cedar.contains("guests") && !cedar.contains("others"), "{cedar}");

    // In the log it is the editor's token, as by the API.
    let path = "/v1/audit?newest=true&limit=5&service=orders";
    let log = center.ask("GET", path, None).await.good();
    let entry = &log["entries"][0];
    assert_eq!(entry["action"], "policies.put");
    assert_eq!(entry["actor"], editor.split('_').nth(1).unwrap());
    let policies = center.ask("GET", "/v1/services/orders/policies", None).await.good();
    let ids: Vec<&Value> =
        policies["items"].as_array().unwrap().iter().map(|one| &one["id"]).collect();
    assert_eq!(ids, [&json!("guests"), &json!("staff")]);
    assert_eq!(policies["items"][0]["brought"], "command");

    // The editor of one service writes no other one, here as there.
    let page = text(&one.get("/policies?service=stock").await);
    assert!(page.contains("may read this, and not change it"), "{page}");
    let tag = field(&page, "tag");
    let fields = [("service", "stock"), ("tag", tag.as_str()), ("text", NEW), ("do", "save")];
    let answer = one.post("/policies", &fields).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(text(&answer).contains("may not write service `stock`"));
    let body = json!({ "text": NEW });
    let said = center.ask_as(Some(&editor), "PUT", "/v1/services/stock/cedar", Some(body)).await;
    assert!(said.problem(403).contains("may not write service `stock`"));
    center.stop().await;
}

/// What was written is there again after a new sign-in, and nothing was done meanwhile.
#[tokio::test]
async fn an_expired_session_keeps_what_was_written() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    let mut visitor = Visitor::signed_in(&center, &center.admin).await;
    let tag = field(&text(&visitor.get("/policies?service=orders").await), "tag");
    let mut elsewhere = Visitor::new(&center);
    elsewhere.cookies.clone_from(&visitor.cookies);
    elsewhere.csrf.clone_from(&visitor.csrf);
    elsewhere.post("/logout", &[]).await;
    let before = revision(&center).await;
    let mine = "// <b>\"mine\"</b>\npermit (principal, action, resource);\n";
    let fields = [
        ("service", "orders"),
        ("tag", tag.as_str()),
        ("over", "1"),
        ("text", mine),
        ("do", "save"),
    ];
    let page = visitor.post("/policies", &fields).await;
    assert_eq!(page.status, StatusCode::UNAUTHORIZED);
    let page = text(&page);
    assert!(page.contains("Your session has ended") && page.contains("&lt;b&gt;"), "{page}");
    let kept = [
        ("token", center.admin.as_str()),
        ("next", "/policies"),
        ("kept.service", "orders"),
        ("kept.tag", tag.as_str()),
        ("kept.over", "1"),
        ("kept.text", mine),
    ];
    let page = visitor.post("/login", &kept).await;
    assert_eq!(page.status, StatusCode::OK);
    let page = text(&page);
    assert!(page.contains("action=\"/policies\" data-go") && page.contains("&lt;b&gt;"), "{page}");
    let fields = [("service", "orders"), ("tag", tag.as_str()), ("text", mine), ("do", "show")];
    let page = visitor.post("/policies", &fields).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(text(&page).contains("&lt;b&gt;"));
    assert_eq!(revision(&center).await, before);
    center.stop().await;
}

#[tokio::test]
async fn roles_grants_and_keys_are_given_and_taken() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    let settings = json!({ "identify": { "api_key": {} } });
    center.ask("PUT", "/v1/services/orders", Some(settings)).await.good();
    let mut visitor = Visitor::signed_in(&center, &center.admin).await;
    assert!(!center.allowed("bob").await);
    // A preview changes nothing; a role that nobody knows is refused with the nearest.
    let page = text(&visitor.get("/access/give?service=orders&member=bob&role=staff").await);
    assert!(page.contains("Give role::&quot;staff&quot; to user::&quot;bob&quot;"), "{page}");
    assert!(!center.allowed("bob").await);
    let fields = |role: &'static str| {
        [("service", "orders"), ("member", "bob"), ("role", role), ("do", "make")]
    };
    let answer = visitor.post("/access/give", &fields("stuff")).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(text(&answer).contains("did you mean"));
    let answer = visitor.post("/access/give", &fields("staff")).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", text(&answer));
    assert!(center.allowed("bob").await);
    let page = text(&visitor.get("/access?service=orders&member=bob").await);
    assert!(page.contains("role::&quot;staff&quot;"), "{page}");
    visitor.post("/access/take", &fields("staff")).await;
    assert!(!center.allowed("bob").await);

    let grant = [
        ("service", "orders"),
        ("principal", "guests"),
        ("actions", "GET, HEAD"),
        ("resource", "route::\"/orders\""),
        ("do", "make"),
    ];
    let answer = visitor.post("/access/grant", &grant).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", text(&answer));
    let list = center.ask("GET", "/v1/services/orders/grants", None).await.good();
    let id = list["items"][0]["id"].as_str().unwrap();
    assert_eq!(list["items"][0]["body"]["principal"]["id"], "guests");
    let fields = [("service", "orders"), ("grant", id), ("do", "make")];
    let answer = visitor.post("/access/ungrant", &fields).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", text(&answer));

    // A key is shown once. The same form sent twice makes one key.
    let page = text(&visitor.get("/callers?service=orders").await);
    let once = field(&page, "once");
    let key = [("service", "orders"), ("principal", "client::\"c\""), ("once", once.as_str())];
    let answer = visitor.post("/callers/key", &key).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", text(&answer));
    assert!(text(&answer).contains("kgk_"));
    let again = visitor.post("/callers/key", &key).await;
    assert!(again.status.is_client_error(), "{}", text(&again));
    let keys = center.ask("GET", "/v1/services/orders/keys", None).await.good();
    let [key] = keys["keys"].as_array().unwrap().as_slice() else { panic!("{keys}") };
    let prefix = key["prefix"].as_str().unwrap();
    let fields = [("service", "orders"), ("key", prefix)];
    let page = visitor.post("/callers/revoke", &fields).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(text(&page).contains(&format!("Revoke {prefix}")));
    let fields = [&fields[..], &[("do", "make")]].concat();
    assert_eq!(visitor.post("/callers/revoke", &fields).await.status, StatusCode::SEE_OTHER);
    let keys = center.ask("GET", "/v1/services/orders/keys", None).await.good();
    assert_eq!(keys["keys"], json!([]));
    center.stop().await;
}

/// A page with all that it loads stays below 100 KB before compression, in each language.
#[tokio::test]
async fn the_first_load_is_small() {
    const MOST: usize = 100_000;
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("staff", STAFF)]).await;
    let mut visitor = Visitor::signed_in(&center, &center.admin).await;
    let mut assets = 0;
    let page = text(&visitor.get("/overview").await);
    for part in page.split("\"/static/").skip(1) {
        let path = format!("/static/{}", part.split('"').next().unwrap());
        let file = visitor.get(&path).await;
        assert_eq!(header(&file, "cache-control"), "public, max-age=31536000, immutable");
        assets += file.body.len();
        let request = Request::get(&path).header("accept-encoding", "gzip, zstd");
        let small = center.send(request.body(Bytes::new()).unwrap()).await;
        let is_small = header(&small, "content-encoding") == "zstd";
        assert!(is_small || path.ends_with(".svg"), "{path}");
        assert!(small.body.len() < file.body.len() / 2 || path.ends_with(".svg"), "{path}");
    }
    assert!(assets > 10_000);
    for language in ["en", "zh-Hans"] {
        visitor.cookies.push(("keepgate-language".to_owned(), language.to_owned()));
        for page in
            ["/overview", "/why", "/access", "/policies", "/callers", "/history", "/history/back"]
        {
            let page = visitor.get(page).await;
            assert!(text(&page).contains(&format!("<html lang=\"{language}\"")));
            assert!(page.body.len() + assets < MOST, "{} + {assets}", page.body.len());
        }
        visitor.cookies.retain(|(name, _)| name != "keepgate-language");
    }
    assert_eq!(visitor.get("/static/console.css").await.status, StatusCode::NOT_FOUND);
    center.stop().await;
}

/// All policies as one text: what is as it was stays as it was, its file and source included.
#[tokio::test]
async fn policies_are_read_and_written_as_one_text() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let files = json!({ "files": {
        "service.toml": "name = \"orders\"",
        "staff.cedar": STAFF,
        "more.cedar": "@id(\"second\")\nforbid (principal, action, resource) when { false };",
    } });
    center.ask("POST", "/v1/services/orders/apply", Some(files.clone())).await.good();
    let path = "/v1/services/orders/cedar";
    let read = center.ask("GET", path, None).await;
    let tag = header(&read, "etag").to_owned();
    let stored = read.good();
    assert_eq!(stored["policies"], 2);
    let whole = stored["text"].as_str().unwrap();
    // Nothing changes where nothing was changed.
    let same = center.ask("PUT", path, Some(json!({ "text": whole }))).await.good();
    assert_eq!(same["changes"], json!([]));
    let changed = whole.replace("false", "true");
    let put = |tag: &str| {
        let request = Request::put(path)
            .header("authorization", format!("Bearer {}", center.admin))
            .header("content-type", "application/json")
            .header("if-match", tag);
        request.body(Bytes::from(json!({ "text": changed }).to_string())).unwrap()
    };
    let landed = center.send(put(&tag)).await.good();
    assert_eq!(landed["changes"][0]["id"], "second");
    center.send(put(&tag)).await.problem(412);
    center.send(put("second")).await.problem(400);
    // The files find it, and leave it.
    let again = center.ask("POST", "/v1/services/orders/apply", Some(files)).await.good();
    assert_eq!(again["conflicts"][0]["id"], "second", "{again}");
    // At the bound and beyond it.
    let text = |bytes: usize| {
        let head = "permit (principal, action, resource);\n// ";
        json!({ "text": format!("{head}{}", "x".repeat(bytes - head.len())) })
    };
    let dry = format!("{path}?dry_run=true");
    center.ask("PUT", &dry, Some(text(512 << 10))).await.good();
    let beyond = center.ask("PUT", &dry, Some(text((512 << 10) + 1))).await.problem(422);
    assert!(beyond.contains("at most 524288 bytes"), "{beyond}");
    center.ask("GET", "/v1/services/none/cedar", None).await.problem(404);
    center.stop().await;
}

/// Cedar's errors and warnings of one text together, each at its character: also behind tabs and letters
/// of several bytes.
#[tokio::test]
async fn errors_and_warnings_are_told_at_their_characters() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[]).await;
    let warned = "permit (principal, action, resource)\n\t\
                  when { \"\u{6743}\u{e9}\" == \"say_\u{4bb}ello\" };";
    let wrong =
        format!("{warned}\n\n\t@n(\"\u{6743}\u{9650}\")\tpermit (principal, action, ressource);\n");
    let put = json!({ "text": wrong });
    let refused = center.ask("PUT", "/v1/services/orders/cedar?dry_run=true", Some(put)).await;
    let told = refused.json();
    refused.problem(422);
    let at = |one: &Value| -> String {
        let number = |name: &str| usize::try_from(one[name].as_u64().unwrap()).unwrap();
        let line = wrong.lines().nth(number("line") - 1).unwrap();
        line.chars().skip(number("column") - 1).take(number("length")).collect()
    };
    let places =
        |name: &str| -> Vec<String> { told[name].as_array().unwrap().iter().map(at).collect() };
    assert_eq!(places("problems"), ["ressource"], "{told}");
    let strings = ["\"\u{6743}\u{e9}\"", "\"say_\u{4bb}ello\""];
    assert_eq!(places("warnings"), strings, "{told}");

    let mut visitor = Visitor::signed_in(&center, &center.admin).await;
    let tag = field(&text(&visitor.get("/policies?service=orders").await), "tag");
    let fields = [("service", "orders"), ("tag", tag.as_str()), ("text", &wrong), ("do", "check")];
    let page = visitor.post("/policies", &fields).await;
    assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
    let page = text(&page);
    assert!(page.contains("Errors: 1, warnings: 2"), "{page}");
    assert!(page.contains("line 4, column 38") && page.contains("^^^^^^^^^</span>"), "{page}");
    assert!(page.contains("<li class=\"e\">") && page.contains("<li class=\"w\">"), "{page}");
    center.stop().await;
}
