//! Where a way to the application has another outcome than the gate itself, and why. The same table is
//! in `docs/integrations.md`; a row that is no longer true fails the test.

use super::outcome::Outcome::{self, CannotDecide, Other, Reached, Refused};
use super::proxies::Way::{self, Caddy, EnvoyGrpc, EnvoyHttp, Haproxy, Nginx, Traefik};

/// Cases, the ways in which they differ, and the outcome there.
pub(super) struct Difference {
    pub(super) why: &'static str,
    pub(super) ways: &'static [Way],
    pub(super) cases: &'static [&'static str],
    pub(super) outcome: Outcome,
}

pub(super) const DIFFERENCES: &[Difference] = &[
    Difference {
        why: "the proxy forwards the path as it came, so a path that is not in the form that was \
              decided on is 400; the gate itself, and Envoy over gRPC, forward the decided form",
        ways: &[EnvoyHttp, Nginx, Caddy, Haproxy, Traefik],
        cases: &[
            "slash-double",
            "slash-leading",
            "dots",
            "dots-encoded",
            "dots-single",
            "dots-to-secret",
            "unreserved-escaped",
            "unreserved-secret",
            "hex-lower",
        ],
        outcome: Refused,
    },
    Difference {
        why: "the same; Caddy percent-encodes these bytes before it asks, and forwards them so",
        ways: &[EnvoyHttp, Nginx, Haproxy, Traefik],
        cases: &["pipe", "raw-utf8"],
        outcome: Refused,
    },
    Difference {
        why: "Envoy itself refuses raw bytes beyond ASCII with 400",
        ways: &[EnvoyGrpc],
        cases: &["raw-utf8"],
        outcome: Refused,
    },
    Difference {
        why: "in its HTTP mode, Envoy shows its `status_on_error` for each 5xx of the gate, also for \
              a 501",
        ways: &[EnvoyHttp],
        cases: &["trace", "propfind"],
        outcome: CannotDecide,
    },
    Difference {
        why: "Envoy removes `Connection` before it asks, and does not follow it: what it names \
              arrives, the identity too",
        ways: &[EnvoyGrpc, EnvoyHttp],
        cases: &["connection", "connection-key"],
        outcome: Reached,
    },
    Difference {
        why: "Caddy answers `OPTIONS *` with 200 itself, and neither asks nor forwards",
        ways: &[Caddy],
        cases: &["options-star"],
        outcome: Other(200),
    },
];

/// What a case must come to on a way.
pub(super) fn expected(way: Way, case: &str, gate: Outcome) -> Outcome {
    let found = DIFFERENCES.iter().find(|row| row.ways.contains(&way) && row.cases.contains(&case));
    found.map_or(gate, |row| row.outcome)
}
