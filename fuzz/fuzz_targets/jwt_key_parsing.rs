//! Tokens, key sets, secrets, claims and issuers' documents of any bytes: no panic, and nothing made up
//! ever verifies.
#![no_main]

use keepgate_gate::identify::claims::{MAX_ROLES, said};
use keepgate_gate::identify::discovery;
use keepgate_gate::identify::jwks::KeySet;
use keepgate_gate::identify::jwt::Unverified;
use keepgate_policy::identify::{Algorithm, ClaimUses, JwtIssuer, KeySource};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &[u8])| {
    let (token, keys) = input;
    let own = KeySet::from_jwks(keys).ok();
    let secret = KeySet::from_secret(keys).ok();
    let known = KeySet::from_jwks(
        br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"e",
            "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#,
    );
    let _ = discovery::read("https://id.example", keys);
    if let Ok(serde_json::Value::Object(claims)) = keepgate_policy::json::parse(keys) {
        let Ok(issuer) = serde_json::from_str::<JwtIssuer>(
            r#"{"issuer":"https://i","audience":"a","claims":true,
                "roles_from":["groups","a.b","scope"],"role_prefix":"p:",
                "attributes_from":{"x":"x"},"claim_headers":{"x-y":"y"}}"#,
        ) else {
            return;
        };
        if let Ok(Some(said)) = said(&issuer.uses, &claims) {
            assert!(said.roles.len() <= MAX_ROLES);
            assert!(said.roles.iter().all(|role| role.id.starts_with("p:")));
        }
    }
    let Ok(unverified) = Unverified::parse(token, 16 * 1024) else { return };
    let issuer = JwtIssuer {
        issuer: unverified.issuer().unwrap_or_default().to_owned(),
        audiences: vec!["orders".to_owned()],
        keys: KeySource::JwksFile(String::new()),
        algorithms: Algorithm::ALL.to_vec(),
        principal_type: "user".to_owned(),
        principal_claim: "sub".to_owned(),
        leeway_s: 30,
        certificate_bound: false,
        uses: ClaimUses::default(),
    };
    for keys in [own, secret].into_iter().flatten() {
        let _ = unverified.verify(&issuer, &keys, 1_700_000_000);
    }
    if let Ok(known) = known {
        assert!(unverified.verify(&issuer, &known, 1_700_000_000).is_err());
    }
});
