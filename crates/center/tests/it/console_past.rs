//! The console's pages of the past and of access: what they show, what they refuse, and the way back.

use http::StatusCode;
use keepgate_center::CenterConfig;
use keepgate_center::store::Retention;
use serde_json::json;

use crate::console::{Visitor, field, header, revision, text};
use crate::fixture::{Dir, Running, STAFF, config};

/// What a page shows, without its marks.
fn shown(page: &str) -> String {
    let parts = page.split('<').map(|part| part.split_once('>').map_or(part, |(_, rest)| rest));
    let words = parts.collect::<Vec<_>>().join(" ").replace("&quot;", "\"").replace("&lt;", "<");
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn page(visitor: &mut Visitor<'_>, path: &str, status: StatusCode) -> String {
    let answer = visitor.get(path).await;
    let page = text(&answer);
    assert_eq!(answer.status, status, "{path}: {page}");
    page
}

const OK: StatusCode = StatusCode::OK;

/// A center with service `orders`; bob was put into `staff`, and taken out. The two revisions.
async fn taken(center: &Running) -> (u64, u64) {
    center.service("orders", &[("staff", STAFF)]).await;
    center.member("bob", "assign").await.good();
    let given = revision(center).await;
    center.member("bob", "revoke").await.good();
    (given, revision(center).await)
}

const BOB: &str = "member user::\"bob\" in role::\"staff\"";

#[tokio::test]
async fn history_is_listed_filtered_and_paged() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let (given, gone) = taken(&center).await;
    let changed = STAFF.replace("action", "action == Action::\"GET\"");
    let path = "/v1/services/orders/policies/staff";
    center.ask("PUT", path, Some(json!({ "text": changed }))).await.good();
    let head = revision(&center).await;
    let mut visitor = Visitor::signed_in(&center, &center.admin).await;

    let list = shown(&page(&mut visitor, "/history?service=orders", OK).await);
    assert!(list.contains("role.revoke") && list.contains(BOB), "{list}");
    // The newest is shown beside, as a text with what changed in it.
    assert!(list.contains("== Action::\"GET\"") && list.contains("updated policy staff"), "{list}");
    // By kind and id, by service, by who.
    let id = "kind=member&id=user::%22bob%22%20in%20role::%22staff%22";
    let list = page(&mut visitor, &format!("/history?service=orders&{id}"), OK).await;
    let words = shown(&list);
    assert!(words.contains("role.assign") && words.contains("role.revoke"), "{words}");
    assert!(!words.contains("policy.put"), "{words}");
    let list = shown(&page(&mut visitor, "/history?service=orders&only=yes", OK).await);
    assert!(list.contains("policy.put") && !list.contains("role.revoke"), "{list}");
    let list = shown(&page(&mut visitor, "/history?service=orders&actor=nobody", OK).await);
    assert!(list.contains("No revision matches") && !list.contains("role.revoke"), "{list}");
    // What is no name of a service is refused as the API refuses it.
    let answer = visitor.get("/history?service=no%20name&only=yes").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);

    // One revision; none that was, and no number.
    let one =
        shown(&page(&mut visitor, &format!("/history?service=orders&revision={gone}"), OK).await);
    assert!(one.contains(&format!("Revision {gone}")) && one.contains("deleted member"), "{one}");
    assert!(one.contains(&format!("Go back to before {gone}")), "{one}");
    assert!(one.contains("nothing undoes one revision alone"), "{one}");
    let path = format!("/history?service=orders&revision={}", head + 1);
    let none = shown(&page(&mut visitor, &path, StatusCode::NOT_FOUND).await);
    assert!(none.contains("There is no such thing"), "{none}");
    page(&mut visitor, "/history?service=orders&revision=x", StatusCode::BAD_REQUEST).await;

    // How two states differ, in both directions; a state may be a time.
    let diff = format!("/history/diff?service=orders&from={given}&to={gone}");
    let diff = shown(&page(&mut visitor, &diff, OK).await);
    assert!(
        diff.contains(&format!("deleted {BOB}")) && diff.contains("Items that differ: 1"),
        "{diff}"
    );
    let diff = format!("/history/diff?service=orders&from={gone}&to={given}");
    let diff = shown(&page(&mut visitor, &diff, OK).await);
    assert!(diff.contains(&format!("created {BOB}")), "{diff}");
    let diff = page(&mut visitor, "/history/diff?from=yesterday", StatusCode::UNPROCESSABLE_ENTITY);
    assert!(shown(&diff.await).contains("expected a revision or a time"));

    // Page after page, each revision once.
    for n in 0..25 {
        let body = json!({ "member": format!("user::\"u{n}\""), "role": "role::\"staff\"" });
        center.ask("POST", "/v1/roles/assign", Some(body)).await.good();
    }
    let (mut path, mut seen) = ("/history?service=orders&kind=member".to_owned(), Vec::new());
    loop {
        let list = page(&mut visitor, &path, OK).await;
        let revisions = list.split("<b class=\"rev\">").skip(1);
        seen.extend(revisions.map(|rest| rest.split('<').next().unwrap().to_owned()));
        let next =
            list.split("href=\"").find(|link| link.contains("before=") && link.contains(">Older"));
        let Some(next) = next else { break };
        path = next.split('"').next().unwrap().replace("&amp;", "&");
    }
    assert_eq!(seen.len(), 27, "{seen:?}");
    assert_eq!(seen.iter().collect::<std::collections::BTreeSet<_>>().len(), 27);
    center.stop().await;
}

/// What is not kept is not known, and nothing is made of it.
#[tokio::test]
async fn a_revision_that_is_not_kept_is_not_known() {
    let dir = Dir::new();
    let keep = Retention { audit_rows: 4, past_bytes: 1_500, ..Retention::DEFAULT };
    let center = Running::with(CenterConfig { retention: keep, ..config(&dir) }).await;
    taken(&center).await;
    for _ in 0..10 {
        center.member("alice", "assign").await.good();
        center.member("alice", "revoke").await.good();
    }
    let mut visitor = Visitor::signed_in(&center, &center.admin).await;
    let old = shown(&page(&mut visitor, "/history?service=orders&revision=2", OK).await);
    assert!(old.contains("Not known") && old.contains("older states are not kept"), "{old}");
    assert!(!old.contains("There is no such thing") && !old.contains("Go back to before"), "{old}");
    center.stop().await;
}

#[tokio::test]
async fn going_back_is_previewed_confirmed_and_one_revision() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let (given, gone) = taken(&center).await;
    center.service("stock", &[]).await;
    let head = revision(&center).await;
    let viewer = center.token("viewer", "").await;
    let editor = center.token("editor", "stock").await;
    let tokens = revision(&center).await;
    let mut visitor = Visitor::signed_in(&center, &center.admin).await;

    // The preview names what it gives and what must be confirmed. It changes nothing.
    let back = format!("/history/back?service=orders&to={given}");
    let preview = page(&mut visitor, &back, OK).await;
    let words = shown(&preview);
    assert!(words.contains("It would give back what was taken away since: 1"), "{words}");
    assert!(words.contains(&format!("taken away at revision {gone}")), "{words}");
    assert!(
        words.contains("What it gives and takes")
            && words.contains("Give back what is listed, too (1)"),
        "{words}"
    );
    assert_eq!(field(&preview, "listed"), BOB);
    assert_eq!(revision(&center).await, tokens);
    let over = field(&preview, "over");
    assert_eq!(over, tokens.to_string());

    // Not confirmed: refused, and named.
    let to = given.to_string();
    let form =
        [("service", "orders"), ("to", to.as_str()), ("over", over.as_str()), ("listed", BOB)];
    let with = |more: &[(&'static str, &'static str)]| [&form[..], more].concat();
    let answer = visitor.post("/history/back", &with(&[("do", "make")])).await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{}", text(&answer));
    assert!(shown(&text(&answer)).contains("it would give back what was taken away since"));
    // A form without its token, a viewer, the editor of another service: refused as everywhere.
    let good = with(&[("do", "make"), ("confirmed", "yes")]);
    let mut forged = good.clone();
    forged.insert(0, ("csrf", "0"));
    let own = format!("http://{}", center.addr);
    let answer = visitor.post_from("/history/back", &[("origin", &own)], &forged).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    for token in [&viewer, &editor] {
        let mut other = Visitor::signed_in(&center, token).await;
        let answer = other.post("/history/back", &good).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", text(&answer));
        assert!(shown(&text(&answer)).contains("Your token may not do this"));
    }
    let mut reader = Visitor::signed_in(&center, &viewer).await;
    let list =
        shown(&page(&mut reader, &format!("/history?service=orders&revision={gone}"), OK).await);
    assert!(
        list.contains("may read this, and not change it") && !list.contains("Go back to before")
    );
    // Somebody was faster: it is told, and shown anew.
    let late = [
        ("service", "orders"),
        ("to", to.as_str()),
        ("over", "2"),
        ("listed", BOB),
        ("confirmed", "yes"),
        ("do", "make"),
    ];
    let answer = visitor.post("/history/back", &late).await;
    assert_eq!(answer.status, StatusCode::PRECONDITION_FAILED, "{}", text(&answer));
    assert!(shown(&text(&answer)).contains("Somebody changed it meanwhile"));
    assert!(!center.allowed("bob").await);
    assert_eq!(revision(&center).await, tokens);

    // Only of one service: what the directory has stays; there is nothing to change.
    let own = page(&mut visitor, &format!("{back}&only=yes"), OK).await;
    assert!(shown(&own).contains("Nothing would change"), "{}", shown(&own));

    // Confirmed: one revision, in the log as whoever did it, and shown.
    let answer = visitor.post("/history/back", &good).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", text(&answer));
    assert_eq!(revision(&center).await, tokens + 1);
    assert!(center.allowed("bob").await);
    let landed = header(&answer, "location").to_owned();
    let done = shown(&page(&mut visitor, &landed, OK).await);
    assert!(done.contains(&format!("Done, as revision {}", tokens + 1)), "{done}");
    assert!(done.contains("rollback") && done.contains(&format!("created {BOB}")), "{done}");
    let log = center.ask("GET", "/v1/audit?newest=true&limit=1", None).await.good();
    assert_eq!(log["entries"][0]["action"], "rollback");
    assert_eq!(log["entries"][0]["actor"], center.admin.split('_').nth(1).unwrap());
    // The service that came after that state is gone; it was part of the whole state.
    assert!(head > gone);
    center.ask("GET", "/v1/services/stock", None).await.problem(404);
    center.stop().await;
}

/// More than one page of what was taken away: it is confirmed page after page, and lands once.
#[tokio::test]
async fn many_conflicts_are_confirmed_page_after_page() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let members: Vec<String> = (0..1_500).map(|n| format!("'user::\"u{n}\"'")).collect();
    let role = "[[role]]\nid = \"many\"\ndescription = \"all\"\nmembers = [";
    let files = json!({ "files": {
        "service.toml": "name = \"orders\"",
        "roles.toml": format!("{role}{}]\n", members.join(", ")),
    } });
    center.ask("POST", "/v1/services/orders/apply", Some(files)).await.good();
    let to = revision(&center).await.to_string();
    center.ask("DELETE", "/v1/roles/many?cascade=true", None).await.good();
    let head = revision(&center).await;
    let mut visitor = Visitor::signed_in(&center, &center.admin).await;
    let first = page(&mut visitor, &format!("/history/back?service=orders&to={to}"), OK).await;
    assert!(shown(&first).contains("Confirm, and show the other 50"), "{}", shown(&first));
    assert!(!first.contains("value=\"make\""), "it cannot be made yet");
    let send = |page: &str, deed: &str| {
        let mut form: Vec<(&str, String)> =
            ["to", "over", "undo", "listed"].map(|name| (name, field(page, name))).into();
        form.push(("service", "orders".to_owned()));
        form.push(("confirmed", "yes".to_owned()));
        form.push(("do", deed.to_owned()));
        form
    };
    let form = send(&first, "more");
    let fields: Vec<(&str, &str)> =
        form.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let answer = visitor.post("/history/back", &fields).await;
    assert_eq!(answer.status, OK);
    let second = text(&answer);
    assert!(shown(&second).contains("Confirmed to be given back: 1,000"), "{}", shown(&second));
    assert_eq!(field(&second, "undo").lines().count(), 1_000);
    assert_eq!(revision(&center).await, head);
    let form = send(&second, "make");
    let fields: Vec<(&str, &str)> =
        form.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let answer = visitor.post("/history/back", &fields).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", shown(&text(&answer)));
    assert_eq!(revision(&center).await, head + 1);
    let list = center.ask("GET", "/v1/members?limit=1000", None).await.good();
    assert_eq!(list["members"].as_array().unwrap().len(), 1_000);
    center.stop().await;
}

#[tokio::test]
async fn access_and_why_say_by_what_since_when_and_as_of_when() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let (given, gone) = taken(&center).await;
    center.member("alice", "assign").await.good();
    let text =
        "permit (principal, action == Action::\"GET\", resource) when { context.hour < 18 };";
    let path = "/v1/services/orders/policies/by-day";
    center.ask("PUT", path, Some(json!({ "text": text }))).await.good();
    let grant = json!({ "principal": { "type": "user", "id": "carol" },
        "actions": [{ "type": "Action", "id": "DELETE" }] });
    center.ask("PUT", "/v1/services/orders/grants/carols", Some(grant)).await.good();
    let mut visitor = Visitor::signed_in(&center, &center.admin).await;
    let me = center.admin.split('_').nth(1).unwrap().to_owned();

    let who = "/access?service=orders&tab=who&resource=route::%22/x%22";
    let found = shown(&page(&mut visitor, &format!("{who}&action=DELETE"), OK).await);
    assert!(
        found.contains("user::\"alice\"") && found.contains("member of role::\"staff\""),
        "{found}"
    );
    assert!(found.contains(&me), "{found}");
    assert!(found.contains("grant carols") && !found.contains("user::\"bob\""), "{found}");
    let found = shown(&page(&mut visitor, &format!("{who}&action=GET"), OK).await);
    assert!(
        found.contains("It depends on the request") && found.contains("context.hour < 18"),
        "{found}"
    );
    // As of a state that was, and of one that never was.
    let then = shown(&page(&mut visitor, &format!("{who}&action=DELETE&as_of={given}"), OK).await);
    assert!(then.contains("user::\"bob\"") && !then.contains("user::\"alice\""), "{then}");
    let never = visitor.get(&format!("{who}&as_of=99999")).await;
    assert!(never.status.is_client_error());
    // What can she do; a name alone is a user.
    let what = "/access?service=orders&tab=what&principal=carol";
    let found = shown(&page(&mut visitor, what, OK).await);
    assert!(found.contains("grant carols") && found.contains("Permits"), "{found}");
    assert!(
        found.contains("keepgate access --principal 'user::\"carol\"' --service 'orders' --csv"),
        "{found}"
    );
    let found = page(&mut visitor, "/access?service=orders&tab=role&role=staff", OK).await;
    assert!(
        shown(&found).contains("user::\"alice\"") && found.contains("/access/take?"),
        "{found}"
    );

    // What giving a role would give, by policies as well as by grants; nothing changes.
    let give = "/access/give?service=orders&member=bob&role=staff";
    let preview = shown(&page(&mut visitor, give, OK).await);
    assert!(preview.contains("orders: action, resource, by policy staff"), "{preview}");
    assert!(!preview.contains("carols") && !center.allowed("bob").await, "{preview}");

    // Why?, now and then, with what the condition saw.
    let why =
        "/why?service=orders&principal=user::%22bob%22&action=DELETE&resource=route::%22/x%22";
    let now = shown(&page(&mut visitor, why, OK).await);
    assert!(now.contains("may not DELETE") && now.contains("Give role::\"staff\""), "{now}");
    assert!(now.contains("is not stored, and is in nothing"), "{now}");
    let then = shown(&page(&mut visitor, &format!("{why}&as_of={given}"), OK).await);
    assert!(then.contains("user::\"bob\" may DELETE") && then.contains("It landed on"), "{then}");
    assert!(then.contains("member role::\"staff\"") && then.contains("Ask now"), "{then}");
    let then = shown(&page(&mut visitor, &format!("{why}&as_of={gone}"), OK).await);
    assert!(then.contains("may not DELETE"), "{then}");
    let why = why.replace("DELETE", "GET") + "&context=%7B%22hour%22:20%7D";
    let saw = shown(&page(&mut visitor, &why, OK).await);
    assert!(saw.contains("its condition is false") && saw.contains("context.hour 20"), "{saw}");
    center.stop().await;
}

#[tokio::test]
async fn fields_are_completed_in_bounds() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    taken(&center).await;
    for n in 0..40 {
        let body = json!({ "member": format!("user::\"u{n:02}\""), "role": "role::\"staff\"" });
        center.ask("POST", "/v1/roles/assign", Some(body)).await.good();
    }
    let client = json!({ "member": "client::\"u-crawler\"", "role": "role::\"staff\"" });
    center.ask("POST", "/v1/roles/assign", Some(client)).await.good();
    let route = json!({ "method": "GET", "path": "/orders/{id}" });
    let put =
        center.ask("PUT", "/v1/services/orders/routes/GET%20%2Forders%2F%7Bid%7D", Some(route));
    put.await.good();
    let mut visitor = Visitor::signed_in(&center, &center.admin).await;
    let mut ask = async |field: &str, typed: &str| {
        let path = format!("/complete?service=orders&field={field}&q={typed}");
        let answer = visitor.get(&path).await;
        assert_eq!(header(&answer, "content-type"), "application/json");
        serde_json::from_slice::<Vec<String>>(&answer.body).unwrap()
    };
    let found = ask("principal", "user::%22u0").await;
    assert_eq!(found.len(), 10, "{found:?}");
    assert_eq!(ask("principal", "user").await.len(), 12);
    // A name alone is looked for in each type.
    let found = ask("member", "u-").await;
    assert_eq!(found, ["client::\"u-crawler\""]);
    let found = ask("principal", "u3").await;
    assert!(found.len() == 10 && found[0] == "user::\"u30\"", "{found:?}");
    assert_eq!(ask("action", "g").await, ["GET"]);
    assert_eq!(ask("resource", "/ord").await, ["route::\"/orders/{id}\""]);
    // At the bound and beyond it; a field that is not known.
    assert_eq!(ask("principal", &"u".repeat(256)).await, [""; 0]);
    assert_eq!(ask("principal", &"u".repeat(257)).await, [""; 0]);
    assert_eq!(ask("token", "").await, [""; 0]);
    center.stop().await;
}
