//! Nobody can tell: no permissions yet, permissions too old, a gate that stands still or is gone.
//! Callers get 503, and never a 403, which would mean that they were denied.

use std::net::SocketAddr;

use super::cases::Who;
use super::outcome::{Told, send};
use super::proxies::{PROXIES, Proxy, Way};
use super::relay::Relay;
use super::stage::{Gate, Scene, Stage};
use crate::harness::{eventually, skipped};

/// A way and its address.
#[derive(Clone, Copy)]
struct Place {
    way: Way,
    address: SocketAddr,
}

impl Place {
    fn ask(self, scene: &Scene, who: Who, method: &str, path: &str) -> Told {
        let key = scene.key(who, self.way).unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: shop.example\r\nX-Api-Key: {key}\r\n\
             Connection: close\r\n\r\n"
        );
        send(self.address, self.way.caller(), request.as_bytes())
    }

    /// 503, and when to come back where the way can say it.
    fn cannot_decide(self, told: &Told, when: &str, gate_answers: bool) {
        assert_eq!(told.status, 503, "{}, {when}: {told:?}", self.way.name());
        // Envoy drops the headers of a 5xx in its HTTP mode, and writes none of its own where the
        // gate does not answer; no setting changes that.
        let says_when = match self.way {
            Way::EnvoyHttp => false,
            Way::EnvoyGrpc => gate_answers,
            _ => true,
        };
        let retry = told.header("retry-after").and_then(|value| value.parse::<u32>().ok());
        assert_eq!(retry.is_some(), says_when, "{}, {when}: {told:?}", self.way.name());
    }
}

/// Every place must say 503 to who is allowed and to who is denied. All at once: some wait.
fn all_cannot_decide(places: &[Place], scene: &Scene, path: &str, when: &str, gate_answers: bool) {
    std::thread::scope(|scope| {
        for place in places {
            for who in [Who::Reader, Who::Writer] {
                scope.spawn(move || {
                    let told = place.ask(scene, who, "GET", path);
                    place.cannot_decide(&told, when, gate_answers);
                });
            }
        }
    });
}

#[test]
fn where_nobody_can_tell_every_way_says_503() {
    let all = [&[Way::Gate][..], &PROXIES].concat();
    let stage = Stage::start(&all);
    let (scene, upstream) = (&stage.scene, stage.scene.upstream.address);
    // A gate whose center was never there has no permissions.
    let empty = Gate::start(&stage.scratch, "http://127.0.0.1:9", upstream);
    let mut proxies = Vec::new();
    for way in PROXIES {
        let relay = Relay::to(empty.check);
        match Proxy::start(way, relay.address, upstream) {
            Ok(proxy) => proxies.push((Place { way, address: proxy.address }, proxy, relay)),
            Err(missing) => skipped(missing),
        }
    }
    proxies.iter().for_each(|(_, proxy, _)| proxy.ready());
    let mut places: Vec<Place> = proxies.iter().map(|(place, ..)| *place).collect();
    all_cannot_decide(&places, scene, "/orders", "without permissions", true);
    empty.process.stop_but(&["the center"]);

    proxies.iter().for_each(|(.., relay)| relay.lead(scene.check));
    places.push(Place { way: Way::Gate, address: scene.gate });
    for place in &places {
        // The first may meet a connection to the gate before.
        eventually("the other gate is asked", || {
            (place.ask(scene, Who::Reader, "GET", "/young").status == 200).then_some(())
        });
        assert_eq!(place.ask(scene, Who::Writer, "GET", "/young").status, 403);
    }

    stage.center.process.send(libc::SIGKILL);
    for place in &places {
        eventually("permissions are too old", || {
            let status = place.ask(scene, Who::Reader, "GET", "/young").status;
            assert!(matches!(status, 200 | 503), "{}: {status}", place.way.name());
            (status == 503).then_some(())
        });
    }
    all_cannot_decide(&places, scene, "/young", "with permissions that are too old", true);
    // Where an hour is young enough, all is as before.
    for place in &places {
        assert_eq!(place.ask(scene, Who::Reader, "GET", "/orders").status, 200);
        assert_eq!(place.ask(scene, Who::Reader, "DELETE", "/orders/7").status, 403);
    }

    // From here on the gate itself says nothing.
    places.pop();
    stage.gate.process.freeze();
    all_cannot_decide(&places, scene, "/orders", "while the gate stands still", false);
    stage.gate.process.send(libc::SIGKILL);
    all_cannot_decide(&places, scene, "/orders", "while the gate closes connections", false);
    proxies.iter().for_each(|(.., relay)| relay.stop());
    all_cannot_decide(&places, scene, "/orders", "without a gate", false);
}
