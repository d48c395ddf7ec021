//! What is known of an hour, and its bounds.

use super::*;

const NOW: u64 = 60 * 1_000_000;

fn span(of: Of, requests: u64) -> Span {
    let counts = Counts { requests, limited: requests / 2, ..Counts::default() };
    Span { of, counts, is_told: true }
}

fn service(hours: &Hours, now: u64, name: &str, requests: u64) {
    hours.close(now, false, [span(Of::service(name), requests)]);
}

#[test]
fn a_minute_is_what_its_spans_saw_and_an_hour_is_kept() {
    let hours = Hours::default();
    for tens in 0..6 {
        service(&hours, NOW + 10 * tens, "a", 60);
    }
    for tens in 12..15 {
        service(&hours, NOW + 10 * tens, "a", 30);
    }
    let known = hours.of("a", NOW + 155);
    assert_eq!(known.requests.points.len(), MINUTES);
    assert_eq!(known.requests.points[MINUTES - 3..], [Some(6.0), None, Some(3.0)]);
    assert_eq!(known.limited.points[MINUTES - 3..], [Some(3.0), None, Some(1.5)]);
    assert_eq!((known.requests.sum, known.minutes), (Some(450), 2));
    // A minute that has just begun, and one that nobody was heard in.
    assert_eq!(hours.of("a", NOW + 181).requests.points[MINUTES - 1], Some(3.0));
    assert_eq!(hours.of("a", NOW + 241).requests.points[MINUTES - 1], None);
    // A gate that does not tell what came of its requests.
    let untold = Span { is_told: false, ..span(Of::service("c"), 7) };
    hours.close(NOW + 240, false, [untold]);
    let known = hours.of("c", NOW + 245);
    assert_eq!((known.requests.sum, known.denied.sum), (Some(7), None));
    assert!(hours.limits("c", NOW + 245).is_none());
    // After an hour all of it is gone.
    assert_eq!(hours.of("a", NOW + 2 * 3_600).requests.sum, None);
    assert_eq!(hours.of("b", NOW).requests.sum, None);
}

#[test]
fn limits_are_known_where_the_service_is() {
    let hours = Hours::default();
    assert!(hours.limits("a", NOW).is_none());
    hours.close(NOW, false, [span(Of::service("a"), 9), span(Of::limit("a", "per-key"), 8)]);
    hours.close(NOW + 10, false, [span(Of::limit("a", "per-key"), 2)]);
    let did = hours.limits("a", NOW + 20).unwrap();
    assert_eq!(did["per-key"], LimitDid { requests: 10, refused: 5 });
    assert_eq!(did.len(), 1);
}

#[test]
fn services_and_limits_are_bounded_and_traffic_has_its_place() {
    let hours = Hours::default();
    let all = (0..SERVICES).map(|n| span(Of::service(&format!("s{n}")), 0));
    hours.close(NOW, false, all);
    service(&hours, NOW, "idle", 0);
    assert_eq!(hours.of("idle", NOW).requests.sum, None);
    service(&hours, NOW, "busy", 5);
    assert_eq!(hours.of("busy", NOW).requests.sum, Some(5));
    assert_eq!(hours.lock().services, SERVICES);
    // Limits beyond what is kept: what they did is not known, rather than nothing.
    let all = (0..=ALL_LIMITS).map(|n| span(Of::limit("busy", &format!("l{n}")), 2));
    hours.close(NOW, false, all);
    assert_eq!(hours.lock().series.len(), SERVICES + ALL_LIMITS);
    assert!(hours.limits("busy", NOW).is_none());
    hours.lock().forget(NOW, |service| service == "busy");
    assert_eq!(hours.lock().services, 1);
}

fn heard(now: u64, others: u64) -> HourHeard {
    HourHeard { store_unix_ms: now * 1000, others, ..HourHeard::default() }
}

/// While the store is away and others run, what is not known is a gap, and right again after.
#[test]
fn without_the_store_the_sum_of_all_centers_is_not_known() {
    for (others, is_known) in [(0, true), (1, false)] {
        let hours = Hours::default();
        let close = |now| hours.close(now, true, [span(Of::service("a"), 10)]);
        close(NOW);
        assert_eq!(hours.of("a", NOW).requests.sum, None, "the store was never heard");
        hours.exchange(NOW, |_, _| Ok(Some(heard(NOW, others)))).unwrap();
        for tens in 1..13 {
            close(NOW + 10 * tens);
            let away = StoreError::Database { doing: "connecting", source: "it is away".into() };
            let mut away = Some(away);
            hours.exchange(NOW, |_, _| Err(away.take().unwrap())).unwrap_err();
        }
        let last = |now| *hours.of("a", now).requests.points.last().unwrap();
        assert_eq!(last(NOW + 125).is_some(), is_known);
        let mut written = 0;
        hours
            .exchange(NOW + 126, |rows, _| {
                written += rows.len();
                Ok(Some(heard(NOW + 126, others)))
            })
            .unwrap();
        assert_eq!(written, 12);
        assert_eq!(hours.of("a", NOW + 126).requests.sum, Some(130));
    }
}

#[test]
fn what_waits_for_the_store_is_bounded() {
    let hours = Hours::default();
    let services = 600;
    for tens in 0..361 {
        let all = (0..services).map(|n| span(Of::service(&format!("s{n}")), 1));
        hours.close(NOW + 10 * tens, true, all);
    }
    assert_eq!(hours.lock().waiting.len(), WAITING);
    let mut sizes = Vec::new();
    hours
        .exchange(NOW, |rows, _| {
            sizes.push(rows.len());
            Ok(Some(heard(NOW, 1)))
        })
        .unwrap();
    assert_eq!(sizes, [BATCH; BATCHES]);
}

/// A clock that is set back begins anew, and one that differs from the store's does not matter.
#[test]
fn clocks_may_be_wrong() {
    let hours = Hours::default();
    service(&hours, NOW + 7_200, "a", 5);
    service(&hours, NOW, "a", 3);
    assert_eq!(hours.of("a", NOW).requests.sum, Some(3));
    // Twice in one span: the second is the next one.
    service(&hours, NOW + 1, "a", 4);
    assert_eq!(hours.of("a", NOW + 1).requests.sum, Some(7));
    let hours = Hours::default();
    hours.exchange(NOW, |_, _| Ok(Some(heard(NOW + 900, 1)))).unwrap();
    hours.close(NOW, true, [span(Of::service("a"), 10)]);
    let (rows, _) = hours.lock().to_write(NOW);
    assert_eq!(rows[0].span, (NOW + 900) / 10);
    assert_eq!(hours.of("a", NOW).requests.sum, Some(10));
}
