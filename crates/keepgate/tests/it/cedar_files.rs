//! Directories of Cedar files as people have them, from the command line: what Cedar's own examples have,
//! in sets of our own.

use serde_json::Value;

use crate::harness::{Said, Scratch, keepgate_run};
use crate::separate::CenterProcess;

fn said(center: &CenterProcess, args: &[&str]) -> Said {
    let args = center.with(args);
    keepgate_run(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A schema in JSON, policies in JSON, a linked template, entities by Cedar's name, requests, words for
/// people, other directories, and byte order marks.
fn shop(scratch: &Scratch) -> String {
    for (name, text) in [
        (
            "shop/model/shop.cedarschema.json",
            r#"{"Shop": {"entityTypes": {"User": {"memberOfTypes": ["Team"]}, "Team": {},
                "Order": {"shape": {"type": "Record", "attributes": {"owner": {"type": "Entity", "name": "User"}}}}},
              "actions": {"view": {"appliesTo": {"principalTypes": ["User"], "resourceTypes": ["Order"],
                "context": {"type": "Record", "attributes": {"ip": {"type": "Extension", "name": "ipaddr", "required": false}}}}}}}}"#,
        ),
        (
            "shop/policies/all.cedar",
            "\u{feff}// The owner sees the order.\npermit (principal, action == Shop::Action::\"view\", resource)\n\
             when { resource.owner == principal };\n\n\
             permit (principal == ?principal, action == Shop::Action::\"view\", resource == ?resource);\n",
        ),
        (
            "shop/policies/office.cedar.json",
            r#"{"effect": "permit", "principal": {"op": "in", "entity": {"type": "Shop::Team", "id": "office"}},
              "action": {"op": "==", "entity": {"type": "Shop::Action", "id": "view"}}, "resource": {"op": "All"},
              "conditions": [{"kind": "when", "body": {"&&": {"left": {"has": {"left": {"Var": "context"}, "attr": "ip"}},
                "right": {"isInRange": [{".": {"left": {"Var": "context"}, "attr": "ip"}}, {"ip": [{"Value": "10.0.0.0/8"}]}]}}}}]}"#,
        ),
        (
            "shop/linked",
            r#"[{"template_id": "policy1", "link_id": "carl-17",
              "args": {"?principal": "Shop::User::\"carl\"", "?resource": "Shop::Order::\"17\""}}]"#,
        ),
        (
            "shop/shop.cedarentities.json",
            "\u{feff}[{\"uid\": {\"type\": \"Shop::User\", \"id\": \"bob\"}, \"attrs\": {}, \
             \"parents\": [{\"type\": \"Shop::Team\", \"id\": \"office\"}]},\n\
             {\"uid\": {\"__entity\": {\"type\": \"Shop::Order\", \"id\": \"17\"}}, \
             \"attrs\": {\"owner\": {\"__entity\": {\"type\": \"Shop::User\", \"id\": \"ann\"}}}, \"parents\": []}]",
        ),
        ("shop/NOTES", "Words."),
        ("shop/ALLOW/ann.json", request("ann", "{}").as_str()),
        ("shop/ALLOW/carl.json", format!("\u{feff}{}", request("carl", "{}")).as_str()),
        (
            "shop/ALLOW/bob.json",
            request("bob", r#"{"ip": {"__extn": {"fn": "ip", "arg": "10.0.0.7"}}}"#).as_str(),
        ),
        ("shop/DENY/bob.json", request("bob", "{}").as_str()),
    ] {
        scratch.write(name, text);
    }
    scratch.join("shop").to_str().unwrap().to_owned()
}

fn request(who: &str, context: &str) -> String {
    format!(
        "{{\"principal\": \"Shop::User::\\\"{who}\\\"\", \"action\": \"Shop::Action::\\\"view\\\"\", \
         \"resource\": \"Shop::Order::\\\"17\\\"\", \"context\": {context}}}"
    )
}

#[test]
fn a_directory_of_cedar_files_is_applied_as_it_is() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    let shop = shop(&scratch);
    let nameless = said(&center, &["apply", &shop]);
    assert_eq!(nameless.code, 64, "{nameless:?}");
    assert!(nameless.stderr.contains("--service NAME"), "{nameless:?}");
    let done = said(&center, &["apply", &shop, "--service", "shop", "--strict"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.contains("+ link      carl-17"), "{done:?}");
    assert!(done.stderr.contains("not applied: `ALLOW/ann.json` and 3 more"), "{done:?}");
    for (file, code) in
        [("ALLOW/ann.json", 0), ("ALLOW/carl.json", 0), ("ALLOW/bob.json", 0), ("DENY/bob.json", 2)]
    {
        let path = format!("{shop}/{file}");
        let answer = said(&center, &["check", "--request", &path, "--service", "shop"]);
        assert_eq!(answer.code, code, "{file}: {answer:?}");
    }
    // It comes out as text, and goes in again without a change.
    let out = scratch.join("out").to_str().unwrap().to_owned();
    let exported = said(&center, &["export", &out, "--service", "shop"]);
    assert_eq!(exported.code, 0, "{exported:?}");
    assert!(scratch.join("out/policies/all.cedar").exists());
    let again = said(&center, &["apply", &out]);
    assert!(again.stdout.contains("nothing to change"), "{again:?}");
    let over = said(&center, &["export", &shop, "--service", "shop"]);
    assert!(over.code == 1 && over.stderr.contains("has policy files already"), "{over:?}");

    // Requests that are none.
    for (text, wanted) in [
        ("{\"principal\": 1}", "expected a request"),
        ("[]", "expected a request"),
        ("{\"principal\": \"a\", \"principal\": \"b\"}", "occurs twice"),
    ] {
        let path = scratch.write("wrong.json", text);
        let answer = said(&center, &["check", "--request", path.to_str().unwrap()]);
        assert!(answer.code == 64 && answer.stderr.contains(wanted), "{text}: {answer:?}");
    }
    for (bytes, code) in [(1 << 20, 0), ((1 << 20) + 1, 64)] {
        let text = request("ann", "{}");
        let path =
            scratch.write("large.json", &format!("{text}{}", " ".repeat(bytes - text.len())));
        let answer =
            said(&center, &["check", "--request", path.to_str().unwrap(), "--service", "shop"]);
        assert_eq!(answer.code, code, "{bytes}: {answer:?}");
    }
    center.process.stop();
}

#[test]
fn warnings_and_errors_name_their_files() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    scratch.write("p/service.toml", "\u{feff}name = \"p\"\n");
    scratch.write(
        "p/s.cedarschema",
        "entity User, Folder;\nentity Photo;\naction read appliesTo { principal: User, resource: Photo };\n",
    );
    scratch.write(
        "p/a/b.cedar",
        "\npermit(principal is User, action == Action::\"read\", resource is Photo in Folder::\"f\");",
    );
    let dir = scratch.join("p").to_str().unwrap().to_owned();
    let strict = said(&center, &["apply", &dir, "--strict"]);
    assert_eq!(strict.code, 1, "{strict:?}");
    assert!(
        strict.stderr.contains("p/a/b.cedar:2:") && strict.stderr.contains("strict"),
        "{strict:?}"
    );
    for args in [["apply", &dir, "--dry-run"], ["apply", &dir, "--json"]] {
        let done = said(&center, &args);
        assert_eq!(done.code, 0, "{done:?}");
        if args[2] == "--json" {
            let answer: Value = serde_json::from_str(&done.stdout).unwrap();
            assert_eq!(answer["warnings"].as_array().unwrap().len(), 2, "{answer}");
        } else {
            assert!(
                done.stderr.contains("warning:") && done.stderr.contains("a/b.cedar:2"),
                "{done:?}"
            );
        }
    }
    // Two files that do not parse and one that does not fit the schema, in one answer.
    scratch.write("p/c.cedar", "permit (principal action);");
    scratch.write("p/d.cedar", "permit (principal, action == Action::\"raed\", resource);");
    scratch.write("p/roles.toml", "[[role]]\n");
    let wrong = said(&center, &["apply", &dir]);
    for place in ["c.cedar:1:", "d.cedar:1:", "roles.toml:1:"] {
        assert!(wrong.code == 1 && wrong.stderr.contains(place), "{place}: {wrong:?}");
    }
    // Without a name no center can be asked; the other files' errors are told all the same.
    scratch.write("p/service.toml", "name = 1\n");
    let wrong = said(&center, &["apply", &dir]);
    for place in ["service.toml:1:", "c.cedar:1:", "roles.toml:1:"] {
        assert!(wrong.code == 64 && wrong.stderr.contains(place), "{place}: {wrong:?}");
    }
    // A link to a directory above does not go on for ever.
    std::os::unix::fs::symlink(&dir, scratch.join("p/a/up")).unwrap();
    let deep = said(&center, &["apply", &dir]);
    assert!(deep.code == 64 && deep.stderr.contains("directories deep"), "{deep:?}");
    center.process.stop();
}
