//! What an upstream behind another proxy is told of a caller: claims in headers, an assertion.

use serde_json::json;

use super::grpc::{checked, ok, values};
use super::{Original, asked, both};
use crate::claims::{claims, draft};
use crate::identify::Signer;
use crate::issuer::TestIssuer;
use crate::support::{Draft, Echo};

/// Claims take the place of what a caller wrote there, and what it wrote goes where there is none.
#[tokio::test(flavor = "multi_thread")]
async fn claims_are_told_to_the_proxy() {
    let echo = Echo::start().await;
    let signer = Signer::ed();
    let issuer = TestIssuer::start(vec![signer.jwk("k")]).await;
    let mut draft = draft(&json!({"jwt": [{
        "issuer": issuer.url, "audience": "orders",
        "claim_headers": {"x-user-email": "email", "x-user-level": "level"},
    }]}));
    let policy = "permit (principal, action, resource == route::\"/any\");";
    draft.policies = vec![("any".to_owned(), policy.to_owned())];
    let gate = both(&draft, &echo.url).await;
    let token = signer.token("k", &claims(&issuer, &json!({"email": "zoe@shop.example"})));
    let request = Original::new("GET", "/any")
        .with("authorization", &format!("Bearer {token}"))
        .with("x-user-email", "root@shop.example")
        .with("x-user-level", "9")
        .with("x_user_level", "9");
    for raw in [false, true] {
        let ok = ok(checked(&gate, &request, raw).await);
        assert_eq!(values(&ok.headers)["x-user-email"], "zoe@shop.example");
        let told = values(&ok.response_headers_to_add);
        assert!(!told.contains_key("x-user-email"), "callers are not told: {told:?}");
        let mut removed = ok.headers_to_remove;
        removed.sort_unstable();
        // A name that is set and removed would be removed.
        assert_eq!(removed, ["x-user-level", "x_user_level"]);
    }
    for text in [request.auth(), request.forward_auth(), request.ext_authz()] {
        let answer = asked(gate.check.unwrap(), &text).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.headers["x-user-email"], "zoe@shop.example");
        assert!(!answer.headers.contains_key("x-user-level"), "{answer:?}");
    }
}

/// An assertion is told to the proxy as the gate's own upstream gets it.
#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_is_told_to_the_proxy() {
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    draft.settings.assertion = true;
    let gate = both(&draft, &echo.url).await;
    let request = Original::new("GET", "/orders")
        .with("x-user", "alice")
        .with("keepgate-assertion", "forged.by.caller");
    let is_one = |text: &str| text.split('.').count() == 3 && text.starts_with("eyJ");
    let own = asked(gate.addr, &request.plain()).await;
    let mut lines = own.body.lines().filter_map(|line| line.split_once(": "));
    let (_, of_own) = lines.find(|(name, _)| *name == "keepgate-assertion").unwrap();
    assert!(is_one(of_own), "{own:?}");
    for raw in [false, true] {
        let ok = ok(checked(&gate, &request, raw).await);
        assert!(is_one(&values(&ok.headers)["keepgate-assertion"]), "{ok:?}");
        assert!(!ok.headers_to_remove.iter().any(|name| name == "keepgate-assertion"), "{ok:?}");
    }
    for text in [request.auth(), request.forward_auth(), request.ext_authz()] {
        let answer = asked(gate.check.unwrap(), &text).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(is_one(&answer.headers["keepgate-assertion"]), "{answer:?}");
    }
}
