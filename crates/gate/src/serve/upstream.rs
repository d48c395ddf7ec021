//! An upstream as the gate uses it: its addresses, what is said of them, and its metrics.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use keepgate_client::dial::Dialer;
use keepgate_client::pool::{Group, GroupConfig, GroupEvent, GroupStats};
use keepgate_observe::{Page, Sort};

use super::failure::StartError;
use super::front::Front;
use crate::message::body::CallerBody;
use crate::phase::worker::Backend;

/// How long a start waits for names; those that take longer are looked up for each connection until
/// they are known.
const FIRST_LOOKUP: Duration = Duration::from_secs(2);

/// An upstream whose changes are logged. `name`: as in `[upstream.NAME]`; empty: the only one.
pub(crate) fn group(
    name: &str,
    dialer: Dialer,
    mut config: GroupConfig,
) -> Result<Group<CallerBody>, StartError> {
    let table = table(name);
    let upstream = name.to_owned();
    config.on_event = Some(Arc::new(move |event| say(&upstream, event)));
    Group::new(dialer, config).map_err(|source| StartError::Group { table, source })
}

/// The upstream of this name, as whoever configured it knows it.
pub(crate) fn table(name: &str) -> String {
    match name {
        "" => "--upstream".to_owned(),
        name => format!("[upstream.{name}]"),
    }
}

/// Looks up the names of all upstreams.
pub(crate) async fn look_up(backends: &[Arc<Backend>]) {
    let all = join_all(backends.iter().map(|backend| backend.upstream.refresh()));
    let _ = tokio::time::timeout(FIRST_LOOKUP, all).await;
}

/// Follows the names of all upstreams, and checks their addresses. Runs until it is dropped.
pub(crate) async fn watch(front: Arc<Front>) {
    loop {
        let live = front.common.live.load_full();
        let all = async {
            join_all(live.backends.iter().map(|backend| backend.upstream.clone().watch())).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = all => (),
            () = front.common.relived.notified() => (),
        }
    }
}

fn say(upstream: &str, event: &GroupEvent) {
    match event {
        GroupEvent::Ejected { address, connect, lasts } => {
            let failed = if *connect { "connects" } else { "requests" };
            tracing::info!(
                upstream,
                %address,
                ?lasts,
                "an address of the upstream is left out: {failed} failed in a row"
            );
        }
        GroupEvent::Returned { address } => {
            tracing::info!(upstream, %address, "an address of the upstream is in use again");
        }
        GroupEvent::Down { address } => {
            tracing::info!(upstream, %address, "an address of the upstream is left out: its checks fail");
        }
        GroupEvent::Up { address } => {
            tracing::info!(upstream, %address, "an address of the upstream is in use again: its checks pass");
        }
        GroupEvent::Moved { host, addresses, left_out: 0 } => {
            tracing::info!(upstream, %host, addresses, "a name of the upstream leads to other addresses");
        }
        GroupEvent::Moved { host, addresses, left_out } => {
            tracing::warn!(
                upstream,
                %host,
                addresses,
                left_out,
                "a name of the upstream leads to more addresses than are used"
            );
        }
        GroupEvent::NameFailed { host, error } => {
            tracing::warn!(
                upstream,
                %host,
                error,
                "a name of the upstream cannot be looked up; its last addresses stay"
            );
        }
    }
}

/// A row of the metrics page: name, kind, help, and where its value is.
type Row = (&'static str, Sort, &'static str, fn(&GroupStats) -> u64);

const ROWS: &[Row] = &[
    ("opened_total", Sort::Counter, "Connections that were opened.", |s| s.all.opened),
    ("open_failures_total", Sort::Counter, "Connections that could not be opened.", |s| {
        s.all.open_failures
    }),
    (
        "ports_exhausted_total",
        Sort::Counter,
        "Of these, because no local port or descriptor was free.",
        |s| s.all.ports_exhausted,
    ),
    ("requests_total", Sort::Counter, "Requests put on a connection.", |s| s.all.requests),
    (
        "reused_total",
        Sort::Counter,
        "Of these, on a connection that had carried a request before.",
        |s| s.all.reused,
    ),
    ("retries_total", Sort::Counter, "Requests sent a second time.", |s| s.all.retries),
    (
        "retries_refused_total",
        Sort::Counter,
        "Requests that were not sent a second time, because too many had been.",
        |s| s.all.retries_refused,
    ),
    ("queued_total", Sort::Counter, "Requests that waited for a connection.", |s| s.all.queued),
    ("queue_full_total", Sort::Counter, "Requests refused or displaced by a full queue.", |s| {
        s.all.queue_full
    }),
    (
        "queue_timeouts_total",
        Sort::Counter,
        "Requests that waited for a connection and got none in time.",
        |s| s.all.queue_timeouts,
    ),
    ("connections_open", Sort::Gauge, "Sockets, with those being opened.", |s| wide(s.all.open)),
    ("connections_idle", Sort::Gauge, "Connections that are idle.", |s| wide(s.all.idle)),
    ("connections_limit", Sort::Gauge, "Sockets that are allowed.", |s| wide(s.all.limit)),
    ("queue_waiting", Sort::Gauge, "Requests that wait for a connection.", |s| wide(s.all.waiting)),
    (
        "addresses_short",
        Sort::Gauge,
        "Addresses toward which nothing is opened now, because ports are short.",
        |s| wide(s.all.short),
    ),
    ("addresses", Sort::Gauge, "Addresses of the upstream.", |s| wide(s.addresses)),
    (
        "addresses_ejected",
        Sort::Gauge,
        "Of these, left out because requests to them failed.",
        |s| wide(s.ejected),
    ),
    ("addresses_down", Sort::Gauge, "Of these, left out because their checks fail.", |s| {
        wide(s.down)
    }),
    ("panic", Sort::Gauge, "Whether all addresses are left out, and so all are used.", |s| {
        u64::from(s.panic)
    }),
    (
        "panic_requests_total",
        Sort::Counter,
        "Requests sent while all addresses were left out.",
        |s| s.panics,
    ),
    ("ejections_total", Sort::Counter, "Times that an address was left out.", |s| s.ejections),
    ("failovers_total", Sort::Counter, "Times that a request went on to another address.", |s| {
        s.failovers
    }),
    ("checks_failed_total", Sort::Counter, "Checks of an address that failed.", |s| {
        s.checks_failed
    }),
    ("lookups_total", Sort::Counter, "Times that a name was looked up.", |s| s.lookups),
    ("lookups_failed_total", Sort::Counter, "Of these, without an answer.", |s| s.lookups_failed),
    (
        "name_changes_total",
        Sort::Counter,
        "Times that a name led to other addresses than before.",
        |s| s.moves,
    ),
];

/// One line for each upstream; the only one has no name.
pub(crate) fn metrics(backends: &[Arc<Backend>], page: &mut Page) {
    let all: Vec<(&str, GroupStats)> =
        backends.iter().map(|backend| (&*backend.name, backend.upstream.stats())).collect();
    for (name, sort, help, of) in ROWS {
        let name = format!("upstream_{name}");
        let mut series = page.metric(*sort, &name, help);
        for (upstream, stats) in &all {
            let label = [("upstream", *upstream)];
            series.line(if upstream.is_empty() { &[] } else { &label }, of(stats));
        }
    }
    let help = "Requests for each connection opened, so far.";
    let mut series = page.metric(Sort::Gauge, "upstream_requests_per_connection", help);
    for (upstream, stats) in &all {
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        let ratio = stats.all.requests as f64 / stats.all.opened.max(1) as f64;
        let label = [("upstream", *upstream)];
        let labels: &[(&str, &str)] = if upstream.is_empty() { &[] } else { &label };
        series.line(labels, format_args!("{ratio:.3}"));
    }
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
