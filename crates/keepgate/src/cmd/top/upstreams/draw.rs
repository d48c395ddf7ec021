//! The screen of `keepgate top upstreams`: reuse of connections first, then ports, then what else the
//! gate opens connections for.

use keepgate_gate::{BucketSeen, PortsAnswer, UpstreamPorts};

use crate::style::{Paint, Table, count};

/// Only ports are left that the gate leaves to others.
pub(super) fn is_short(bucket: &BucketSeen) -> bool {
    bucket.free <= bucket.reserve
}

pub(super) fn screen(answer: &PortsAnswer, paint: Paint) -> String {
    let mut screen = String::new();
    let mut table = Table::new(&[
        "upstream",
        "requests",
        "reused",
        "per connection",
        "opens/s",
        "open",
        "idle",
        "limit",
        "waiting",
    ]);
    for one in &answer.upstreams {
        table.row([
            name(one),
            count(one.requests),
            reused(one),
            per_connection(one),
            one.opens_per_s.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}")),
            count(one.open),
            count(one.idle),
            count(one.limit),
            count(one.waiting),
        ]);
    }
    screen += &table.render(paint);
    let mut table = Table::new(&["from", "to", "ports free", "of", "kept back", ""]);
    let mut has_buckets = false;
    for bucket in answer.upstreams.iter().flat_map(|one| &one.buckets) {
        has_buckets = true;
        let word = if is_short(bucket) { paint.bad("SHORT") } else { String::new() };
        table.row([
            bucket.src.to_string(),
            bucket.dst.to_string(),
            count(bucket.free.into()),
            count(bucket.usable.into()),
            count(bucket.reserve.into()),
            word,
        ]);
    }
    screen += "\n";
    match has_buckets {
        true => screen += &table.render(paint),
        false => screen += "no upstream needs ports, or none was looked at yet\n",
    }
    let mut table = Table::new(&["connections for", "made", "set aside", "no port", "failed"]);
    for one in &answer.dials {
        table.row([
            one.purpose.clone(),
            count(one.connected),
            count(one.aside),
            count(one.ports_exhausted),
            count(one.failed),
        ]);
    }
    screen += "\n";
    screen += &table.render(paint);
    if let Some(short) = answer.upstreams.iter().flat_map(|one| &one.buckets).find(|b| is_short(b))
    {
        screen += &format!("\nwho has the ports: keepgate doctor --to {}\n", short.dst);
    }
    screen
}

fn name(one: &UpstreamPorts) -> String {
    if one.upstream.is_empty() { "(the only one)".to_owned() } else { one.upstream.clone() }
}

fn reused(one: &UpstreamPorts) -> String {
    if one.requests == 0 {
        return "-".to_owned();
    }
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let ratio = one.reused as f64 / one.requests as f64;
    // Rounded down: 100 % is all of them.
    format!("{:.2} %", (ratio * 10_000.0).floor() / 100.0)
}

fn per_connection(one: &UpstreamPorts) -> String {
    match one.requests.checked_div(one.opened) {
        Some(n) => count(n),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use keepgate_gate::DialsOf;

    use super::*;

    #[test]
    fn reuse_and_room_are_shown() {
        let bucket = |free| BucketSeen {
            src: "10.0.0.1".parse().unwrap(),
            dst: "10.0.0.2:8443".parse().unwrap(),
            usable: 50,
            free,
            reserve: 3,
        };
        let one = UpstreamPorts {
            upstream: "orders".to_owned(),
            requests: 100_000,
            reused: 99_999,
            opened: 1,
            opens_per_s: Some(0.25),
            open: 1,
            idle: 1,
            limit: 25,
            waiting: 0,
            buckets: vec![bucket(2)],
        };
        let dials = DialsOf {
            purpose: "center".to_owned(),
            connected: 3,
            aside: 1,
            ports_exhausted: 1,
            failed: 1,
        };
        let mut answer = PortsAnswer {
            upstreams: vec![one, UpstreamPorts::default()],
            dials: vec![dials],
            ..PortsAnswer::default()
        };
        let screen = screen(&answer, Paint::plain());
        for word in ["orders", "99.99 %", "100,000", "(the only one)", "SHORT", "center"] {
            assert!(screen.contains(word), "{word} is not in:\n{screen}");
        }
        assert!(screen.ends_with("keepgate doctor --to 10.0.0.2:8443\n"), "{screen}");
        answer.upstreams[0].buckets = vec![bucket(4)];
        assert!(!super::screen(&answer, Paint::plain()).contains("SHORT"));
    }
}
