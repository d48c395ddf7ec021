//! apply, export, check, token, key, role and service against a real center.

use expect_test::{Expect, expect};
use serde_json::Value;

use crate::harness::{Scratch, keepgate_ok, keepgate_run};
use crate::separate::CenterProcess;

fn examples(name: &str) -> String {
    format!("{}/../../examples/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Numbers that depend on how many writes a start makes.
fn without_revision(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let line = line.split_once("revision ").map_or(line.to_owned(), |(before, after)| {
            let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{before}revision N{after}")
        });
        out += &line;
        out.push('\n');
    }
    out
}

fn check(center: &CenterProcess, args: &[&str], code: i32, stdout: Expect) {
    let args = center.with(args);
    let said = keepgate_run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    stdout.assert_eq(&without_revision(&said.stdout));
    assert_eq!(said.code, code, "{said:?}");
}

#[test]
fn a_directory_goes_in_and_comes_out() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    let orders = examples("orders");
    let dry = expect![[r#"
        + role      role::"orders-admin"
        + role      role::"orders-reader"
        + member    client::"crawler" in role::"orders-reader"
        + member    user::"alice" in role::"orders-admin"
        + member    user::"bob" in role::"orders-reader"
        + service   orders
        + entity    client::"crawler"
        + entity    user::"alice"
        + entity    user::"bob"
        + policy    clients-only-read
        + grant     orders-admin-all
        + grant     orders-reader-get
        + route     DELETE /orders/{id}
        + route     GET /orders
        + route     GET /orders/{id}
        + route     POST /orders
        + access    client::"crawler" gains membership in role::"orders-reader", which may GET on route::"/orders"
        + access    user::"alice" gains membership in role::"orders-admin", which may DELETE, GET, POST on route::"/orders"
        + access    user::"bob" gains membership in role::"orders-reader", which may GET on route::"/orders"
        - access    whom it applies to loses what policy `clients-only-read` forbids
        + access    role::"orders-admin" gains DELETE, GET, POST on route::"/orders" (grant `orders-admin-all`)
        + access    role::"orders-reader" gains GET on route::"/orders" (grant `orders-reader-get`)
        request GET /orders                                  -> Action::"GET" on route::"/orders"
        request POST /orders                                 -> Action::"POST" on route::"/orders"
        request DELETE /orders/1                             -> Action::"DELETE" on route::"/orders/{id}"
        request GET /orders/1                                -> Action::"GET" on route::"/orders/{id}"
        orders: 16 to create, 0 to update, 0 to delete; a dry run, nothing was changed
    "#]];
    check(&center, &["apply", &orders, "--dry-run"], 0, dry);
    check(
        &center,
        &["service", "list"],
        0,
        expect![[r#"
        NAME  POLICIES  GRANTS  ROUTES  NEXT GRANT TO END
    "#]],
    );
    let applied = center.ok(&["apply", &orders]);
    assert!(applied.contains("orders: 16 created, 0 updated, 0 deleted, revision "), "{applied}");
    check(
        &center,
        &["apply", &orders],
        0,
        expect![[r#"
        orders: nothing to change, revision N
    "#]],
    );
    check(
        &center,
        &["service", "list"],
        0,
        expect![[r#"
            NAME    POLICIES  GRANTS  ROUTES  NEXT GRANT TO END
            orders  1         2       4
        "#]],
    );

    // Out, and in again: nothing changes. Out of what came out: the same files.
    let out = scratch.join("out");
    let out = out.to_str().unwrap();
    center.ok(&["export", out]);
    check(
        &center,
        &["apply", out],
        0,
        expect![[r#"
        orders: nothing to change, revision N
    "#]],
    );
    let again = scratch.join("again");
    center.ok(&["export", again.to_str().unwrap(), "--service", "orders"]);
    let files = |dir: &str| {
        let mut files: Vec<(String, String)> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                (
                    path.file_name().unwrap().to_str().unwrap().to_owned(),
                    std::fs::read_to_string(&path).unwrap(),
                )
            })
            .collect();
        files.sort();
        files
    };
    assert_eq!(files(out), files(again.to_str().unwrap()));

    // A directory that has policy files is not overwritten by mistake, and with --force exactly.
    let args = center.with(&["export", out]);
    let said = keepgate_run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("has policy files already"), "{said:?}");
    std::fs::write(scratch.join("out/stale.cedar"), "forbid (principal, action, resource);")
        .unwrap();
    center.ok(&["export", out, "--force"]);
    assert_eq!(files(out), files(again.to_str().unwrap()));

    // What is gone from the directory is gone from the service.
    std::fs::remove_file(scratch.join("out/orders.cedar")).unwrap();
    check(
        &center,
        &["apply", out, "--dry-run"],
        0,
        expect![[r#"
            - policy    clients-only-read
            + access    whom it applies to gains what policy `clients-only-read` forbids
            request GET /orders                                  -> Action::"GET" on route::"/orders"
            request POST /orders                                 -> Action::"POST" on route::"/orders"
            request DELETE /orders/1                             -> Action::"DELETE" on route::"/orders/{id}"
            request GET /orders/1                                -> Action::"GET" on route::"/orders/{id}"
            orders: 0 to create, 0 to update, 1 to delete; a dry run, nothing was changed
        "#]],
    );
    center.process.stop();
}

#[test]
fn what_is_wrong_is_shown_by_file_and_line() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    scratch.write("bad/service.toml", "name = \"orders\"\n");
    scratch.write(
        "bad/a.cedar",
        "permit (principal, action, resource);\n\npermit (principal, action resource);\n",
    );
    let dir = scratch.join("bad");
    let args = center.with(&["apply", dir.to_str().unwrap()]);
    let said = keepgate_run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains(&format!("{}/a.cedar:3: ", dir.display())), "{said:?}");
    assert!(said.stderr.ends_with("error: 1 problem; nothing was changed\n"), "{said:?}");
    check(
        &center,
        &["service", "list"],
        0,
        expect![[r#"
        NAME  POLICIES  GRANTS  ROUTES  NEXT GRANT TO END
    "#]],
    );
    std::fs::remove_file(scratch.join("bad/service.toml")).unwrap();
    let args = center.with(&["apply", dir.to_str().unwrap()]);
    let said = keepgate_run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(said.code, 64, "{said:?}");
    assert!(said.stderr.contains("has no service.toml"), "{said:?}");
    center.process.stop();
}

#[test]
fn decisions_and_their_reasons() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    center.ok(&["apply", &examples("orders")]);
    let question = |principal: &'static str, action: &'static str| {
        [
            "check",
            "--principal",
            principal,
            "--action",
            action,
            "--resource",
            "route::\"/orders/{id}\"",
            "--service",
            "orders",
        ]
    };
    check(
        &center,
        &question("user::\"alice\"", "DELETE"),
        0,
        expect![[r#"
        allow
    "#]],
    );
    check(
        &center,
        &question("user::\"bob\"", "DELETE"),
        2,
        expect![[r#"
        deny
    "#]],
    );
    check(
        &center,
        &[&question("user::\"bob\"", "GET")[..], &["--explain"]].concat(),
        0,
        expect![[r#"
            allow
            these policies permit it and none forbids it (revision N)

              orders: orders-reader-get
                permit (principal in role::"orders-reader", action in [Action::"GET"], resource in route::"/orders");
                principal -> role::"orders-reader" (member)
                resource -> route::"/orders"

            others that do not apply:
              orders: clients-only-read (forbid): `user::"bob"` does not match `principal is client`
              orders: orders-admin-all (permit): `user::"bob"` is not in `role::"orders-admin"`
        "#]],
    );
    check(
        &center,
        &[&question("user::\"bob\"", "DELETE")[..], &["--explain"]].concat(),
        2,
        expect![[r#"
            deny
            no policy permits it (revision N)

            came near:
              orders: orders-admin-all (permit): `user::"bob"` is not in `role::"orders-admin"`
              orders: orders-reader-get (permit): `Action::"DELETE"` does not match `action in [Action::"GET"]`

            others that do not apply:
              orders: clients-only-read (forbid): `user::"bob"` does not match `principal is client`
        "#]],
    );
    check(
        &center,
        &[&question("client::\"crawler\"", "DELETE")[..], &["--explain"]].concat(),
        2,
        expect![[r#"
            deny
            these policies forbid it (revision N)

              orders: clients-only-read
                // Whatever roles it is put into, a program changes nothing: a forbid outweighs every permit.
                @id("clients-only-read")
                forbid (principal is client, action, resource)
                unless { action == Action::"GET" };

            came near:
              orders: orders-admin-all (permit): `client::"crawler"` is not in `role::"orders-admin"`
              orders: orders-reader-get (permit): `Action::"DELETE"` does not match `action in [Action::"GET"]`
        "#]],
    );
    let json = center.with(&[&question("client::\"crawler\"", "DELETE")[..], &["--json"]].concat());
    let said = keepgate_run(&json.iter().map(String::as_str).collect::<Vec<_>>());
    let answer: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(
        (said.code, answer["decision"].clone(), answer["reason"].clone()),
        (2, false.into(), "forbid".into())
    );

    // Roles: a change is seen by the next question.
    check(
        &center,
        &["role", "assign", "user::\"bob\"", "orders-admin"],
        0,
        expect![[r#"
        user::"bob" is in role::"orders-admin", revision N
    "#]],
    );
    check(
        &center,
        &question("user::\"bob\"", "DELETE"),
        0,
        expect![[r#"
        allow
    "#]],
    );
    check(
        &center,
        &["role", "list"],
        0,
        expect![[r#"
        ROLE                   MEMBERS                         DESCRIPTION
        role::"orders-admin"   user::"alice", user::"bob"      everything on orders
        role::"orders-reader"  client::"crawler", user::"bob"  reads orders
    "#]],
    );
    check(
        &center,
        &["role", "revoke", "user::\"bob\"", "role::\"orders-admin\""],
        0,
        expect![[r#"
        user::"bob" is no longer in role::"orders-admin", revision N
    "#]],
    );
    check(
        &center,
        &question("user::\"bob\"", "DELETE"),
        2,
        expect![[r#"
        deny
    "#]],
    );
    let again = center.with(&["role", "revoke", "user::\"bob\"", "orders-admin"]);
    let said = keepgate_run(&again.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains(" 404 "), "{said:?}");

    center.ok(&["service", "show", "orders"]);
    check(
        &center,
        &["service", "delete", "orders", "--yes"],
        0,
        expect![[r#"
        deleted orders
    "#]],
    );
    check(
        &center,
        &["service", "list", "--json"],
        0,
        expect![[r#"
            {
              "revision": 5,
              "services": []
            }
        "#]],
    );
    center.process.stop();
}

#[test]
fn secrets_are_shown_once_and_revoked() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    center.ok(&["apply", &examples("orders")]);

    let token = center.ok(&["token", "create", "--role", "viewer", "--note", "for the test"]);
    let id = token.split('_').nth(1).unwrap().to_owned();
    assert_eq!(token.lines().count(), 1, "the token alone: {token}");
    assert!(token.starts_with("kgt_"), "{token}");
    let viewer = scratch.write("viewer.token", &token);
    let viewer = ["--center", &center.url, "--token-file", viewer.to_str().unwrap()];
    keepgate_ok(&[&["service", "list"][..], &viewer].concat());
    let said = keepgate_run(&[&["token", "list"][..], &viewer].concat());
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains(" 403 "), "{said:?}");
    let listed = center.ok(&["token", "list"]);
    assert!(listed.contains(&id) && listed.contains("for the test"), "{listed}");
    assert!(!listed.contains(token.trim()), "{listed}");
    // The whole token will do for its id.
    center.ok(&["token", "revoke", token.trim()]);
    let said = keepgate_run(&[&["service", "list"][..], &viewer].concat());
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains(" 401 "), "{said:?}");
    assert_eq!(keepgate_run(&["token", "create", "--role", "gate"]).code, 64);

    let key =
        center.ok(&["key", "create", "--principal", "client::\"crawler\"", "--expires-in", "90d"]);
    assert!(key.starts_with("kgk_") && key.lines().count() == 1, "{key}");
    let prefix = key.split('_').nth(1).unwrap().to_owned();
    let next = center.ok(&["key", "rotate", &prefix, "--overlap", "10m"]);
    assert!(next.starts_with("kgk_") && next != key, "{next}");
    let listed = center.ok(&["key", "list", "--service", "orders"]);
    assert!(listed.contains("client::\"crawler\"") && !listed.contains(next.trim()), "{listed}");
    center.ok(&["key", "revoke", next.trim()]);
    let listed: Value = serde_json::from_str(&center.ok(&["key", "list", "--json"])).unwrap();
    let next = next.split('_').nth(1).unwrap();
    assert!(!listed.to_string().contains(next), "{listed}");
    center.process.stop();
}

#[test]
fn a_dry_run_warns_of_spellings_that_frameworks_fold() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    scratch.write("policy/service.toml", "name = \"shop\"\n");
    scratch.write(
        "policy/routes.toml",
        "[[route]]\nmethod = \"*\"\npath = \"/{*rest}\"\n\n[[route]]\nmethod = \"*\"\npath = \"/admin\"\n",
    );
    scratch.write(
        "policy/all.cedar",
        "permit (principal, action, resource);\n\
         forbid (principal, action, resource in route::\"/admin\");\n",
    );
    let dir = scratch.join("policy");
    let apply = |args: &[&str]| {
        let args = [&["apply", dir.to_str().unwrap()][..], args].concat();
        let args = center.with(&args);
        keepgate_run(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let said = apply(&["--dry-run"]);
    assert_eq!(said.code, 0, "{said:?}");
    let warned = said.stderr.lines().find(|line| line.contains("`/Admin`")).unwrap_or_default();
    assert!(warned.contains("routes.toml:") && warned.contains("paths_fold"), "{said:?}");
    assert!(apply(&[]).stderr.contains("`/Admin`"), "an apply warns, too");
    assert_eq!(apply(&["--strict"]).code, 1);
    scratch.write("policy/service.toml", "name = \"shop\"\npaths_fold = \"case\"\n");
    assert!(!apply(&["--dry-run"]).stderr.contains("`/Admin`"));
}
