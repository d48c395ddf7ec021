//! Tokens, key sets and secrets of any bytes: no panic, and nothing made up ever verifies.
#![no_main]

use keepgate_gate::identify::jwks::KeySet;
use keepgate_gate::identify::jwt::Unverified;
use keepgate_policy::identify::{Algorithm, JwtIssuer, KeySource};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &[u8])| {
    let (token, keys) = input;
    let own = KeySet::from_jwks(keys).ok();
    let secret = KeySet::from_secret(keys).ok();
    let known = KeySet::from_jwks(
        br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"e",
            "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#,
    );
    let Ok(unverified) = Unverified::parse(token) else { return };
    let issuer = JwtIssuer {
        issuer: unverified.issuer().unwrap_or_default().to_owned(),
        audiences: vec!["orders".to_owned()],
        keys: KeySource::JwksFile(String::new()),
        algorithms: vec![Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa, Algorithm::Hs256],
        principal_type: "user".to_owned(),
        principal_claim: "sub".to_owned(),
        leeway_s: 30,
        certificate_bound: false,
    };
    for keys in [own, secret].into_iter().flatten() {
        let _ = unverified.verify(&issuer, &keys, 1_700_000_000);
    }
    if let Ok(known) = known {
        assert!(unverified.verify(&issuer, &known, 1_700_000_000).is_err());
    }
});
