//! Callers: users at a fixed rate, or a crawler that walks the orders one by one.
//!
//! Counts: `sent`, `ok` (200), `forbidden` (403 for who has no right, as it should be),
//! `wrong_forbidden` (403 for who has the right), `wrong_ok` (200 for who has none), `limited`
//! (429), `unavailable` (503), `other`, `lost` (no answer), `late` (not sent: the caller was
//! still waiting). Latencies are of answered requests.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};

use super::Epoch;
use super::second::Recorder;

/// A caller gives up on an answer after this.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who calls, and how much.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoadSpec {
    /// `users` or `crawler`.
    pub who: String,
    /// Where to.
    pub target: SocketAddr,
    /// The callers' addresses, used in turn.
    pub sources: Vec<IpAddr>,
    /// How many callers; each has a connection of its own and one request at a time.
    pub callers: u32,
    /// All callers together.
    pub requests_per_s: f64,
    /// Every so many-th caller has no right and must be refused; 0: all have it.
    pub guest_every: u32,
    /// All callers show this name, or, when empty, `u0`, `u1`, .. and, without a right, `guest19` and so on.
    pub identity: String,
    /// When second 0 begins.
    pub epoch: Epoch,
    /// First second of calls.
    pub begin_s: f64,
    /// Last second of calls.
    pub end_s: f64,
    /// Draws the phases of the callers.
    pub seed: u64,
}

/// Calls until the end and reports each second.
pub(super) async fn play(spec: LoadSpec) -> anyhow::Result<()> {
    anyhow::ensure!(!spec.sources.is_empty() && spec.callers > 0, "a load without callers");
    let recorder = Arc::new(Recorder::new(&spec.who, spec.epoch));
    let mut callers = Vec::new();
    for index in 0..spec.callers {
        let caller = Caller::new(&spec, index, Arc::clone(&recorder))?;
        callers.push(tokio::spawn(caller.call(spec.clone())));
    }
    recorder.speak(spec.end_s).await;
    for caller in callers {
        caller.abort();
    }
    Ok(())
}

struct Caller {
    index: u32,
    name: String,
    has_right: bool,
    source: IpAddr,
    recorder: Arc<Recorder>,
    connection: Option<SendRequest<Empty<Bytes>>>,
    order: u64,
}

impl Caller {
    fn new(spec: &LoadSpec, index: u32, recorder: Arc<Recorder>) -> anyhow::Result<Caller> {
        let guest = spec.guest_every > 0 && index % spec.guest_every == spec.guest_every - 1;
        let name = match (spec.identity.as_str(), guest) {
            ("", true) => format!("guest{index}"),
            ("", false) => format!("u{index}"),
            (name, _) => name.to_owned(),
        };
        let sources = u32::try_from(spec.sources.len()).context("too many sources")?;
        let source = spec.sources.get((index % sources) as usize).copied().context("no source")?;
        Ok(Caller {
            index,
            name,
            has_right: !guest,
            source,
            recorder,
            connection: None,
            order: u64::from(index) * 1_000_000,
        })
    }

    async fn call(mut self, spec: LoadSpec) {
        let period = f64::from(spec.callers) / spec.requests_per_s;
        // The callers' phases are spread evenly, and shuffled by the seed.
        let phase = splitmix(spec.seed ^ u64::from(self.index)) as f64 / u64::MAX as f64;
        let mut due = spec.begin_s + phase * period;
        while due < spec.end_s {
            spec.epoch.until(due).await;
            let began = Instant::now();
            self.recorder.count("sent");
            match tokio::time::timeout(PATIENCE, self.ask(spec.target)).await {
                Ok(Ok(status)) => {
                    self.recorder.latency(began.elapsed());
                    self.recorder.count(self.meaning(status));
                }
                Ok(Err(_)) | Err(_) => {
                    self.connection = None;
                    self.recorder.count("lost");
                }
            }
            due += period;
            // Who waited too long skips turns; a queue of its own would hide the wait.
            while due < spec.epoch.elapsed_s() - period {
                self.recorder.count("late");
                due += period;
            }
        }
    }

    fn meaning(&self, status: StatusCode) -> &'static str {
        match (status.as_u16(), self.has_right) {
            (200, true) => "ok",
            (200, false) => "wrong_ok",
            (403, true) => "wrong_forbidden",
            (403, false) => "forbidden",
            (429, _) => "limited",
            (503, _) => "unavailable",
            _ => "other",
        }
    }

    async fn ask(&mut self, target: SocketAddr) -> anyhow::Result<StatusCode> {
        let connection = match &mut self.connection {
            Some(connection) if !connection.is_closed() => connection,
            kept => kept.insert(connect(self.source, target).await?),
        };
        connection.ready().await?;
        self.order += 1;
        let request = Request::get(format!("/orders/{}", self.order))
            .header("host", "orders.test")
            .header("x-user", &self.name)
            .body(Empty::new())?;
        let response = connection.send_request(request).await?;
        let status = response.status();
        response.into_body().collect().await?;
        Ok(status)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "callers are outside of the product; they do not share its door"
)]
async fn connect(source: IpAddr, target: SocketAddr) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let socket = match source {
        IpAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        IpAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    socket.bind(SocketAddr::new(source, 0))?;
    let stream = socket.connect(target).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// The output function of SplitMix64 (Steele, Lea, Flood 2014).
fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
