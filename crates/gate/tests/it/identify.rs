//! Credentials: those that hold, and every way in which one may not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use keepgate_policy::model::KeyBody;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::support::{Answer, Draft, Echo, TestGate, get, serve, uid};

const ISSUER: &str = "https://id.example";
const SECRET: &[u8] = b"a secret of 32 bytes or more, for HS256";

/// Somebody who signs tokens.
pub(crate) enum Signer {
    Ed(Ed25519KeyPair),
    Ec(Box<EcdsaKeyPair>),
    Ec384(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
    Hmac(Vec<u8>),
}

impl Signer {
    pub(crate) fn ed() -> Signer {
        let rng = ring::rand::SystemRandom::new();
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&rng).unwrap();
        Signer::Ed(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    pub(crate) fn ec384() -> Signer {
        let rng = ring::rand::SystemRandom::new();
        let alg = &ECDSA_P384_SHA384_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(alg, &rng).unwrap();
        Signer::Ec384(Box::new(EcdsaKeyPair::from_pkcs8(alg, pkcs8.as_ref(), &rng).unwrap()))
    }

    pub(crate) fn ec() -> Signer {
        let rng = ring::rand::SystemRandom::new();
        let alg = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(alg, &rng).unwrap();
        Signer::Ec(Box::new(EcdsaKeyPair::from_pkcs8(alg, pkcs8.as_ref(), &rng).unwrap()))
    }

    /// ring makes no RSA keys; this one was made for the tests and protects nothing.
    pub(crate) fn rsa() -> Signer {
        let pem = include_str!("rsa_test_key.pem");
        let der: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = base64::engine::general_purpose::STANDARD.decode(der).unwrap();
        Signer::Rsa(Box::new(RsaKeyPair::from_pkcs8(&der).unwrap()))
    }

    fn alg(&self) -> &'static str {
        match self {
            Signer::Ed(_) => "EdDSA",
            Signer::Ec(_) => "ES256",
            Signer::Ec384(_) => "ES384",
            Signer::Rsa(_) => "RS256",
            Signer::Hmac(_) => "HS256",
        }
    }

    pub(crate) fn jwk(&self, kid: &str) -> Value {
        match self {
            Signer::Ed(key) => json!({
                "kty": "OKP", "crv": "Ed25519", "kid": kid, "use": "sig",
                "x": B64.encode(key.public_key().as_ref()),
            }),
            Signer::Ec(key) => {
                let point = key.public_key().as_ref();
                json!({
                    "kty": "EC", "crv": "P-256", "kid": kid,
                    "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..]),
                })
            }
            Signer::Ec384(key) => {
                let point = key.public_key().as_ref();
                json!({
                    "kty": "EC", "crv": "P-384", "kid": kid, "alg": "ES384",
                    "x": B64.encode(&point[1..49]), "y": B64.encode(&point[49..]),
                })
            }
            Signer::Rsa(key) => {
                let public: ring::signature::RsaPublicKeyComponents<Vec<u8>> = key.public().into();
                json!({
                    "kty": "RSA", "kid": kid, "alg": "RS256",
                    "n": B64.encode(public.n), "e": B64.encode(public.e),
                })
            }
            Signer::Hmac(_) => panic!("no public key"),
        }
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        self.signature_by(self.alg(), message)
    }

    fn signature_by(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let rng = ring::rand::SystemRandom::new();
        match self {
            Signer::Ed(key) => key.sign(message).as_ref().to_vec(),
            Signer::Ec(key) | Signer::Ec384(key) => {
                key.sign(&rng, message).unwrap().as_ref().to_vec()
            }
            Signer::Rsa(key) => {
                let encoding: &dyn RsaEncoding = match alg {
                    "RS256" => &RSA_PKCS1_SHA256,
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    _ => &RSA_PSS_SHA512,
                };
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(encoding, &rng, message, &mut signature).unwrap();
                signature
            }
            Signer::Hmac(secret) => {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
                ring::hmac::sign(&key, message).as_ref().to_vec()
            }
        }
    }

    /// A token that names an algorithm and is signed by another.
    pub(crate) fn token_saying(&self, said: &str, by: &str, kid: &str, claims: &Value) -> String {
        let header = json!({"alg": said, "kid": kid}).to_string();
        let message = format!("{}.{}", B64.encode(header), B64.encode(claims.to_string()));
        let signature = B64.encode(self.signature_by(by, message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// A token of these very texts.
    pub(crate) fn token_of(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", B64.encode(header), B64.encode(claims));
        let signature = B64.encode(self.signature(message.as_bytes()));
        format!("{message}.{signature}")
    }

    pub(crate) fn token(&self, kid: &str, claims: &Value) -> String {
        let header = json!({"alg": self.alg(), "typ": "JWT", "kid": kid}).to_string();
        self.token_of(&header, &claims.to_string())
    }
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "orders", "sub": "alice", "exp": now() + 600})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn draft(jwt: &Value) -> Draft {
    let mut draft = Draft::orders();
    draft.settings.identify = serde_json::from_value(json!({"jwt": [jwt]})).unwrap();
    draft
}

async fn shown(gate: &TestGate, token: &str) -> Answer {
    get(gate.addr, "/orders", &[("Authorization", &format!("Bearer {token}"))]).await
}

/// A JWKS server whose keys can change, and which counts.
struct JwksServer {
    echo: Echo,
    keys: Arc<Mutex<Vec<Value>>>,
    asked: Arc<AtomicU64>,
    broken: Arc<AtomicU64>,
}

impl JwksServer {
    async fn start(keys: Vec<Value>) -> JwksServer {
        let keys = Arc::new(Mutex::new(keys));
        let asked = Arc::new(AtomicU64::new(0));
        let broken = Arc::new(AtomicU64::new(0));
        let (held, count, fail) = (Arc::clone(&keys), Arc::clone(&asked), Arc::clone(&broken));
        let echo = serve(move |request| {
            assert_eq!(request.uri().path(), "/keys.json");
            count.fetch_add(1, Ordering::SeqCst);
            let body = json!({"keys": *held.lock().unwrap()}).to_string();
            let mut response = Response::new(Full::new(Bytes::from(body)));
            if fail.load(Ordering::SeqCst) > 0 {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            async move { response }
        })
        .await;
        JwksServer { echo, keys, asked, broken }
    }

    fn settings(&self) -> Value {
        let url = format!("{}/keys.json", self.echo.url);
        json!({"issuer": ISSUER, "audience": "orders", "jwks_url": url})
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_algorithm_holds() {
    let echo = Echo::start().await;
    let signers = [("e", Signer::ed()), ("c", Signer::ec()), ("r", Signer::rsa())];
    let keys = signers.iter().map(|(kid, signer)| signer.jwk(kid)).collect();
    let jwks = JwksServer::start(keys).await;
    let gate = TestGate::start(&draft(&jwks.settings()), &echo.url).await;
    for (kid, signer) in &signers {
        let token = signer.token(kid, &claims());
        let answer = shown(&gate, &token).await;
        assert_eq!(answer.status, 200, "{} {answer:?}", signer.alg());
        assert!(answer.body.contains("keepgate-principal: user::\"alice\"\n"), "{answer:?}");
        // Without a key id every key of the algorithm is asked.
        let header = json!({"alg": signer.alg()}).to_string();
        let token = signer.token_of(&header, &claims().to_string());
        assert_eq!(shown(&gate, &token).await.status, 200);
        // Somebody else's signature.
        let other = match signer {
            Signer::Ed(_) => Signer::ed(),
            _ => Signer::ec(),
        };
        let other = other.token(if *kid == "r" { "c" } else { kid }, &claims());
        shown(&gate, &other).await.is_problem(401, "unauthenticated");
        // One bit of the signature.
        let mut wrong = token.into_bytes();
        let last = wrong.len() - 4;
        wrong[last] = if wrong[last] == b'A' { b'B' } else { b'A' };
        let wrong = String::from_utf8(wrong).unwrap();
        shown(&gate, &wrong).await.is_problem(401, "unauthenticated");
    }
    assert_eq!(jwks.asked.load(Ordering::SeqCst), 1, "fetched once, whatever was shown");
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_not_to_hold() {
    let echo = Echo::start().await;
    let ed = Signer::ed();
    let jwks = JwksServer::start(vec![ed.jwk("e")]).await;
    let gate = TestGate::start(&draft(&jwks.settings()), &echo.url).await;
    let good = ed.token("e", &claims());
    assert_eq!(shown(&gate, &good).await.status, 200);

    let text = claims().to_string();
    let header = |extra: &str| format!(r#"{{"alg":"EdDSA","kid":"e"{extra}}}"#);
    let public = match &ed {
        Signer::Ed(key) => key.public_key().as_ref().to_vec(),
        _ => unreachable!(),
    };
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let repeated = format!("{},\"sub\":\"root\"}}", text.trim_end_matches('}'));
    let cases: Vec<(&str, String, &str)> = vec![
        ("expired", ed.token("e", &with("exp", json!(now() - 40))), "expired"),
        ("expired, text", ed.token("e", &with("exp", json!("9999999999"))), "not a signed JWT"),
        ("no expiry", ed.token("e", &without("exp")), "no expiry"),
        ("not yet", ed.token("e", &with("nbf", json!(now() + 60))), "not valid yet"),
        ("other audience", ed.token("e", &with("aud", json!("other"))), "another audience"),
        ("other audiences", ed.token("e", &with("aud", json!(["a", "b"]))), "another audience"),
        ("no audience", ed.token("e", &without("aud")), "another audience"),
        ("other issuer", ed.token("e", &with("iss", json!("https://evil"))), "issuer"),
        ("no issuer", ed.token("e", &without("iss")), "issuer"),
        ("no subject", ed.token("e", &without("sub")), "who the caller is"),
        ("empty subject", ed.token("e", &with("sub", json!(""))), "who the caller is"),
        ("subject no text", ed.token("e", &with("sub", json!(7))), "who the caller is"),
        ("alg none", ed.token_of(r#"{"alg":"none"}"#, &text), "algorithm"),
        ("alg None", ed.token_of(r#"{"alg":"None"}"#, &text), "algorithm"),
        ("no alg", ed.token_of("{}", &text), "algorithm"),
        ("alg RS512", ed.token_of(r#"{"alg":"RS512"}"#, &text), "not known"),
        ("alg ES512", ed.token_of(r#"{"alg":"ES512"}"#, &text), "algorithm"),
        (
            "the public key as an HMAC secret",
            Signer::Hmac(public).token("e", &claims()),
            "algorithm",
        ),
        ("another algorithm's key", Signer::ec().token("e", &claims()), "not known"),
        ("crit", ed.token_of(&header(r#","crit":["exp"]"#), &text), "extension"),
        ("b64", ed.token_of(&header(r#","b64":false"#), &text), "extension"),
        ("typ", ed.token_of(&header(r#","typ":"dpop+jwt""#), &text), "another type"),
        ("repeated member", ed.token_of(&header(r#","alg":"EdDSA""#), &text), "repeats"),
        ("repeated claim", ed.token_of(&header(""), &repeated), "repeats"),
        (
            "own key in the header",
            {
                let own = Signer::ed();
                let jwk = own.jwk("e");
                own.token_of(&header(&format!(",\"jwk\":{jwk}")), &text)
            },
            "signature",
        ),
        ("no signature", format!("{signed}."), "signature"),
        ("two parts", signed.to_owned(), "not a signed JWT"),
        ("four parts", format!("{good}.{signature}"), "not a signed JWT"),
        ("not base64", format!("a*b.{good}"), "not a signed JWT"),
        ("padding", format!("{signed}.{signature}=="), "not a signed JWT"),
        ("header no object", ed.token_of("[]", &text), "not a signed JWT"),
        ("claims no object", ed.token_of(&header(""), "7"), "not a signed JWT"),
        ("too long", format!("{}.{good}", "a".repeat(9000)), "too long"),
        ("garbage", "garbage".to_owned(), "not a signed JWT"),
        ("nothing", String::new(), "not a signed JWT"),
    ];
    for (name, token, detail) in cases {
        let answer = shown(&gate, &token).await;
        let json = answer.is_problem(401, "unauthenticated");
        let said = json["detail"].as_str().unwrap();
        assert!(said.contains(detail), "{name}: {said}");
        assert!(answer.headers["www-authenticate"].contains("invalid_token"), "{name}");
        // Nor does it fall through to anonymity.
        let bearer = format!("Bearer {token}");
        get(gate.addr, "/public", &[("Authorization", &bearer)])
            .await
            .is_problem(401, "unauthenticated");
    }
    let two = [("Authorization", "Bearer a"), ("Authorization", "Bearer b")];
    get(gate.addr, "/public", &two).await.is_problem(401, "unauthenticated");
    get(gate.addr, "/public", &[("Authorization", "Basic YTpi")])
        .await
        .is_problem(401, "unauthenticated");
    let none = get(gate.addr, "/orders", &[]).await;
    none.is_problem(401, "unauthenticated");
    assert_eq!(none.headers["www-authenticate"], "Bearer realm=\"orders\"");
    // Within the leeway.
    let late = ed.token("e", &with("exp", json!(now() - 5)));
    assert_eq!(shown(&gate, &late).await.status, 200);
    assert_eq!(get(gate.addr, "/public", &[]).await.status, 200);
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_keys_are_fetched_a_few_times_and_then_once_a_minute() {
    let echo = Echo::start().await;
    let (old, new) = (Signer::ed(), Signer::ed());
    let jwks = JwksServer::start(vec![old.jwk("old")]).await;
    let gate = TestGate::start(&draft(&jwks.settings()), &echo.url).await;
    assert_eq!(shown(&gate, &old.token("old", &claims())).await.status, 200);
    assert_eq!(jwks.asked.load(Ordering::SeqCst), 1);
    // The issuer rotates: the first token of the new key has the set read again.
    *jwks.keys.lock().unwrap() = vec![new.jwk("new")];
    assert_eq!(shown(&gate, &new.token("new", &claims())).await.status, 200);
    assert_eq!(jwks.asked.load(Ordering::SeqCst), 2);
    // The old key is withdrawn, also where its token was remembered; whether it is back is asked.
    shown(&gate, &old.token("old", &claims())).await.is_problem(401, "unauthenticated");
    // Made-up key ids are no lever.
    for i in 0..20 {
        let token = new.token(&format!("made-up-{i}"), &claims());
        shown(&gate, &token).await.is_problem(401, "unauthenticated");
    }
    assert_eq!(jwks.asked.load(Ordering::SeqCst), 6, "the first, and five on demand");
    // A failing key server leaves the keys in place.
    jwks.broken.store(1, Ordering::SeqCst);
    assert_eq!(shown(&gate, &new.token("new", &claims())).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_it_is_503() {
    let echo = Echo::start().await;
    let ed = Signer::ed();
    let jwks = JwksServer::start(vec![ed.jwk("e")]).await;
    jwks.broken.store(1, Ordering::SeqCst);
    let gate = TestGate::with(&draft(&jwks.settings()), &echo.url, |config| {
        config.keys.retry = Duration::from_millis(20);
    })
    .await;
    let token = ed.token("e", &claims());
    shown(&gate, &token).await.is_problem(503, "no-identity");
    jwks.broken.store(0, Ordering::SeqCst);
    super::support::eventually("the keys are read", async || {
        shown(&gate, &token).await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_remembered_but_not_beyond_their_keys() {
    let echo = Echo::start().await;
    let dir = std::env::temp_dir().join(format!("keepgate-jwks-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("keys.json");
    let (first, second) = (Signer::ec(), Signer::ec());
    let write = |signer: &Signer| {
        std::fs::write(&file, json!({"keys": [signer.jwk("k")]}).to_string()).unwrap();
    };
    write(&first);
    let settings = json!({"issuer": ISSUER, "audience": ["orders", "more"], "jwks_file": file});
    let gate = TestGate::with(&draft(&settings), &echo.url, |config| {
        config.workers = 1;
        config.keys.file_interval = Duration::from_millis(20);
    })
    .await;
    let token = first.token("k", &claims());
    for _ in 0..3 {
        assert_eq!(shown(&gate, &token).await.status, 200);
    }
    assert_eq!(gate.metric("keepgate_gate_tokens_verified_total").await, 1.0);
    assert_eq!(gate.metric("keepgate_gate_tokens_cached_total").await, 2.0);
    write(&second);
    super::support::eventually("the key is withdrawn", async || {
        shown(&gate, &token).await.status == 401
    })
    .await;
    assert_eq!(shown(&gate, &second.token("k", &claims())).await.status, 200);
    gate.stop().await;
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hs256_from_a_secret_file() {
    let echo = Echo::start().await;
    let file = std::env::temp_dir().join(format!("keepgate-secret-{}", std::process::id()));
    std::fs::write(&file, [SECRET, b"\n"].concat()).unwrap();
    let settings = json!({"issuer": ISSUER, "audience": "orders", "secret_file": file});
    let gate = TestGate::start(&draft(&settings), &echo.url).await;
    let hmac = Signer::Hmac(SECRET.to_vec());
    assert_eq!(shown(&gate, &hmac.token("any", &claims())).await.status, 200);
    let wrong = Signer::Hmac(b"another secret of more than 32 bytes".to_vec());
    shown(&gate, &wrong.token("any", &claims())).await.is_problem(401, "unauthenticated");
    shown(&gate, &Signer::ed().token("any", &claims())).await.is_problem(401, "unauthenticated");
    gate.stop().await;
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn api_keys() {
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    draft.settings.identify = serde_json::from_value(json!({"api_key": {}})).unwrap();
    let key = |prefix: &str, text: &str, expires_unix_s: Option<u64>| KeyBody {
        prefix: prefix.to_owned(),
        sha256: Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect(),
        principal: uid("user", "alice"),
        plan: String::new(),
        expires_unix_s,
        note: String::new(),
    };
    draft.keys = vec![
        key("good", "kgk_good_secret", Some(now() + 600)),
        key("old", "kgk_old_secret", Some(now() - 1)),
    ];
    let gate = TestGate::start(&draft, &echo.url).await;
    let answer = get(gate.addr, "/orders", &[("X-Api-Key", "kgk_good_secret")]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!answer.body.contains("kgk_"), "the key stays here: {answer:?}");
    let bearer = [("Authorization", "Bearer kgk_good_secret")];
    let answer = get(gate.addr, "/orders", &bearer).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!answer.body.contains("kgk_"), "the key stays here: {answer:?}");
    for wrong in [
        "kgk_good_secre",
        "kgk_good_secrets",
        "kgk_other_secret",
        "kgk_old_secret",
        "x",
        "kgk__",
        "",
    ] {
        get(gate.addr, "/public", &[("X-Api-Key", wrong)]).await.is_problem(401, "unauthenticated");
    }
    // Revoked: gone with the next revision.
    draft.keys.clear();
    draft.revision = 2;
    gate.source.replace(draft.world());
    get(gate.addr, "/orders", &bearer).await.is_problem(401, "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn trusted_headers_are_believed_from_listed_peers_only() {
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    draft.settings.identify = serde_json::from_value(
        json!({"trusted_header": {"header": "x-user", "peers": ["10.0.0.0/8"]}}),
    )
    .unwrap();
    let gate = TestGate::start(&draft, &echo.url).await;
    get(gate.addr, "/orders", &[("x-user", "alice")]).await.is_problem(401, "unauthenticated");
    let answer = get(gate.addr, "/public", &[("x-user", "alice")]).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.body.contains("x-user"), "taken away: {answer:?}");

    // Also beside a credential that holds.
    let ed = Signer::ed();
    let jwks = JwksServer::start(vec![ed.jwk("e")]).await;
    let mut both = serde_json::to_value(&draft.settings.identify).unwrap();
    both["jwt"] = json!([jwks.settings()]);
    draft.settings.identify = serde_json::from_value(both).unwrap();
    let gate = TestGate::start(&draft, &echo.url).await;
    let bearer = format!("Bearer {}", ed.token("e", &claims()));
    let shown = [("Authorization", bearer.as_str()), ("x-user", "root")];
    let answer = get(gate.addr, "/orders", &shown).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!answer.body.contains("x-user"), "taken away: {answer:?}");

    let gate = TestGate::start(&Draft::orders(), &echo.url).await;
    let two = [("x-user", "alice"), ("x-user", "bob")];
    get(gate.addr, "/orders", &two).await.is_problem(401, "unauthenticated");
    let quoted = get(gate.addr, "/public", &[("x-user", "a\"b")]).await;
    assert!(quoted.body.contains("keepgate-principal: user::\"a\\\"b\"\n"), "{quoted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_does_not_take_hides_nothing_that_it_takes() {
    let echo = Echo::start().await;
    let ed = Signer::ed();
    let jwks = JwksServer::start(vec![ed.jwk("e")]).await;
    let mut draft = draft(&jwks.settings());
    draft.settings.identify.trusted_header = serde_json::from_value(json!({
        "header": "x-user", "peers": ["127.0.0.1"],
    }))
    .unwrap();
    let gate = TestGate::start(&draft, &echo.url).await;
    let ask = async |headers: &[(&str, &str)]| get(gate.addr, "/orders", headers).await.status;
    let alice = ("x-user", "alice");
    let bearer = format!("Bearer {}", ed.token("e", &claims()));
    let basic = ("Authorization", "Basic YTpi");
    // The service takes tokens and the header; neither Basic nor API keys.
    assert_eq!(ask(&[basic, alice]).await, 200);
    assert_eq!(ask(&[("Authorization", "Bearer kgk_abc_def"), alice]).await, 200);
    assert_eq!(ask(&[("Authorization", "Negotiate \u{e9}"), alice]).await, 200);
    assert_eq!(ask(&[basic, ("Authorization", &bearer)]).await, 200);
    assert_eq!(ask(&[basic]).await, 401);
    // What it takes and does not hold is a refusal, whatever else is shown.
    assert_eq!(ask(&[("Authorization", "Bearer x.y.z"), alice]).await, 401);
    assert_eq!(ask(&[("Authorization", "Bearer"), alice]).await, 401);
    assert_eq!(ask(&[("Authorization", &bearer), ("Authorization", &bearer)]).await, 401);
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_identified_as_the_anonymous_principal() {
    let echo = Echo::start().await;
    let ed = Signer::ed();
    let jwks = JwksServer::start(vec![ed.jwk("e")]).await;
    let mut draft = draft(&jwks.settings());
    draft.settings.identify.trusted_header = serde_json::from_value(json!({
        "header": "x-user", "peers": ["127.0.0.1"],
    }))
    .unwrap();
    draft.policies.push((
        "anonymous".to_owned(),
        "permit (principal == user::\"anonymous\", action, resource);".to_owned(),
    ));
    let gate = TestGate::start(&draft, &echo.url).await;
    let token = ed.token("e", &with("sub", json!("anonymous")));
    // Twice: what is remembered is refused too.
    for _ in 0..2 {
        shown(&gate, &token).await.is_problem(401, "unauthenticated");
    }
    get(gate.addr, "/orders", &[("x-user", "anonymous")]).await.is_problem(401, "unauthenticated");
    assert_eq!(get(gate.addr, "/public", &[]).await.status, 200);
    gate.stop().await;
}
