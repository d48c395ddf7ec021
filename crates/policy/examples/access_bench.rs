//! How long reviews of access take: `cargo run --release -p keepgate-policy --example access_bench`.
//!
//! Users in teams, teams in roles, grants to roles; each list is asked for its first page and for all of
//! its pages. Ends after a minute or two.

use std::time::{Duration, Instant};

use keepgate_policy::model::{GrantBody, MemberBody};
use keepgate_policy::world::{Builder, Cursor, WhoCan};
use keepgate_policy::{Digest, Item, ItemBody, Revision, Uid, World};

const PAGE: usize = 500;

/// Pages that are asked for at most.
const PAGES: usize = 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "{:>9} {:>7} {:>9} {:>12} {:>12} {:>12}",
        "entities", "grants", "who can", "first page", "a page", "in a role"
    );
    for users in [1, 1_000, 1_000_000] {
        let teams = (users / 100).max(1);
        let grants = (users / 10).clamp(1, 10_000);
        let world = world(users, teams, grants)?;
        let (resource, read) = (Uid::new("order", "1"), Uid::action("read"));
        let asked = WhoCan {
            service: "orders",
            resource: &resource,
            action: Some(&read),
            kind: None,
            now_unix_s: 0,
        };
        let (mut found, mut pages, mut first) = (0, 0, Duration::ZERO);
        let mut after: Option<String> = None;
        let begun = Instant::now();
        while pages < PAGES {
            let page = Cursor { after: after.as_deref(), limit: PAGE };
            let page = world.who_can(&asked, &page)?;
            found += page.rows.len();
            pages += 1;
            if pages == 1 {
                first = begun.elapsed();
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let a_page = begun.elapsed() / u32::try_from(pages)?;
        let begun = Instant::now();
        let cursor = Cursor { after: None, limit: PAGE };
        let members = world.in_role("orders", &Uid::role("r0"), 0, &cursor)?;
        let of_role = begun.elapsed();
        println!(
            "{:>9} {grants:>7} {:>9} {first:>12.1?} {a_page:>12.1?} {of_role:>12.1?}",
            users + teams,
            format!("{found}{}", if after.is_some() && pages == PAGES { "+" } else { "" }),
        );
        assert!(!members.rows.is_empty());
    }
    Ok(())
}

/// User n is in team n / 100, and team t is in role t % 10. Grants are of ten roles; the first twenty are
/// of the order that is asked for.
fn world(users: usize, teams: usize, grants: usize) -> Result<World, Box<dyn std::error::Error>> {
    let mut builder = Builder::new(Revision(1));
    let mut put = |item: Item| builder.put(&item, Digest::of(&item));
    let member = |member: Uid, role: Uid| {
        let body = MemberBody { member, role, source: String::new(), until_unix_s: None };
        Item::new("", "", ItemBody::Member(body))
    };
    for n in 0..users {
        put(member(Uid::new("user", format!("u{n}")), Uid::new("team", format!("t{}", n / 100))))?;
    }
    for t in 0..teams {
        put(member(Uid::new("team", format!("t{t}")), Uid::role(&format!("r{}", t % 10))))?;
    }
    for n in 0..grants {
        let body = GrantBody {
            principal: Uid::role(&format!("r{}", n % 10)),
            actions: vec![Uid::action("read")],
            resource: Some(Uid::new("order", if n < 20 { "1".to_owned() } else { n.to_string() })),
            until_unix_s: None,
        };
        put(Item::new("orders", &format!("g{n}"), ItemBody::Grant(body)))?;
    }
    Ok(builder.finish(None)?)
}
