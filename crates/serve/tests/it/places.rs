//! Places against a naive model that looks at everything each time.

use std::collections::BTreeMap;
use std::future::Future as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use keepgate_serve::places::slack;
use keepgate_serve::{Network, Place, Places, PlacesConfig, Refused};
use proptest::prelude::*;

fn v4(last: u8) -> Option<IpAddr> {
    Some(Ipv4Addr::new(192, 0, 2, last).into())
}

fn config(bound: usize, per_peer: Option<usize>) -> PlacesConfig {
    PlacesConfig { per_peer, ..PlacesConfig::new(bound) }
}

#[test]
fn one_address_gets_a_quarter() {
    let places = Places::new(PlacesConfig::new(40));
    let held: Vec<Place> = (0..10).map(|n| places.take(v4(1), n).unwrap()).collect();
    for place in &held {
        place.seat().begin();
    }
    assert_eq!(places.take(v4(1), 10).unwrap_err(), Refused::Peer);
    assert!(places.take(v4(2), 10).is_ok());
    held[3].seat().end(11);
    let next = places.take(v4(1), 12).unwrap();
    assert!(held[3].seat().is_told() && !next.seat().is_told());
    assert_eq!(held.iter().filter(|place| place.seat().is_told()).count(), 1);
}

#[test]
fn an_ipv6_site_is_one_address() {
    let places = Places::new(config(100, Some(2)));
    let host = |site: u16, host: u16| -> Option<IpAddr> {
        Some(Ipv6Addr::new(0x2001, 0xdb8, 0, site, 0, 0, 0, host).into())
    };
    let held = [places.take(host(1, 1), 0).unwrap(), places.take(host(1, 2), 0).unwrap()];
    held.iter().for_each(|place| place.seat().begin());
    assert_eq!(places.take(host(1, 3), 0).unwrap_err(), Refused::Peer);
    assert!(places.take(host(2, 1), 0).is_ok());
    // The same IPv4 address in both of its spellings is one address, and no IPv6 site.
    let mapped = Some(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().into());
    let held = [places.take(mapped, 0).unwrap(), places.take(v4(1), 0).unwrap()];
    held.iter().for_each(|place| place.seat().begin());
    assert_eq!(places.take(mapped, 0).unwrap_err(), Refused::Peer);
    assert!(places.take(v4(2), 0).is_ok());
}

#[test]
fn proxies_and_unix_sockets_have_no_bound_of_their_own() {
    let exempt = vec![Network { address: Ipv4Addr::new(10, 0, 0, 0).into(), prefix: 8 }];
    let places = Places::new(PlacesConfig { exempt, ..config(8, Some(1)) });
    let proxy = Some(Ipv4Addr::new(10, 1, 2, 3).into());
    assert!(places.is_exempt(proxy) && places.is_exempt(None) && !places.is_exempt(v4(1)));
    let mut held: Vec<Place> = (0..4).map(|_| places.take(proxy, 0).unwrap()).collect();
    held.extend((0..4).map(|_| places.take(None, 0).unwrap()));
    held.iter().for_each(|place| place.seat().begin());
    assert_eq!(places.take(proxy, 0).unwrap_err(), Refused::Full);
}

#[test]
fn an_exempt_address_gives_way_last() {
    let exempt = vec![Network { address: Ipv4Addr::new(10, 0, 0, 0).into(), prefix: 8 }];
    let places = Places::new(PlacesConfig { exempt, ..config(8, None) });
    let proxy = Some(Ipv4Addr::new(10, 0, 0, 1).into());
    let proxied: Vec<Place> = (0..7).map(|_| places.take(proxy, 0).unwrap()).collect();
    let single = places.take(v4(1), 5).unwrap();
    let next = places.take(v4(2), 6).unwrap();
    assert!(single.seat().is_told() && proxied.iter().all(|place| !place.seat().is_told()));
    drop((single, next));
}

#[test]
fn a_connection_with_an_exchange_never_gives_way() {
    let places = Places::new(config(4, Some(4)));
    let held: Vec<Place> = (0..4).map(|n| places.take(v4(n), 0).unwrap()).collect();
    let busy: Vec<_> = held.iter().map(|place| place.seat().busy()).collect();
    assert_eq!(places.take(v4(9), 0).unwrap_err(), Refused::Full);
    drop(busy);
    // The fruitless search is not repeated with every connection, but soon.
    assert_eq!(places.take(v4(9), 1).unwrap_err(), Refused::Full);
    assert!(places.take(v4(9), 1_000).is_ok());
}

struct Woken(std::sync::atomic::AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

#[test]
fn who_is_told_is_woken() {
    let places = Places::new(config(1, None));
    let place = places.take(v4(1), 0).unwrap();
    let woken = Arc::new(Woken(false.into()));
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    let mut told = Box::pin(place.seat().told());
    assert_eq!(told.as_mut().poll(&mut cx), Poll::Pending);
    let _next = places.take(v4(2), 1).unwrap();
    assert!(woken.0.load(std::sync::atomic::Ordering::SeqCst));
    assert_eq!(told.as_mut().poll(&mut cx), Poll::Ready(()));
}

#[test]
fn ten_thousand_idle_connections_of_one_address_lock_nobody_out() {
    let places = Places::new(PlacesConfig::new(10_000));
    let mut flood = Vec::new();
    for n in 0..10_050 {
        flood.extend(places.take(v4(1), n));
        flood.retain(|place: &Place| !place.seat().is_told());
    }
    assert_eq!(flood.len(), 2_500);
    let others: Vec<Place> = (0..200).map(|n| places.take(v4(n + 2), 10_050).unwrap()).collect();
    assert!(others.iter().all(|place| !place.seat().is_told()));
    assert_eq!(places.counts().refused_full, 0);
}

#[derive(Clone, Debug)]
enum Step {
    Take(u8),
    Begin(usize),
    End(usize),
    Drop(usize),
    /// Those that were told to close do.
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u8..6).prop_map(Step::Take),
        3 => any::<usize>().prop_map(Step::Begin),
        2 => any::<usize>().prop_map(Step::End),
        1 => any::<usize>().prop_map(Step::Drop),
        2 => Just(Step::Settle),
    ]
}

struct Open {
    place: Place,
    peer: u8,
    exchanges: u32,
    told: bool,
}

/// What must hold after each step, whatever came before.
fn check(places: &Places, open: &mut [Open], bound: usize, per_peer: usize) {
    let mut peers = BTreeMap::<u8, (usize, usize)>::new();
    for one in open.iter_mut() {
        let told = one.place.seat().is_told();
        assert!(told || !one.told, "what was told stays told");
        one.told = told;
        let (held, all) = peers.entry(one.peer).or_default();
        *held += usize::from(!told);
        *all += 1;
    }
    let closing = open.iter().filter(|one| one.told).count();
    let counts = places.counts();
    assert_eq!((counts.open, counts.closing, counts.peers), (open.len(), closing, peers.len()));
    assert!(open.len() - closing <= bound && open.len() <= bound + slack(bound));
    // Peer 0 is exempt.
    for (peer, (held, all)) in peers.into_iter().filter(|(peer, _)| *peer != 0) {
        assert!(held <= per_peer && all <= per_peer + slack(per_peer), "{peer}: {held} {all}");
    }
}

proptest! {
    #[test]
    fn places_keep_their_bounds(
        bound in 1_usize..20,
        quarter in prop::option::of(1_usize..8),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let exempt = vec![Network { address: v4(0).unwrap(), prefix: 32 }];
        let places = Places::new(PlacesConfig { exempt, ..config(bound, quarter) });
        let per_peer = places.per_peer();
        let mut open: Vec<Open> = Vec::new();
        // Each step is later than a fruitless search is remembered.
        for (now, step) in steps.into_iter().enumerate().map(|(n, s)| (n as u64 * 100, s)) {
            let count = open.len();
            match step {
                Step::Take(peer) => take(&places, &mut open, peer, now),
                Step::Begin(n) if count > 0 => {
                    open[n % count].place.seat().begin();
                    open[n % count].exchanges += 1;
                }
                Step::End(n) if count > 0 && open[n % count].exchanges > 0 => {
                    open[n % count].place.seat().end(now);
                    open[n % count].exchanges -= 1;
                }
                Step::Drop(n) if count > 0 => drop(open.swap_remove(n % count)),
                Step::Settle => open.retain(|one| !one.told),
                _ => {}
            }
            check(&places, &mut open, bound, per_peer);
        }
        drop(open);
        let counts = places.counts();
        prop_assert_eq!((counts.open, counts.closing, counts.peers), (0, 0, 0));
    }
}

/// Takes a place, and holds the outcome against the model's.
fn take(places: &Places, open: &mut Vec<Open>, peer: u8, now: u64) {
    let (bound, per_peer) = (places.bound(), places.per_peer());
    let held = |of: u8| open.iter().filter(|one| one.peer == of && !one.told).count();
    let idle = |of: u8| {
        open.iter().filter(|one| one.peer == of && !one.told && one.exchanges == 0).count()
    };
    let all = open.iter().filter(|one| one.peer == peer).count();
    let all_held = open.iter().filter(|one| !one.told).count();
    let own = peer != 0 && held(peer) >= per_peer;
    // Who would have to give way, if anybody: of the heaviest, the exempt one last.
    let heaviest = (0..6)
        .filter(|of| idle(*of) > 0)
        .max_by_key(|of| (*of != 0, held(*of), std::cmp::Reverse(*of)));
    let expected = if peer != 0 && all >= per_peer + slack(per_peer) || own && idle(peer) == 0 {
        Err(Refused::Peer)
    } else if open.len() >= bound + slack(bound) {
        Err(Refused::Full)
    } else if own {
        Ok(Some(peer))
    } else if all_held >= bound {
        heaviest.map(Some).ok_or(Refused::Full)
    } else {
        Ok(None)
    };
    let before: Vec<bool> = open.iter().map(|one| one.place.seat().is_told()).collect();
    let taken = places.take(v4(peer), now);
    let told: Vec<u8> = open
        .iter()
        .zip(before)
        .filter(|(one, before)| one.place.seat().is_told() && !before)
        .map(|(one, _)| one.peer)
        .collect();
    match (taken, expected) {
        (Ok(place), Ok(gives_way)) => {
            assert_eq!(told, gives_way.into_iter().collect::<Vec<_>>());
            open.push(Open { place, peer, exchanges: 0, told: false });
        }
        // Its own that was told for it, before there was no place at all, stays told.
        (Err(got), Err(want)) => assert_eq!((got, told.len() <= usize::from(own)), (want, true)),
        (got, want) => panic!("{got:?}, expected {want:?}"),
    }
}
