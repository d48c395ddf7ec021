//! The last hour: what gates say is counted once, by whichever center hears it, and all centers of one
//! database tell the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keepgate_center::hour::{Hours, LimitDid, Span};
use keepgate_center::store::hours::{Counts, HourHeard, Of};
use keepgate_center::store::{PostgresStore, SpanRow, Store, StoreError};
use keepgate_policy::proto::{Figures, LimitFigures};
use serde_json::json;

use crate::console::Visitor;
use crate::database::{Cluster, shared, skipped, unique};
use crate::fixture::{Dir, Mirror, Running, patiently};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Numbers that look random, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// A center as far as its hour goes.
struct Place {
    store: PostgresStore,
    hours: Hours,
    heard: BTreeMap<Of, Counts>,
}

impl Place {
    fn new(cluster: &Cluster, schema: &str) -> Place {
        let store = cluster.store(schema);
        store.confirm().unwrap();
        Place { store, hours: Hours::default(), heard: BTreeMap::new() }
    }

    fn hear(&mut self, of: Of, counts: Counts) {
        let sum = self.heard.entry(of).or_default();
        *sum = sum.plus(counts);
    }

    fn close(&mut self, at: u64) {
        let spans = std::mem::take(&mut self.heard).into_iter();
        let spans = spans.map(|(of, counts)| Span { of, counts, is_told: true });
        self.hours.close(at, true, spans);
    }

    fn exchange(&self) -> Result<(), StoreError> {
        let exchange = |rows: &[SpanRow], since| self.store.exchange_hour(rows, since);
        self.hours.exchange(now(), exchange)
    }

    /// Written, but the answer is lost.
    fn exchange_unanswered(&self) {
        let lost = |rows: &[SpanRow], since| -> Result<Option<HourHeard>, StoreError> {
            self.store.exchange_hour(rows, since)?;
            Err(StoreError::Database { doing: "committing", source: "it is away".into() })
        };
        self.hours.exchange(now(), lost).unwrap_err();
    }
}

/// Gates go from center to center, centers start anew, answers of the database are lost, and it is away
/// for a while: in the end each center knows what was said, to the last request.
#[test]
fn centers_agree_on_the_hour_and_count_everything_once() {
    let Some(cluster) = shared() else { return skipped("PostgreSQL is not installed") };
    for seed in 0..3 {
        let mut dice = Dice(seed);
        let schema = unique("hour");
        let mut centers: Vec<Place> = (0..3).map(|_| Place::new(cluster, &schema)).collect();
        let mut gates = [0_usize, 0, 1, 2];
        let mut away_until = [0_u64; 3];
        let mut told: BTreeMap<Of, Counts> = BTreeMap::new();
        // Within the hour that ends when the test does.
        let begin = now() - 3_000;
        for step in 0..240 {
            let at = begin + 10 * step;
            for gate in &mut gates {
                if dice.below(10) == 0 {
                    *gate = dice.below(3) as usize;
                }
                for service in ["orders", "stock"] {
                    let requests = dice.below(50);
                    let limited = dice.below(requests + 1);
                    let counts =
                        Counts { requests, refused: limited, limited, ..Counts::default() };
                    for of in [Of::service(service), Of::limit(service, "each")] {
                        centers[*gate].hear(of.clone(), counts);
                        let sum = told.entry(of).or_default();
                        *sum = sum.plus(counts);
                    }
                }
            }
            for (number, center) in centers.iter_mut().enumerate() {
                center.close(at);
                match dice.below(20) {
                    0 => away_until[number] = step + 1 + dice.below(30),
                    _ if step < away_until[number] => {}
                    1..=6 => center.exchange().unwrap(),
                    7 => center.exchange_unanswered(),
                    8 => {
                        center.exchange().unwrap();
                        *center = Place::new(cluster, &schema);
                    }
                    _ => {}
                }
            }
        }
        for center in centers.iter().chain(&centers) {
            center.store.confirm().unwrap();
            center.exchange().unwrap();
        }
        for service in ["orders", "stock"] {
            let sum = told[&Of::service(service)];
            let all: Vec<_> =
                centers.iter().map(|center| center.hours.of(service, now())).collect();
            for (number, known) in all.iter().enumerate() {
                let found = (known.requests.sum, known.refused.sum, known.limited.sum);
                let expected = (Some(sum.requests), Some(sum.refused), Some(sum.limited));
                assert_eq!(found, expected, "seed {seed}, center {number}, {service}");
                assert_eq!(known, &all[0], "seed {seed}, center {number}, {service}");
            }
            let did = LimitDid { requests: sum.requests, refused: sum.limited };
            for center in &centers {
                let limits = center.hours.limits(service, now()).unwrap();
                assert_eq!(limits, BTreeMap::from([("each".to_owned(), did)]), "seed {seed}");
            }
        }
        // No revision, and no entry of the audit log.
        let count = |table| cluster.sql("kg", &format!("SELECT count(*) FROM {schema}.{table}"));
        assert_eq!((count("revisions").trim(), count("audit").trim()), ("1", "0"));
    }
}

/// Rows of the hour before are removed, and a table that is locked holds nothing but the exchange, for a
/// short while.
#[test]
fn the_hour_is_bounded_and_holds_nobody() {
    let Some(cluster) = shared() else { return skipped("PostgreSQL is not installed") };
    let schema = unique("hour");
    let mut center = Place::new(cluster, &schema);
    let counts = Counts { requests: 1, ..Counts::default() };
    for ago in (0..5).rev() {
        center.hear(Of::service("orders"), counts);
        center.close(now() - 10 * ago);
    }
    center.exchange().unwrap();
    let count = || {
        let count = cluster.sql("kg", &format!("SELECT count(*) FROM {schema}.hour"));
        count.trim().parse::<u64>().unwrap()
    };
    assert_eq!(count(), 5);
    let age = format!("UPDATE {schema}.hour SET at = now() - interval '2 hours'");
    cluster.sql("kg", &age);
    center.hear(Of::service("orders"), counts);
    center.close(now() + 10);
    center.exchange().unwrap();
    assert_eq!(count(), 1);

    let lock = format!("BEGIN; LOCK TABLE {schema}.hour; SELECT pg_sleep(4); COMMIT");
    std::thread::scope(|scope| {
        scope.spawn(|| cluster.sql("kg", &lock));
        let held = format!(
            "SELECT count(*) FROM pg_locks WHERE relation = '{schema}.hour'::regclass AND \
             mode = 'AccessExclusiveLock' AND granted"
        );
        crate::database::eventually("the lock", || cluster.sql("kg", &held).trim() == "1");
        let began = Instant::now();
        scope.spawn(|| {
            center.exchange().unwrap_err();
        });
        while began.elapsed() < Duration::from_millis(500) {
            let before = Instant::now();
            center.store.confirm().unwrap();
            center.store.write(&mut |_| Ok(keepgate_center::store::EditVerdict::Commit)).unwrap();
            assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
        }
    });
    center.exchange().unwrap();

    // Another center reads the same without prepared statements.
    let store = crate::database::open(&cluster.url(&schema, "&prepared=false"));
    let other = Place { store, hours: Hours::default(), heard: BTreeMap::new() };
    other.exchange().unwrap();
    assert_eq!(other.hours.of("orders", now()).requests.sum, Some(1));
}

fn figures(requests: u64, limited: u64, limits: &[(&str, u64, u64)]) -> Figures {
    let limits = limits.iter().map(|(name, passed, refused)| LimitFigures {
        name: (*name).to_owned(),
        passed: *passed,
        refused: *refused,
    });
    Figures {
        service: "orders".to_owned(),
        requests,
        refused: limited,
        limited,
        denied: 0,
        undecided: 0,
        limits: limits.collect(),
    }
}

/// A gate that says what it likes makes no other service's figures wrong, and no limit up.
#[tokio::test]
async fn what_gates_did_is_counted_and_nonsense_is_dropped() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    for service in ["orders", "stock"] {
        center.service(service, &[]).await;
    }
    let limit = json!({ "name": "each", "key": "address", "rate": "5/s" });
    center.ask("PUT", "/v1/services/orders/limits/each", Some(limit)).await.good();
    center.ask("GET", "/v1/services/none/hour", None).await.problem(404);
    let hour = center.ask("GET", "/v1/services/orders/hour", None).await.good();
    assert_eq!(hour["requests"], json!(null));
    assert_eq!(hour["limits"], json!(null));
    let mut admin = Visitor::signed_in(&center, &center.admin).await;
    let path = "/policies?service=orders&tab=limits";
    let page = admin.get(path).await;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    assert!(page.contains("not known"), "{page}");

    let gate = center.token("gate", "orders").await;
    let mirror = Mirror::follow(&center, &gate, &["orders"]).await.unwrap();
    let many: Vec<String> = (0..257).map(|n| format!("l{n}")).collect();
    let many: Vec<(&str, u64, u64)> = many.iter().map(|name| (name.as_str(), 1, 1)).collect();
    for wrong in [
        Figures { service: "stock".to_owned(), ..figures(9, 0, &[]) },
        Figures { service: String::new(), ..figures(9, 0, &[]) },
        figures(9, 10, &[]),
        Figures { denied: u64::MAX, undecided: 2, ..figures(9, 0, &[]) },
        figures(u64::MAX, 0, &[]),
        figures(1, 0, &[("each", u64::MAX, 1)]),
        figures(9, 0, &many),
    ] {
        mirror.figures(wrong).await;
    }
    // At the bound, with names that nobody has.
    mirror.figures(figures(9, 2, &many[..256])).await;
    mirror.figures(figures(4_003, 3, &[("each", 4_000, 3), ("default-principal", 2, 0)])).await;
    let hour = patiently("the span", async {
        loop {
            let hour = center.ask("GET", "/v1/services/orders/hour", None).await.good();
            if hour["requests"] == 4_012 {
                return hour;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!((&hour["limited"], &hour["denied"]), (&json!(5), &json!(0)));
    let limits = json!([
        { "name": "default-principal", "requests": 2, "refused": 0 },
        { "name": "each", "requests": 4_003, "refused": 3 },
    ]);
    assert_eq!(hour["limits"], limits);
    let stock = center.ask("GET", "/v1/services/stock/hour", None).await.good();
    assert_eq!(stock["requests"], json!(null));
    let page = admin.get(path).await;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    assert!(page.contains("each</th><td class=\"n\">4,003</td><td class=\"n\">3<"), "{page}");
    center.stop().await;
}
