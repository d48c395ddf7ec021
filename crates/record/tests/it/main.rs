//! The log as its users have it: what is written, what is lost, what is found out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking"
)]

mod lines;
mod tampering;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use keepgate_record::{Draft, Ended, Outcome};

/// A directory of its own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("keepgate-record-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn log(&self) -> PathBuf {
        self.0.join("access.log")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A record about a request of this name.
fn draft(request_id: &str) -> Draft<'_> {
    Draft {
        unix_ms: 1_795_757_400_123,
        request_id,
        trace_id: "",
        gate: "gate-1",
        site: "",
        service: "orders",
        principal: Some(&"user::\"alice\""),
        identified_by: "api_key",
        address: Some(std::net::Ipv4Addr::LOCALHOST.into()),
        method: "GET",
        host: "shop.example",
        route: "/orders/{id}",
        path: "/orders/7",
        query: Some("a=1"),
        action: Some(&"Action::\"GET\""),
        resource: Some(&"route::\"/orders/{id}\""),
        outcome: Outcome::Allowed,
        reason: "",
        status: 200,
        policies: &[],
        revision: Some(7),
        age_ms: Some(12),
        decide_ns: Some(800),
        upstream_us: Some(1_000),
        upstream_address: "127.0.0.1:3000",
        reused: Some(true),
        inputs: None,
        referer: "",
        user_agent: "curl/8",
        version: "HTTP/1.1",
    }
}

const ENDED: Ended = Ended { bytes_in: 1, bytes_out: 2, total_us: 3 };

/// Waits until it is so.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The lines of all files of a log.
fn lines(path: &Path) -> Vec<String> {
    let files = keepgate_record::files::list(path).unwrap();
    let mut lines = Vec::new();
    for file in files {
        let text = std::io::read_to_string(file.open().unwrap()).unwrap();
        lines.extend(text.lines().map(str::to_owned));
    }
    lines
}
