//! Sign-in at an identity provider, over HTTP. The provider here lies in every way that one can; a real one
//! is in `console_browser`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, StatusCode};
use keepgate_center::{Center, CenterConfig, OidcConfig};
use keepgate_identify::access::{Asker, KeyAccess};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::console::{Visitor, header, text};
use crate::fixture::{Answer, Dir, Running, STAFF, chain, config};

const CLIENT: &str = "keepgate console";
const SECRET: &str = "se:cret/%+";

/// What the provider does with the next sign-in.
#[derive(Clone)]
struct Plan {
    /// Members of the ID token, over the good ones; null: without it.
    claims: Value,
    header: Value,
    /// The token endpoint's answer in place of a token.
    refusal: Option<(u16, Value)>,
    /// Signs with a key that nobody knows.
    forges: bool,
    says_issuer: bool,
    /// Other members of its document.
    document: Value,
    /// 503 to everything.
    is_away: bool,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            claims: json!({}),
            header: json!({ "alg": "EdDSA", "kid": "k1" }),
            refusal: None,
            forges: false,
            says_issuer: false,
            document: json!({}),
            is_away: false,
        }
    }
}

struct Shared {
    plan: Plan,
    /// Codes that wait: challenge, nonce, redirect.
    codes: HashMap<String, [String; 3]>,
    kids: Vec<&'static str>,
    asked: u32,
}

struct Provider {
    url: String,
    shared: Arc<Mutex<Shared>>,
}

fn over(mut good: Value, changes: &Value) -> Value {
    let all = good.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => all.remove(name),
            value => all.insert(name.clone(), value.clone()),
        };
    }
    good
}

fn pair() -> Ed25519KeyPair {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap()
}

fn fields(query: &str) -> HashMap<String, String> {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

impl Provider {
    async fn start() -> Provider {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Mutex::new(Shared {
            plan: Plan::default(),
            codes: HashMap::new(),
            kids: vec!["k1"],
            asked: 0,
        }));
        let (key, forger) = (Arc::new(pair()), Arc::new(pair()));
        let answer = {
            let (shared, url) = (Arc::clone(&shared), url.clone());
            move |uri: http::Uri, headers: HeaderMap, body: String| {
                let mut shared = shared.lock().unwrap();
                shared.asked += 1;
                let (status, body) = if shared.plan.is_away {
                    (503, json!({ "error": "server_error" }))
                } else {
                    match uri.path() {
                        "/.well-known/openid-configuration" => (200, document(&url, &shared.plan)),
                        "/keys" => (200, keys(&shared.kids, &key)),
                        "/token" => token(&url, &mut shared, &headers, &body, &key, &forger),
                        other => panic!("{other} was asked"),
                    }
                };
                let status = StatusCode::from_u16(status).unwrap();
                std::future::ready((status, body.to_string()))
            }
        };
        let app = axum::Router::new().fallback(answer);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Provider { url, shared }
    }

    fn plan(&self, plan: Plan) {
        self.shared.lock().unwrap().plan = plan;
    }

    fn settings(&self) -> OidcConfig {
        OidcConfig {
            issuer: self.url.clone(),
            client_id: CLIENT.to_owned(),
            client_secret: Some(SECRET.to_owned()),
            scopes: vec!["groups".to_owned()],
            roles: [
                "admin=groups=platform",
                "editor@orders=groups=orders-team",
                "viewer=realm.roles=staff",
            ]
            .map(|rule| rule.parse().unwrap())
            .to_vec(),
            user_claim: "sub".to_owned(),
            session: Duration::from_secs(3_600),
        }
    }

    fn center(&self, dir: &Dir, oidc: OidcConfig) -> CenterConfig {
        let mut config = config(dir);
        config.oidc = Some(oidc);
        config.outbound = KeyAccess {
            allow: vec![self.url.parse().unwrap()],
            asker: Asker::Center,
            ..KeyAccess::default()
        };
        config
    }

    /// Signs somebody in here: the address that the browser comes back to, without the center's.
    fn signs_in(&self, to: &str) -> String {
        let (at, query) = to.split_once('?').unwrap();
        assert_eq!(at, format!("{}/authorize", self.url));
        let asked = fields(query);
        assert_eq!(asked["response_type"], "code");
        assert_eq!(asked["client_id"], CLIENT);
        assert_eq!(asked["code_challenge_method"], "S256");
        assert_eq!(asked["scope"], "openid groups");
        let mut shared = self.shared.lock().unwrap();
        let code = format!("code-{}", shared.codes.len());
        let waits = ["code_challenge", "nonce", "redirect_uri"].map(|name| asked[name].clone());
        assert!(waits[2].ends_with("/login/oidc/back"), "{waits:?}");
        shared.codes.insert(code.clone(), waits);
        format!("/login/oidc/back?code={code}&state={}", asked["state"])
    }
}

fn document(url: &str, plan: &Plan) -> Value {
    let good = json!({
        "issuer": url,
        "authorization_endpoint": format!("{url}/authorize"),
        "token_endpoint": format!("{url}/token"),
        "jwks_uri": format!("{url}/keys"),
        "authorization_response_iss_parameter_supported": plan.says_issuer,
    });
    over(good, &plan.document)
}

fn keys(kids: &[&str], key: &Ed25519KeyPair) -> Value {
    let x = URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
    let one = |kid| json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x });
    json!({ "keys": kids.iter().map(one).collect::<Vec<_>>() })
}

fn token(
    url: &str,
    shared: &mut Shared,
    headers: &HeaderMap,
    body: &str,
    key: &Ed25519KeyPair,
    forger: &Ed25519KeyPair,
) -> (u16, Value) {
    // Both encoded as in a form, then joined (RFC 6749, section 2.3.1).
    let basic = format!("Basic {}", STANDARD.encode("keepgate+console:se%3Acret%2F%25%2B"));
    assert_eq!(headers["authorization"], basic);
    let form = fields(body);
    assert_eq!(form["grant_type"], "authorization_code");
    assert!(!form.contains_key("client_secret"));
    let Some([challenge, nonce, redirect]) = shared.codes.remove(&form["code"]) else {
        return (400, json!({ "error": "invalid_grant" }));
    };
    assert_eq!(form["redirect_uri"], redirect);
    let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(&form["code_verifier"]));
    if hash != challenge {
        return (400, json!({ "error": "invalid_grant" }));
    }
    if let Some(refusal) = &shared.plan.refusal {
        return refusal.clone();
    }
    let now = keepgate_observe::unix_s();
    let good = json!({
        "iss": url, "aud": CLIENT, "sub": "248", "nonce": nonce, "iat": now, "exp": now + 300,
        "groups": ["platform"],
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed =
        format!("{}.{}", part(&shared.plan.header), part(&over(good, &shared.plan.claims)));
    let key = if shared.plan.forges { forger } else { key };
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
    (200, json!({ "id_token": format!("{signed}.{signature}"), "access_token": "x" }))
}

/// Begins; where the provider is.
async fn begin(visitor: &mut Visitor<'_>, next: &str) -> String {
    let answer = visitor.get(&format!("/login/oidc?next={next}")).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", text(&answer));
    header(&answer, "location").to_owned()
}

/// A whole sign-in, as the provider has it now.
async fn sign_in(provider: &Provider, visitor: &mut Visitor<'_>) -> Answer {
    let to = begin(visitor, "").await;
    visitor.get(&provider.signs_in(&to)).await
}

async fn is_in(visitor: &mut Visitor<'_>) -> bool {
    visitor.get("/overview").await.status == StatusCode::OK
}

fn says(answer: &Answer, what: &str) {
    let page = text(answer);
    assert!(page.contains(what), "{what}: {page}");
}

#[tokio::test]
async fn a_person_signs_in_with_the_role_of_their_claims() {
    let provider = Provider::start().await;
    let dir = Dir::new();
    let center = Running::with(provider.center(&dir, provider.settings())).await;
    center.service("orders", &[("staff", STAFF)]).await;
    center.service("stock", &[("staff", STAFF)]).await;
    let mut visitor = Visitor::new(&center);
    let host = provider.url.strip_prefix("http://").unwrap();
    says(&visitor.get("/login").await, &format!("Sign in with {host}"));
    let to = begin(&mut visitor, "/policies%3Fservice%3Dorders").await;
    let back = provider.signs_in(&to);
    let answer = visitor.get(&back).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", text(&answer));
    let cookies: Vec<&str> =
        answer.headers.get_all("set-cookie").iter().map(|one| one.to_str().unwrap()).collect();
    let session = cookies.iter().find(|one| one.starts_with("keepgate-session=")).unwrap();
    assert!(session.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{session}");
    assert!(cookies.iter().any(|one| one.starts_with("keepgate-sign-in=;")), "{cookies:?}");
    // A page of this site goes on: a redirect would bring no strict cookie along.
    says(&answer, "method=\"get\" action=\"/policies\"");
    says(&answer, "name=\"service\" value=\"orders\"");
    says(&visitor.get("/overview").await, "oidc:248 ");

    // What they do is theirs in the audit log.
    let member = [("service", "orders"), ("member", "bob"), ("role", "staff"), ("do", "make")];
    let answer = visitor.post("/access/give", &member).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", text(&answer));
    let audit = center.ask("GET", "/v1/audit?newest=true&limit=1", None).await.good();
    assert_eq!(audit["entries"][0]["actor"], "oidc:248", "{audit}");

    // Once: neither the code nor the cookie is good again.
    let answer = Visitor::new(&center).get(&back).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    says(&answer, "This sign-in is not yours");

    // The first rule that fits counts, and an editor of one service writes no other.
    let claims =
        json!({ "sub": "e", "groups": ["none", "orders-team"], "realm": { "roles": ["staff"] } });
    provider.plan(Plan { claims, ..Plan::default() });
    let mut editor = Visitor::new(&center);
    assert_eq!(sign_in(&provider, &mut editor).await.status, StatusCode::OK);
    says(&editor.get("/overview").await, "editor");
    let answer = editor.get("/policies?service=stock").await;
    assert_eq!(answer.status, StatusCode::OK);
    let claims = json!({ "sub": "v", "groups": null, "realm": { "roles": ["staff"] } });
    provider.plan(Plan { claims, ..Plan::default() });
    let mut viewer = Visitor::new(&center);
    assert_eq!(sign_in(&provider, &mut viewer).await.status, StatusCode::OK);
    says(&viewer.get("/overview").await, "viewer");
    let answer = viewer.post("/access/give", &member).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", text(&answer));

    // The list has them, and one request ends all of one.
    let list = center.ask("GET", "/v1/sessions", None).await.good();
    let of = |who: &str| {
        let all = list["sessions"].as_array().unwrap();
        all.iter().find(|one| one["holder"] == who).cloned().unwrap_or_default()
    };
    assert_eq!(
        (&of("oidc:e")["role"], &of("oidc:e")["service"]),
        (&json!("editor"), &json!("orders"))
    );
    assert_eq!(of("oidc:v")["issuer"], provider.url);
    center.ask("DELETE", "/v1/sessions/oidc:e", None).await.good();
    assert!(!is_in(&mut editor).await && is_in(&mut viewer).await);
    center.ask("DELETE", "/v1/sessions/oidc:e", None).await.problem(404);
    let audit = center.ask("GET", "/v1/audit?newest=true&limit=1", None).await.good();
    let entry = &audit["entries"][0];
    assert_eq!(
        (&entry["action"], &entry["id"]),
        (&json!("session.end"), &json!("oidc:e")),
        "{audit}"
    );

    // A rule that is gone takes its sessions along; the others go on, with another center too.
    let (viewer, visitor) = (viewer.cookies(), visitor.cookies());
    center.stop().await;
    let mut settings = provider.settings();
    settings.roles.retain(|rule| rule.claim != "realm.roles");
    let center = Running::with(provider.center(&dir, settings)).await;
    let mut at = Visitor::with(&center, viewer);
    assert!(!is_in(&mut at).await);
    at = Visitor::with(&center, visitor);
    assert!(is_in(&mut at).await);
    let visitor = at.cookies();
    center.stop().await;
    let center = Running::start(&dir).await;
    let mut visitor = Visitor::with(&center, visitor);
    assert!(!is_in(&mut visitor).await, "nobody vouches for them any more");
    assert_eq!(header(&visitor.get("/login/oidc").await, "location"), "/login");
    center.stop().await;
}

/// Every way in which a provider, or somebody in its place, can be wrong about who it is.
#[tokio::test]
async fn nobody_comes_in_by_another_token() {
    let provider = Provider::start().await;
    let dir = Dir::new();
    let now = keepgate_observe::unix_s();
    let not_accepted = "is not accepted";
    let claims = |claims: Value| Plan { claims, ..Plan::default() };
    let refusal =
        |status: u16, body: Value| Plan { refusal: Some((status, body)), ..Plan::default() };
    let cases = [
        (claims(json!({ "nonce": "0".repeat(64) })), 403, not_accepted),
        (claims(json!({ "nonce": null })), 403, not_accepted),
        (claims(json!({ "iss": "https://evil.example" })), 403, not_accepted),
        (claims(json!({ "aud": "another" })), 403, not_accepted),
        (claims(json!({ "aud": [CLIENT, "another"] })), 403, not_accepted),
        (claims(json!({ "azp": "another" })), 403, not_accepted),
        (claims(json!({ "exp": now - 3_600 })), 403, not_accepted),
        (claims(json!({ "iat": now + 3_600 })), 403, not_accepted),
        (claims(json!({ "sub": null })), 403, not_accepted),
        (claims(json!({ "sub": "a\u{202e}b" })), 403, not_accepted),
        (claims(json!({ "groups": ["none"] })), 403, "have no role here"),
        (claims(json!({ "groups": { "platform": true } })), 403, "have no role here"),
        (Plan { forges: true, ..Plan::default() }, 403, not_accepted),
        (Plan { header: json!({ "alg": "none" }), ..Plan::default() }, 403, not_accepted),
        (Plan { header: json!({ "alg": "HS256" }), ..Plan::default() }, 403, not_accepted),
        (
            Plan { header: json!({ "alg": "EdDSA", "typ": "at+jwt" }), ..Plan::default() },
            403,
            not_accepted,
        ),
        (
            refusal(400, json!({ "error": "invalid_grant<b>" })),
            403,
            "refused the sign-in: invalid_grantb",
        ),
        (refusal(500, json!({ "error": "oops" })), 503, "gives no answer"),
        (refusal(200, json!({ "access_token": "x" })), 503, "gives no answer"),
        (refusal(200, json!([])), 503, "gives no answer"),
        (refusal(302, json!({})), 503, "gives no answer"),
    ];
    // A center counts the wrong ones of an address.
    for some in cases.chunks(8) {
        let center = Running::with(provider.center(&dir, provider.settings())).await;
        for (plan, status, said) in some {
            let mut visitor = Visitor::new(&center);
            provider.plan(plan.clone());
            let answer = sign_in(&provider, &mut visitor).await;
            let what = format!("{} {} {:?}", plan.claims, plan.header, plan.refusal);
            assert_eq!(answer.status.as_u16(), *status, "{what}: {}", text(&answer));
            says(&answer, said);
            assert!(!is_in(&mut visitor).await, "{what}");
        }
        let list = center.ask("GET", "/v1/sessions", None).await.good();
        assert_eq!(list["sessions"], json!([]));
        center.stop().await;
    }
    // So many, and no more for a while.
    let center = Running::with(provider.center(&dir, provider.settings())).await;
    provider.plan(Plan { forges: true, ..Plan::default() });
    for n in 0..11 {
        let mut visitor = Visitor::new(&center);
        let answer = visitor.get("/login/oidc").await;
        let expected = if n < 10 { StatusCode::SEE_OTHER } else { StatusCode::TOO_MANY_REQUESTS };
        assert_eq!(answer.status, expected, "{n}");
        if n < 10 {
            visitor.get(&provider.signs_in(header(&answer, "location"))).await;
        }
    }
    center.stop().await;
}

/// What comes back belongs to the browser that began, and to this provider.
#[tokio::test]
async fn nobody_is_signed_in_by_the_link_of_another() {
    let provider = Provider::start().await;
    let dir = Dir::new();
    let center = Running::with(provider.center(&dir, provider.settings())).await;
    let (mut mallory, mut alice) = (Visitor::new(&center), Visitor::new(&center));
    let to = begin(&mut mallory, "").await;
    let link = provider.signs_in(&to);
    // Without a sign-in of her own, and in the middle of one.
    assert_eq!(alice.get(&link).await.status, StatusCode::FORBIDDEN);
    let own = begin(&mut alice, "").await;
    assert_eq!(alice.get(&link).await.status, StatusCode::FORBIDDEN);
    assert!(!is_in(&mut alice).await);
    // A wrong answer ends her try: it must be begun again.
    let back = provider.signs_in(&own);
    assert_eq!(alice.get(&back).await.status, StatusCode::FORBIDDEN);

    // A parameter twice, an answer for another issuer, none where there must be one, an error.
    let back = |more: &'static str| {
        let (provider, center) = (&provider, &center);
        async move {
            let mut visitor = Visitor::new(center);
            let to = begin(&mut visitor, "").await;
            let answer = visitor.get(&format!("{}{more}", provider.signs_in(&to))).await;
            (answer.status.as_u16(), text(&answer), is_in(&mut visitor).await)
        }
    };
    for more in ["&state=x", "&code=x", "&iss=https%3A%2F%2Fevil.example"] {
        let (status, page, is_in) = back(more).await;
        assert_eq!((status, is_in), (403, false), "{more}: {page}");
    }
    let (status, page, is_in) = back("&error=access_denied").await;
    assert_eq!((status, is_in), (403, false));
    assert!(page.contains("refused the sign-in: access_denied"), "{page}");
    center.stop().await;

    provider.plan(Plan { says_issuer: true, ..Plan::default() });
    let center = Running::with(provider.center(&dir, provider.settings())).await;
    let mut visitor = Visitor::new(&center);
    assert_eq!(sign_in(&provider, &mut visitor).await.status, StatusCode::FORBIDDEN);
    let to = begin(&mut visitor, "").await;
    let mut link = provider.signs_in(&to);
    link.push_str("&iss=");
    link.extend(form_urlencoded::byte_serialize(provider.url.as_bytes()));
    assert_eq!(visitor.get(&link).await.status, StatusCode::OK);
    // One goes on to pages of the console alone.
    let mut visitor = Visitor::new(&center);
    let to = begin(&mut visitor, "https%3A%2F%2Fevil.example%2F").await;
    let mut link = provider.signs_in(&to);
    link.push_str("&iss=");
    link.extend(form_urlencoded::byte_serialize(provider.url.as_bytes()));
    let answer = visitor.get(&link).await;
    says(&answer, "action=\"/overview\"");
    assert!(!text(&answer).contains("evil"));
    center.stop().await;
}

/// Without the provider nobody is told that they may not come in, and tokens work.
#[tokio::test]
async fn a_provider_that_is_away_is_not_a_refusal() {
    let provider = Provider::start().await;
    let dir = Dir::new();
    provider.plan(Plan { is_away: true, ..Plan::default() });
    let center = Running::with(provider.center(&dir, provider.settings())).await;
    let mut visitor = Visitor::new(&center);
    for _ in 0..20 {
        let answer = visitor.get("/login/oidc").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", text(&answer));
        says(&answer, "gives no answer");
    }
    // It is asked now and then, and not for each of them.
    assert!(provider.shared.lock().unwrap().asked < 10);
    let mut inside = Visitor::signed_in(&center, &center.admin).await;
    assert!(is_in(&mut inside).await);
    center.stop().await;

    // Away in the middle: the sign-in is not refused, and who is in stays.
    provider.plan(Plan::default());
    let center = Running::with(provider.center(&dir, provider.settings())).await;
    let mut person = Visitor::new(&center);
    assert_eq!(sign_in(&provider, &mut person).await.status, StatusCode::OK);
    let mut late = Visitor::new(&center);
    let to = begin(&mut late, "").await;
    let back = provider.signs_in(&to);
    provider.plan(Plan { is_away: true, ..Plan::default() });
    assert_eq!(late.get(&back).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(is_in(&mut person).await && !is_in(&mut late).await);
    center.stop().await;

    // Documents that name no usable place.
    let elsewhere = "http://127.0.0.1:1";
    for document in [
        json!({ "issuer": "http://evil.example" }),
        json!({ "authorization_endpoint": null }),
        json!({ "authorization_endpoint": "javascript:alert(1)" }),
        json!({ "authorization_endpoint": "https://a b" }),
        json!({ "token_endpoint": null }),
        json!({ "token_endpoint": format!("{elsewhere}/token") }),
        json!({ "jwks_uri": format!("{elsewhere}/keys") }),
        json!({ "jwks_uri": "file:///etc/passwd" }),
    ] {
        provider.plan(Plan { document: document.clone(), ..Plan::default() });
        let center = Running::with(provider.center(&dir, provider.settings())).await;
        let mut visitor = Visitor::new(&center);
        let mut answer = visitor.get("/login/oidc").await;
        if answer.status == StatusCode::SEE_OTHER {
            let back = provider.signs_in(header(&answer, "location"));
            answer = visitor.get(&back).await;
        }
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{document}: {}", text(&answer));
        assert!(!is_in(&mut visitor).await, "{document}");
        center.stop().await;
    }
}

/// A key that the provider has begun to sign with is fetched; one that nobody knows is refused.
#[tokio::test]
async fn new_keys_are_followed() {
    let provider = Provider::start().await;
    let dir = Dir::new();
    let mut settings = provider.settings();
    settings.user_claim = "email".to_owned();
    let center = Running::with(provider.center(&dir, settings)).await;
    let header = json!({ "alg": "EdDSA", "kid": "k2" });
    let claims = json!({ "email": "ada@example.org", "email_verified": true });
    provider.shared.lock().unwrap().kids.push("k2");
    provider.plan(Plan { header: header.clone(), claims: claims.clone(), ..Plan::default() });
    let mut visitor = Visitor::new(&center);
    assert_eq!(sign_in(&provider, &mut visitor).await.status, StatusCode::OK);
    says(&visitor.get("/overview").await, "oidc:ada@example.org");
    let unknown = json!({ "alg": "EdDSA", "kid": "k3" });
    provider.plan(Plan { header: unknown, claims, ..Plan::default() });
    let mut visitor = Visitor::new(&center);
    assert_eq!(sign_in(&provider, &mut visitor).await.status, StatusCode::FORBIDDEN);
    // An address that anybody could have typed names nobody.
    for (claims, said) in [
        (json!({ "email": "ada@example.org", "email_verified": false }), "not verified your email"),
        (json!({ "email": "ada@example.org", "email_verified": "no" }), "not verified your email"),
        (json!({ "email": "ada\u{200b}@example.org" }), "no usable claim email"),
        (json!({ "email": "" }), "no usable claim email"),
        (json!({ "email": "ada@example.org " }), "no usable claim email"),
        (json!({ "email": ["ada@example.org"] }), "no usable claim email"),
    ] {
        provider.plan(Plan { claims: claims.clone(), ..Plan::default() });
        let mut visitor = Visitor::new(&center);
        let answer = sign_in(&provider, &mut visitor).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{claims}");
        says(&answer, said);
    }
    center.stop().await;
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_at_the_start() {
    let provider = Provider::start().await;
    let dir = Dir::new();
    let refused = async |change: &dyn Fn(&mut OidcConfig)| {
        let mut settings = provider.settings();
        change(&mut settings);
        let config = provider.center(&dir, settings);
        chain(&Center::start(config).await.err().unwrap())
    };
    let long = "x".repeat(OidcConfig::MAX_TEXT + 1);
    for (said, change) in [
        (
            "--outbound-allow",
            &(|s: &mut OidcConfig| s.issuer = "https://id.example".to_owned())
                as &dyn Fn(&mut OidcConfig),
        ),
        ("without query", &|s: &mut OidcConfig| s.issuer.push_str("/?a=b")),
        ("client id", &|s: &mut OidcConfig| s.client_id.clear()),
        ("client secret", &|s: &mut OidcConfig| s.client_secret = Some("a\nb".to_owned())),
        ("user claim", &|s: &mut OidcConfig| s.user_claim.clone_from(&long)),
        ("got 0", &|s: &mut OidcConfig| s.roles.clear()),
        ("session", &|s: &mut OidcConfig| s.session = Duration::from_secs(59)),
        ("session", &|s: &mut OidcConfig| s.session = OidcConfig::LONGEST + Duration::from_secs(1)),
    ] {
        let error = refused(change).await;
        assert!(error.contains(said), "{said}: {error}");
        assert!(!error.contains(SECRET), "{error}");
    }
    let shown = format!("{:?}", provider.settings());
    assert!(!shown.contains(SECRET), "{shown}");
}

/// A role by an address needs the provider's word that the address is verified.
#[tokio::test]
async fn an_address_that_is_not_verified_gives_no_role() {
    let provider = Provider::start().await;
    let dir = Dir::new();
    let mut settings = provider.settings();
    settings.roles = vec![
        "admin=email=boss@example.org".parse().unwrap(),
        "viewer=groups=staff".parse().unwrap(),
    ];
    let center = Running::with(provider.center(&dir, settings)).await;
    let boss = "boss@example.org";
    for (claims, status, said) in [
        (json!({ "email": boss }), 403, "not verified your email"),
        (json!({ "email": boss, "email_verified": false }), 403, "not verified your email"),
        (json!({ "email": boss, "email_verified": 1 }), 403, "not verified your email"),
        (json!({ "email": "other@example.org", "email_verified": true }), 403, "no role here"),
        // What else fits them counts.
        (json!({ "email": boss, "groups": ["staff"] }), 200, "viewer"),
        (json!({ "email": boss, "email_verified": true }), 200, "admin"),
    ] {
        provider.plan(Plan { claims: claims.clone(), ..Plan::default() });
        let mut visitor = Visitor::new(&center);
        let answer = sign_in(&provider, &mut visitor).await;
        assert_eq!(answer.status.as_u16(), status, "{claims}");
        let shown = if status == 200 { visitor.get("/overview").await } else { answer };
        says(&shown, said);
    }
    center.stop().await;
}
