//! Envoy's rate limit service over the limits of the gate: no decision, only what is left.

use super::cases::Who;
use super::outcome::{Told, send};
use super::proxies::{Proxy, Way};
use super::stage::Stage;
use crate::harness::{eventually, skipped};

fn ask(proxy: &Proxy, key: Option<&str>, path: &str) -> Told {
    let key = key.map(|key| format!("X-Api-Key: {key}\r\n")).unwrap_or_default();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n{key}Connection: close\r\n\r\n");
    send(proxy.address, Way::EnvoyRateLimit.caller(), request.as_bytes())
}

#[test]
fn envoy_refuses_what_is_above_the_limits_of_the_gate() {
    let way = Way::EnvoyRateLimit;
    let stage = Stage::start(&[way]);
    let scene = &stage.scene;
    let proxy = match Proxy::start(way, scene.check, scene.upstream.address) {
        Ok(proxy) => proxy,
        Err(missing) => return skipped(missing),
    };
    proxy.ready();
    let (reader, writer) = (scene.key(Who::Reader, way), scene.key(Who::Writer, way));

    // The plan of the key: three for each.
    for key in [reader, writer] {
        for _ in 0..3 {
            let told = ask(&proxy, key, "/quota?q");
            assert_eq!(told.status, 200, "{told:?}");
        }
        let told = ask(&proxy, key, "/quota");
        assert_eq!(told.status, 429, "{told:?}");
        assert!(told.header("retry-after").is_some(), "{told:?}");
        let left = told.header("x-ratelimit-remaining");
        assert_eq!(left, Some("0"), "{told:?}");
        // Another route has another limit, or none.
        assert_eq!(ask(&proxy, key, "/orders").status, 200);
    }
    // By address, also without a key.
    assert_eq!(ask(&proxy, None, "/by-address").status, 200);
    assert_eq!(ask(&proxy, None, "/by-address").status, 429);

    // Without a gate: 503, and nothing is forwarded without a limit.
    stage.gate.process.send(libc::SIGKILL);
    eventually("the gate is gone", || {
        let told = ask(&proxy, reader, "/orders");
        assert!(matches!(told.status, 200 | 503), "{told:?}");
        (told.status == 503).then_some(())
    });
    stage.center.process.stop();
}
