//! The balance by itself: any sequence of events, and a simulated fleet.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn keys(count: u64) -> Vec<(Key, u64)> {
    (0..count).map(|n| (Key(n), stable_hash(format!("10.0.0.{n}:80").as_bytes()))).collect()
}

fn balance(count: u64) -> Balance {
    let mut balance = Balance::new(BalanceConfig::default(), 7);
    balance.keep(&keys(count), 0);
    balance
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    Pick { tried: usize, sticky: Option<u64> },
    Succeed(usize),
    Fail(usize, bool),
    Cancel(usize),
    Check(u64, bool),
    Keep(u64, u64),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0_usize..4, proptest::option::of(any::<u64>()))
            .prop_map(|(tried, sticky)| Event::Pick { tried, sticky }),
        3 => any::<usize>().prop_map(Event::Succeed),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(which, connect)| Event::Fail(which, connect)),
        1 => any::<usize>().prop_map(Event::Cancel),
        1 => (0_u64..6, any::<bool>()).prop_map(|(key, healthy)| Event::Check(key, healthy)),
        1 => (0_u64..3, 1_u64..6).prop_map(|(from, count)| Event::Keep(from, count)),
        2 => (0_u64..4_000).prop_map(Event::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens: an address that was not tried is found as long as there is one; counts come
    /// back; only a panic sends a request to an address that is out, or two to one on trial.
    #[test]
    fn any_sequence_of_events_keeps_the_rules(events in proptest::collection::vec(event(), 1..200)) {
        let mut balance = balance(4);
        let (mut now, mut under_way): (u64, Vec<Pick>) = (0, Vec::new());
        for event in events {
            match event {
                Event::Pick { tried, sticky } => {
                    let avoid: Vec<Key> =
                        balance.entries.iter().take(tried).map(|entry| entry.key).collect();
                    let free: Vec<Key> = balance
                        .entries
                        .iter()
                        .filter(|entry| entry.is_usable(now) && !avoid.contains(&entry.key))
                        .map(|entry| entry.key)
                        .collect();
                    let picked = balance.pick(now, &avoid, sticky);
                    prop_assert_eq!(picked.is_some(), balance.entries.len() > avoid.len());
                    if let Some(pick) = picked {
                        prop_assert!(!avoid.contains(&pick.key));
                        prop_assert!(free.is_empty() || free.contains(&pick.key));
                        under_way.push(pick);
                    }
                }
                Event::Succeed(which) if !under_way.is_empty() => {
                    let pick = under_way.swap_remove(which % under_way.len());
                    balance.succeeded(pick, now);
                    balance.done(pick);
                }
                Event::Fail(which, connect) if !under_way.is_empty() => {
                    let pick = under_way.swap_remove(which % under_way.len());
                    let failure = if connect { Failure::Connect } else { Failure::Server };
                    if let Some(Change::Ejected(_, lasts)) = balance.failed(pick, failure, now) {
                        prop_assert!(lasts >= balance.config.eject_min);
                        prop_assert!(lasts <= balance.config.eject_max);
                    }
                    balance.done(pick);
                }
                Event::Cancel(which) if !under_way.is_empty() => {
                    let pick = under_way.swap_remove(which % under_way.len());
                    balance.done(pick);
                }
                Event::Check(key, healthy) => {
                    balance.checked(Key(key), healthy, now);
                }
                Event::Keep(from, count) => {
                    let present: Vec<_> =
                        keys(8).into_iter().skip(from as usize).take(count as usize).collect();
                    let gone = |pick: &Pick| !present.iter().any(|(key, _)| *key == pick.key);
                    balance.keep(&present, now);
                    for pick in under_way.extract_if(.., |pick| gone(pick)) {
                        balance.done(pick);
                    }
                    prop_assert_eq!(balance.entries.len(), present.len());
                }
                Event::Wait(ms) => now += ms,
                _ => {}
            }
            let counted: u32 = balance.entries.iter().map(|entry| entry.outstanding).sum();
            prop_assert_eq!(counted as usize, under_way.len());
            let census = balance.census(now);
            prop_assert!(census.ejected <= census.addresses && census.down <= census.addresses);
        }
        for pick in under_way {
            balance.done(pick);
        }
        prop_assert!(balance.entries.iter().all(|entry| entry.outstanding == 0));
    }
}

/// Requests to simulated servers, each of which answers within its time, refuses, or answers 5xx.
struct Fleet {
    balance: Balance,
    now: u64,
    /// Ends of requests, in order: when, which, and whether it is a success.
    under_way: BTreeMap<(u64, u64), (Pick, Result<(), Failure>)>,
    sent: BTreeMap<Key, usize>,
    failures: usize,
    next: u64,
}

impl Fleet {
    fn new(count: u64) -> Fleet {
        Fleet {
            balance: balance(count),
            now: 0,
            under_way: BTreeMap::new(),
            sent: BTreeMap::new(),
            failures: 0,
            next: 0,
        }
    }

    /// One request a millisecond for so long. `server` says how long an address takes, and how it
    /// ends; a failed request goes on to others.
    fn run(&mut self, ms: u64, server: impl Fn(Key, u64) -> (u64, Result<(), Failure>)) {
        self.sent.clear();
        self.failures = 0;
        for _ in 0..ms {
            self.now += 1;
            while let Some(entry) = self.under_way.first_entry()
                && entry.key().0 <= self.now
            {
                let (pick, outcome) = entry.remove();
                match outcome {
                    Ok(()) => {
                        self.balance.succeeded(pick, self.now);
                    }
                    Err(failure) => {
                        self.failures += 1;
                        self.balance.failed(pick, failure, self.now);
                    }
                }
                self.balance.done(pick);
            }
            let pick = self.balance.pick(self.now, &[], None).expect("there is always one");
            *self.sent.entry(pick.key).or_default() += 1;
            let (takes, outcome) = server(pick.key, self.now);
            self.next += 1;
            self.under_way.insert((self.now + takes, self.next), (pick, outcome));
        }
    }

    fn share(&self, key: u64) -> f64 {
        let all: usize = self.sent.values().sum();
        self.sent.get(&Key(key)).copied().unwrap_or_default() as f64 / all as f64
    }
}

#[test]
fn equal_servers_get_equal_shares_and_a_slow_one_gets_less() {
    let mut fleet = Fleet::new(4);
    fleet.run(20_000, |_, _| (10, Ok(())));
    for key in 0..4 {
        assert!((0.23..0.27).contains(&fleet.share(key)), "{:?}", fleet.sent);
    }
    fleet.run(20_000, |key, _| (if key == Key(0) { 100 } else { 10 }, Ok(())));
    assert!(fleet.share(0) < 0.12, "{:?}", fleet.sent);
}

/// A server that refuses is quick, and so has the fewest requests under way: without the ejection it
/// would get nearly all.
#[test]
fn a_dead_server_gets_a_request_now_and_then_and_comes_back_slowly() {
    let mut fleet = Fleet::new(3);
    fleet.run(5_000, |_, _| (5, Ok(())));
    let dead = |key: Key, _| if key == Key(1) { (1, Err(Failure::Connect)) } else { (5, Ok(())) };
    fleet.run(30_000, dead);
    // Two to eject it, one whenever its time is over: 1, 2, 4, 8, 16 s; and those that were under way.
    assert!((6..=12).contains(&fleet.failures), "{}", fleet.failures);
    assert_eq!(fleet.balance.census(fleet.now).ejected, 1);
    // It lives again: within its longest time it has its share.
    fleet.run(60_000, |_, _| (5, Ok(())));
    assert_eq!(fleet.failures, 0);
    assert_eq!(fleet.balance.census(fleet.now).ejected, 0);
    fleet.run(10_000, |_, _| (5, Ok(())));
    assert!((0.30..0.36).contains(&fleet.share(1)), "{:?}", fleet.sent);
}

#[test]
fn an_address_that_comes_back_begins_with_a_tenth() {
    let mut fleet = Fleet::new(2);
    fleet.balance.keep(&keys(3), 0);
    fleet.run(1_000, |_, _| (0, Ok(())));
    assert!((0.01..0.09).contains(&fleet.share(2)), "{:?}", fleet.sent);
    fleet.run(8_000, |_, _| (0, Ok(())));
    fleet.run(10_000, |_, _| (0, Ok(())));
    assert!((0.30..0.36).contains(&fleet.share(2)), "{:?}", fleet.sent);
}

/// Every server answers 5xx: none is spared, and none is given up.
#[test]
fn where_all_are_ejected_all_are_used() {
    let mut fleet = Fleet::new(3);
    fleet.run(2_000, |_, _| (3, Err(Failure::Server)));
    let census = fleet.balance.census(fleet.now);
    assert_eq!(census.ejected, 3);
    fleet.run(20_000, |_, _| (3, Err(Failure::Server)));
    assert!(fleet.balance.census(fleet.now).panic);
    for key in 0..3 {
        assert!(fleet.share(key) > 0.25, "{:?}", fleet.sent);
    }
    // They recover: so does the balance, at once.
    fleet.run(1_000, |_, _| (3, Ok(())));
    assert_eq!(fleet.balance.census(fleet.now).ejected, 0);
}

#[test]
fn server_errors_count_in_a_row_only() {
    let mut balance = balance(2);
    let limit = balance.config.server_errors;
    let mut now = 0;
    let mut answer = |balance: &mut Balance, failed: bool| {
        now += 1;
        let pick = balance.pick(now, &[Key(1)], None).expect("one is left");
        let change = match failed {
            true => balance.failed(pick, Failure::Server, now),
            false => balance.succeeded(pick, now),
        };
        balance.done(pick);
        change
    };
    for _ in 0..10 {
        for _ in 1..limit {
            assert_eq!(answer(&mut balance, true), None);
        }
        assert_eq!(answer(&mut balance, false), None);
    }
    for _ in 1..limit {
        assert_eq!(answer(&mut balance, true), None);
    }
    let ejected = Change::Ejected(Failure::Server, balance.config.eject_min);
    assert_eq!(answer(&mut balance, true), Some(ejected));
}

/// Those that were sent before an ejection neither extend it nor end it.
#[test]
fn what_was_under_way_at_an_ejection_does_not_count() {
    let mut balance = balance(2);
    let picks: Vec<Pick> =
        (0..10).map(|_| balance.pick(1, &[Key(1)], None).expect("one is left")).collect();
    let changes: Vec<_> =
        picks.iter().filter_map(|pick| balance.failed(*pick, Failure::Connect, 1)).collect();
    assert_eq!(changes, [Change::Ejected(Failure::Connect, Duration::from_secs(1))]);
    for pick in picks {
        assert_eq!(balance.succeeded(pick, 2), None);
        balance.done(pick);
    }
    assert_eq!(balance.census(2).ejected, 1);
}

#[test]
fn ejections_double_up_to_their_longest_and_begin_anew_after_a_long_time_in_use() {
    let mut balance = balance(2);
    let mut now = 0;
    let mut eject = |balance: &mut Balance, wait: u64| loop {
        now += wait;
        let pick = balance.pick(now, &[Key(1)], None).expect("one is left");
        let change = balance.failed(pick, Failure::Connect, now);
        balance.done(pick);
        if let Some(Change::Ejected(_, lasts)) = change {
            now += ms(lasts);
            return lasts.as_secs();
        }
    };
    let lasted: Vec<u64> = (0..9).map(|_| eject(&mut balance, 0)).collect();
    assert_eq!(lasted, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    let pick = balance.pick(10_000_000, &[Key(1)], None).expect("one is left");
    assert_eq!(balance.succeeded(pick, 10_000_000), Some(Change::Returned));
    balance.done(pick);
    assert_eq!(eject(&mut balance, 20_000_000), 1);
}

#[test]
fn active_checks_take_an_address_out_and_bring_it_back() {
    let mut balance = balance(2);
    for _ in 1..balance.config.check_fall {
        assert_eq!(balance.checked(Key(0), false, 1), None);
    }
    assert_eq!(balance.checked(Key(0), false, 1), Some(Change::Down));
    for _ in 0..100 {
        let pick = balance.pick(2, &[], None).expect("one is left");
        assert_eq!(pick.key, Key(1));
        balance.done(pick);
    }
    assert_eq!(balance.checked(Key(0), true, 3), None);
    assert_eq!(balance.checked(Key(0), true, 3), Some(Change::Up));
    assert_eq!(balance.census(3), Census { addresses: 2, ..Census::default() });
}

/// Callers stay; when an address goes only its own callers move, and they come back to it.
#[test]
fn sticky_callers_move_only_with_their_address() {
    let mut balance = balance(5);
    let callers: Vec<u64> = (0..1_000_u32).map(|n| stable_hash(&n.to_le_bytes())).collect();
    let mut places = |avoid: &[Key]| -> Vec<Key> {
        let mut place = |caller: &u64| {
            let pick = balance.pick(1, avoid, Some(*caller)).expect("one is left");
            balance.done(pick);
            pick.key
        };
        callers.iter().map(&mut place).collect()
    };
    let before = places(&[]);
    assert_eq!(places(&[]), before);
    let without = places(&[Key(2)]);
    for (before, after) in before.iter().zip(&without) {
        assert!(*before == Key(2) || before == after);
        assert_ne!(*after, Key(2));
    }
    for key in 0..5 {
        let count = before.iter().filter(|place| **place == Key(key)).count();
        assert!((130..270).contains(&count), "{key}: {count} of 1,000");
    }
}
