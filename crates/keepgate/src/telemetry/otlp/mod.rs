//! The thread that sends by OTLP over gRPC, and its queues.
//!
//! It has a runtime of its own, so that neither a busy nor a small runtime of the program delays it,
//! nor it them. Spans and log lines are exported by the official crates; metrics are read from the
//! pages that `/metrics` shows, and sent as the official protocol's messages.

mod channel;
pub(crate) mod lines;
mod metrics;
mod origin;
mod said;
pub(crate) mod settings;
mod spans;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use keepgate_observe::span::{Lost, Tracing};
use keepgate_observe::{Counter, Dialect};
use tokio::sync::{mpsc, watch};

use self::metrics::Page;
use self::said::Said;
use self::settings::{Batches, Settings};

/// For what is left at the end.
const LAST: Duration = Duration::from_secs(3);

/// Sends until it is dropped; then what is left, within [`LAST`].
pub(crate) struct Sender {
    pages: Arc<Mutex<Vec<Page>>>,
    stop: watch::Sender<bool>,
    ended: std::sync::mpsc::Receiver<()>,
}

impl Sender {
    pub(super) fn show(&self, page: impl Fn(Dialect) -> Option<String> + Send + Sync + 'static) {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(page));
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        // Its end, also by a panic, drops the other side.
        let _ = self.ended.recv_timeout(LAST + LAST / 4);
    }
}

/// Begins to send what the settings name.
pub(super) fn start(
    settings: Settings,
    program: &'static str,
) -> anyhow::Result<(Sender, Option<Tracing>, Arc<Lost>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a runtime")?;
    let lost: Arc<Lost> = Arc::default();
    let pages: Arc<Mutex<Vec<Page>>> = Arc::default();
    let (stop, stopped) = watch::channel(false);
    let resource = origin::resource(program);
    let entered = runtime.enter();
    let mut tracing = None;
    let spans = match &settings.traces {
        None => None,
        Some(receiver) => {
            let (sink, queue) = spans::queue(settings.spans, Arc::clone(&lost));
            tracing = Some(Tracing { sampler: settings.sampler, sink });
            Some((spans::exporter(channel::open(receiver)?, &resource)?, queue))
        }
    };
    let lines = match &settings.logs {
        None => None,
        Some(receiver) => {
            let queue = lines::queue(settings.lines, Arc::clone(&lost));
            Some((lines::exporter(channel::open(receiver)?, &resource)?, queue))
        }
    };
    let points = match &settings.metrics {
        None => None,
        Some(receiver) => {
            Some(metrics::Points::new(channel::open(receiver)?, receiver, &resource)?)
        }
    };
    drop(entered);
    let (ends, ended) = std::sync::mpsc::sync_channel::<()>(0);
    let (counts, shown) = (Arc::clone(&lost), Arc::clone(&pages));
    let work = move || {
        lines::not_of_this_thread();
        let _ends = ends;
        let mut leaving = stopped.clone();
        runtime.block_on(async {
            let spans = async {
                let Some((exporter, queue)) = spans else { return };
                let send = async |batch| spans::send(&exporter, batch).await;
                forward(queue, settings.spans, stopped.clone(), &counts.spans, "spans", send).await;
            };
            let lines = async {
                let Some((exporter, queue)) = lines else { return };
                let send = async |batch| lines::send(&exporter, batch).await;
                forward(queue, settings.lines, stopped.clone(), &counts.logs, "log lines", send)
                    .await;
            };
            let points = async {
                let Some(points) = points else { return };
                points.run(&shown, settings.metrics_every, stopped.clone(), &counts.metrics).await;
            };
            let late = async {
                let _ = leaving.wait_for(|stops| *stops).await;
                tokio::time::sleep(LAST).await;
            };
            tokio::select! {
                _ = async { tokio::join!(spans, lines, points) } => {}
                () = late => {}
            }
        });
        // A name that is being looked up may hold one of its threads.
        runtime.shutdown_background();
    };
    std::thread::Builder::new()
        .name("telemetry".to_owned())
        .spawn(work)
        .context("starting a thread")?;
    Ok((Sender { pages, stop, ended }, tracing, lost))
}

/// Sends a queue in batches until told to stop, then what is left of it. What is not taken is counted.
async fn forward<T>(
    mut queue: mpsc::Receiver<T>,
    batches: Batches,
    mut stop: watch::Receiver<bool>,
    lost: &Counter,
    what: &str,
    send: impl AsyncFn(Vec<T>) -> Result<(), String>,
) {
    let mut said = Said::of(what);
    loop {
        let mut batch = Vec::new();
        tokio::select! {
            one = queue.recv() => match one {
                Some(one) => batch.push(one),
                None => return,
            },
            _ = stop.wait_for(|stops| *stops) => break,
        }
        let mut due = std::pin::pin!(tokio::time::sleep(batches.delay));
        let mut stops = false;
        while batch.len() < batches.most && !stops {
            tokio::select! {
                biased;
                n = queue.recv_many(&mut batch, batches.most) => stops = n == 0,
                _ = stop.wait_for(|stops| *stops) => stops = true,
                () = &mut due => break,
            }
        }
        deliver(batch, lost, &mut said, &send).await;
        if stops {
            break;
        }
    }
    queue.close();
    loop {
        let mut batch = Vec::new();
        if queue.recv_many(&mut batch, batches.most).await == 0 {
            return;
        }
        deliver(batch, lost, &mut said, &send).await;
    }
}

async fn deliver<T>(
    batch: Vec<T>,
    lost: &Counter,
    said: &mut Said<'_>,
    send: &impl AsyncFn(Vec<T>) -> Result<(), String>,
) {
    let n = batch.len() as u64;
    let sent = send(batch).await;
    if sent.is_err() {
        lost.add(n);
    }
    said.note(sent);
}
