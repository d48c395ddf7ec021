//! Issuers of tokens: where their keys are, how their changes are followed, what their keys may sign,
//! and how large their tokens are.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use super::claims::{claims, draft, shown};
use super::identify::{Signer, now};
use super::issuer::TestIssuer;
use super::support::{Answer, Draft, Echo, TestGate, connect, eventually, get};

/// The service with these ways, in which everybody who is somebody may `/any`.
fn open_draft(identify: &Value) -> Draft {
    let mut draft = draft(identify);
    let any = "permit (principal, action, resource == route::\"/any\");";
    draft.policies = vec![("any".to_owned(), any.to_owned())];
    draft
}

/// `issuer` alone is enough; keys that change twice at once are followed; made-up keys are no lever.
#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_changes_its_keys_is_followed() {
    let echo = Echo::start().await;
    let signers =
        [Signer::ed(), Signer::ec(), Signer::ed(), Signer::ec(), Signer::ed(), Signer::ec()];
    let issuer = TestIssuer::start(vec![signers[0].jwk("k0")]).await;
    let draft = open_draft(&json!({"jwt": [{"issuer": issuer.url, "audience": "orders"}]}));
    let gate = TestGate::start(&draft, &echo.url).await;
    let status = async |n: usize| {
        let token = signers[n].token(&format!("k{n}"), &claims(&issuer, &json!({})));
        shown(&gate, "/any", &token).await.status
    };
    assert_eq!((status(0).await, issuer.asked()), (200, 1));
    for (n, signer) in signers.iter().enumerate().skip(1).take(3) {
        issuer.rotate(vec![signer.jwk(&format!("k{n}"))]);
        assert_eq!(status(n).await, 200, "rotation {n}");
        assert_eq!(status(n - 1).await, 401, "the key before rotation {n} is withdrawn");
        assert!(issuer.asked() <= 6, "{}", issuer.asked());
    }
    // The burst is used up by keys that do not exist: no more is asked, for a minute.
    for n in 0..20 {
        let token = signers[0].token(&format!("made-up-{n}"), &claims(&issuer, &json!({})));
        shown(&gate, "/any", &token).await.is_problem(401, "unauthenticated");
    }
    assert_eq!(issuer.asked(), 6);
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_cannot_be_read_is_503_and_is_named() {
    let echo = Echo::start().await;
    let signer = Signer::ed();
    let issuer = TestIssuer::start(vec![signer.jwk("k")]).await;
    let other = TestIssuer::start(vec![signer.jwk("k")]).await;
    issuer.set_broken(true);
    let draft = open_draft(&json!({"jwt": [
        {"issuer": issuer.url, "audience": "orders"},
        {"issuer": other.url, "audience": "orders"},
    ]}));
    let gate = TestGate::with(&draft, &echo.url, |config| {
        config.keys.retry = Duration::from_millis(20);
        config.keys.interval = Duration::from_millis(50);
    })
    .await;
    let ready = async || {
        let answer = get_ready(&gate).await;
        assert_eq!(answer.status, 200, "one issuer is no reason: {answer:?}");
        answer.json()["services"][0]["issuers_without_keys"].clone()
    };
    eventually("the other's keys are read", async || ready().await == json!([issuer.url])).await;
    let token = |issuer: &TestIssuer, kid: &str| signer.token(kid, &claims(issuer, &json!({})));
    shown(&gate, "/any", &token(&issuer, "k")).await.is_problem(503, "no-identity");
    assert_eq!(shown(&gate, "/any", &token(&other, "k")).await.status, 200, "the other one works");

    // Documents that are not the issuer's own, or lead to where the gate does not ask.
    issuer.set_broken(false);
    let keys = format!("{}/keys", issuer.url);
    for document in [
        json!({"issuer": format!("{}/", issuer.url), "jwks_uri": keys}),
        json!({"issuer": issuer.url.to_uppercase(), "jwks_uri": keys}),
        json!({"issuer": other.url, "jwks_uri": keys}),
        json!({"issuer": issuer.url, "jwks_uri": "http://169.254.169.254/latest"}),
        json!({"issuer": issuer.url, "jwks_uri": "file:///etc/passwd"}),
        json!({"issuer": issuer.url}),
        json!({"issuer": issuer.url, "jwks_uri": keys, "x": "y".repeat(64 * 1024)}),
    ] {
        issuer.set_document(Some(document.to_string()));
        // The second read from here on began with this document, and at the third one it is over.
        let before = issuer.documents();
        eventually("the document is read", async || issuer.documents() >= before + 3).await;
        shown(&gate, "/any", &token(&issuer, "k")).await.is_problem(503, "no-identity");
        assert_eq!(ready().await, json!([issuer.url]), "{document}");
    }
    issuer.set_document(None);
    eventually("its keys are read", async || {
        shown(&gate, "/any", &token(&issuer, "k")).await.status == 200
    })
    .await;
    assert_eq!(ready().await, json!(null));

    // Keys that were read stay in force; of a key that is new nobody can tell.
    issuer.set_broken(true);
    eventually("the failure is seen", async || {
        shown(&gate, "/any", &token(&issuer, "new")).await.status == 503
    })
    .await;
    assert_eq!(shown(&gate, "/any", &token(&issuer, "k")).await.status, 200);
    let wrong =
        json!({"iss": "https://evil.example", "aud": "orders", "sub": "a", "exp": now() + 60});
    shown(&gate, "/any", &signer.token("k", &wrong)).await.is_problem(401, "unauthenticated");
    gate.stop().await;
}

async fn get_ready(gate: &TestGate) -> Answer {
    get(gate.admin, "/readyz", &[]).await
}

/// A token at the bound and beyond it, over both versions of HTTP, with the gate's own bounds.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_have_the_size_that_is_set() {
    let echo = Echo::start().await;
    let signer = Signer::ed();
    let issuer = TestIssuer::start(vec![signer.jwk("k")]).await;
    for (setting, bound) in [(None, 8 * 1024), (Some("16KiB"), 16 * 1024)] {
        let mut identify = json!({"jwt": [{"issuer": issuer.url, "audience": "orders"}]});
        if let Some(size) = setting {
            identify["token_bytes"] = json!(size);
        }
        let draft = open_draft(&identify);
        let gate = TestGate::start(&draft, &echo.url).await;
        let token = sized(&signer, &issuer, bound);
        assert_eq!(shown(&gate, "/any", &token).await.status, 200, "{bound}");
        assert_eq!(over_h2(&gate, &token).await, 200, "{bound} over HTTP/2");
        let json =
            shown(&gate, "/any", &format!("{token}x")).await.is_problem(401, "unauthenticated");
        assert!(json["detail"].as_str().unwrap().contains("too long"), "{json}");
        gate.stop().await;
    }
}

/// Each algorithm by a key of its family, and by no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_verifies_its_family() {
    let echo = Echo::start().await;
    let (rsa, ec, ec384, ed) = (Signer::rsa(), Signer::ec(), Signer::ec384(), Signer::ed());
    let mut narrowed = rsa.jwk("rs256");
    narrowed["alg"] = json!("RS256");
    let mut open = rsa.jwk("rsa");
    open.as_object_mut().unwrap().remove("alg");
    let keys = vec![open, narrowed, ec.jwk("p256"), ec384.jwk("p384"), ed.jwk("ed")];
    let issuer = TestIssuer::start(keys).await;
    let draft = open_draft(&json!({"jwt": [{"issuer": issuer.url, "audience": "orders"}]}));
    let gate = TestGate::start(&draft, &echo.url).await;
    let of_rsa = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
    let signed: Vec<(&Signer, &str)> = of_rsa
        .iter()
        .map(|alg| (&rsa, *alg))
        .chain([(&ec, "ES256"), (&ec384, "ES384"), (&ed, "EdDSA")])
        .collect();
    for (signer, alg) in signed {
        let own = match alg {
            "ES256" => vec!["p256"],
            "ES384" => vec!["p384"],
            "EdDSA" => vec!["ed"],
            "RS256" => vec!["rsa", "rs256"],
            _ => vec!["rsa"],
        };
        for kid in ["rsa", "rs256", "p256", "p384", "ed"] {
            let token = signer.token_saying(alg, alg, kid, &claims(&issuer, &json!({})));
            let expected = if own.contains(&kid) { 200 } else { 401 };
            let answer = shown(&gate, "/any", &token).await;
            assert_eq!(answer.status, expected, "{alg} by {kid}: {answer:?}");
        }
    }
    // The header says one, the signature is another of the same key.
    for (said, signed) in [("PS256", "RS256"), ("RS256", "PS256"), ("RS512", "RS256")] {
        let token = rsa.token_saying(said, signed, "rsa", &claims(&issuer, &json!({})));
        shown(&gate, "/any", &token).await.is_problem(401, "unauthenticated");
    }
    gate.stop().await;
}

/// A token of exactly so many bytes.
fn sized(signer: &Signer, issuer: &TestIssuer, bytes: usize) -> String {
    // Base64 leaves out every fourth length; that of the header makes up for it.
    let headers = (0..4).map(|pad| json!({"alg": "EdDSA", "kid": "k", "pad": "x".repeat(pad)}));
    let headers: Vec<String> = headers.map(|header| header.to_string()).collect();
    let least = bytes * 3 / 4 - 500;
    (least..least + 500)
        .flat_map(|filler| headers.iter().map(move |header| (filler, header)))
        .map(|(filler, header)| {
            let claims = claims(issuer, &json!({"filler": "x".repeat(filler)}));
            signer.token_of(header, &claims.to_string())
        })
        .find(|token| token.len() == bytes)
        .unwrap()
}

/// The status of a request with this token, over HTTP/2.
async fn over_h2(gate: &TestGate, token: &str) -> u16 {
    let io = TokioIo::new(connect(gate.addr).await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(format!("http://{}/any", gate.addr))
        .header("authorization", format!("Bearer {token}"))
        .body(Full::<Bytes>::default())
        .unwrap();
    sender.send_request(request).await.unwrap().status().as_u16()
}
