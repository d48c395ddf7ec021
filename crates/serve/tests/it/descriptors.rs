//! Descriptors are divided without a remainder that nobody accounts for.

use keepgate_serve::descriptors::{LEAST_CONNECTIONS, LEAST_UPSTREAM};
use keepgate_serve::places::slack;
use keepgate_serve::{Needs, raise_limit};
use proptest::prelude::*;

fn reserved(needs: &Needs) -> usize {
    needs.center + needs.admin + needs.files + needs.health_checks + needs.own
}

#[test]
fn the_soft_limit_becomes_the_hard_one() {
    let limit = raise_limit().unwrap();
    let text = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    let (soft, hard) = (numbers.next().unwrap(), numbers.next().unwrap());
    assert_eq!((limit.now, soft), (soft, hard));
    assert!(limit.before <= limit.now);
}

#[test]
fn the_habitual_soft_limit_leaves_room_for_everybody() {
    let needs = Needs {
        connections: 10_000,
        upstream: 1024,
        center: 4,
        admin: 64,
        files: 16,
        health_checks: 8,
        own: 32,
    };
    let shares = needs.within(1024).unwrap();
    assert!(shares.connections >= 512, "{shares:?}");
    assert!(shares.upstream >= 256, "{shares:?}");
    let shares = needs.within(20_000).unwrap();
    assert_eq!((shares.connections, shares.upstream), (10_000, 1024));
}

#[test]
fn too_few_are_refused_with_the_number_that_would_do() {
    let needs = Needs { connections: 100, upstream: 100, admin: 10, ..Needs::default() };
    let error = needs.within(20).unwrap_err();
    assert!(needs.within(error.needed as u64).is_ok(), "{error}");
    assert!(needs.within(error.needed as u64 - 1).is_err(), "{error}");
}

proptest! {
    #[test]
    fn shares_never_exceed_the_limit(
        limit in 0_u64..100_000,
        connections in 1_usize..50_000,
        upstream in 0_usize..2_000,
        others in prop::array::uniform5(0_usize..200),
    ) {
        let [center, admin, files, health_checks, own] = others;
        let needs = Needs { connections, upstream, center, admin, files, health_checks, own };
        match needs.within(limit) {
            Ok(shares) => {
                let all = shares.connections + slack(shares.connections) + shares.upstream
                    + reserved(&needs);
                prop_assert!(all as u64 <= limit, "{shares:?}");
                prop_assert!(shares.connections <= connections && shares.upstream <= upstream);
                prop_assert!(shares.upstream >= upstream.min(LEAST_UPSTREAM));
                prop_assert!(shares.connections >= connections.min(LEAST_CONNECTIONS));
                // More of the limit never means less of anything.
                let more = needs.within(limit + 100).unwrap();
                prop_assert!(more.connections >= shares.connections);
                prop_assert!(more.upstream >= shares.upstream);
            }
            Err(error) => {
                prop_assert!(error.needed as u64 > limit);
                prop_assert!(needs.within(error.needed as u64).is_ok());
            }
        }
    }
}
