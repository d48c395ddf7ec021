//! Who brought an item, and what an apply of files makes of what others did: nothing that was taken
//! away or changed comes back unseen.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::bulk::import;
use crate::fixture::{Answer, Dir, Running, STAFF};

async fn apply(center: &Running, query: &str, files: &Value) -> Answer {
    let path = format!("/v1/services/orders/apply{query}");
    center.ask("POST", &path, Some(json!({ "files": files }))).await
}

fn staff(members: &[&str]) -> Value {
    let members: Vec<String> = members.iter().map(|who| format!("'user::\"{who}\"'")).collect();
    json!({
        "service.toml": "name = \"orders\"\n",
        "staff.cedar": STAFF,
        "roles.toml": format!("[[role]]\nid = \"staff\"\nmembers = [{}]\n", members.join(", ")),
    })
}

fn names(list: &Value) -> Vec<String> {
    let name = |item: &Value| format!("{} {}", item["kind"], item["id"]).replace('"', "");
    list.as_array().map(|list| list.iter().map(name).collect()).unwrap_or_default()
}

#[tokio::test]
async fn a_revocation_survives_restarts_and_applies() {
    let dir = Dir::new();
    let mut center = Running::start(&dir).await;
    apply(&center, "", &staff(&["alice", "bob"])).await.good();
    assert!(center.allowed("bob").await);
    center.member("bob", "revoke").await.good();
    for _ in 0..2 {
        assert!(!center.allowed("bob").await);
        let answer = apply(&center, "", &staff(&["alice", "bob"])).await.good();
        assert_eq!(names(&answer["conflicts"]), [r"member user::\bob\ in role::\staff\"]);
        let conflict = &answer["conflicts"][0];
        assert_eq!(conflict["action"], "role.revoke", "{answer}");
        assert_eq!((&conflict["file"], &conflict["line"]), (&json!("roles.toml"), &json!(3)));
        assert_eq!(answer["changes"], json!([]));
        center.stop().await;
        center = Running::start(&dir).await;
    }
    // What else the files say lands all the same.
    let answer = apply(&center, "", &staff(&["alice", "bob", "carol"])).await.good();
    assert_eq!(answer["conflicts"].as_array().unwrap().len(), 1);
    assert!(center.allowed("carol").await && !center.allowed("bob").await);
    // By a dry run the same is told.
    let dry = apply(&center, "?dry_run=true", &staff(&["bob"])).await.good();
    assert_eq!(names(&dry["conflicts"]).len(), 1);
    // Whoever says so has what the files say, and it is named.
    let over = apply(&center, "?overwrite=true", &staff(&["alice", "bob", "carol"])).await.good();
    assert_eq!(names(&over["changes"]), [r"member user::\bob\ in role::\staff\"]);
    assert_eq!(over.get("conflicts"), None);
    assert!(center.allowed("bob").await);
    let again = apply(&center, "", &staff(&["alice", "bob", "carol"])).await.good();
    assert_eq!((again.get("conflicts"), &again["changes"]), (None, &json!([])));
    // What the files no longer have goes, and comes again with them: no command took it away.
    apply(&center, "", &staff(&["alice"])).await.good();
    assert!(!center.allowed("bob").await);
    apply(&center, "", &staff(&["alice", "bob"])).await.good();
    assert!(center.allowed("bob").await);
    center.stop().await;
}

#[tokio::test]
async fn what_others_brought_stays_and_is_named() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    apply(&center, "", &staff(&["alice"])).await.good();
    center.member("zoe", "assign").await.good();
    let grant = json!({ "principal": { "type": "user", "id": "eve" }, "actions": [] });
    center.ask("PUT", "/v1/services/orders/grants/eve", Some(grant)).await.good();
    let line = r#"{"uid":"user::\"ivy\""}"#;
    import(&center, "/v1/services/orders/import/entities", line).await.good();
    let answer = apply(&center, "", &staff(&["alice"])).await.good();
    let stays = names(&answer["stays"]);
    let all = [r"member user::\zoe\ in role::\staff\", r"entity user::\ivy\", "grant eve"];
    assert_eq!(stays, all);
    assert_eq!(answer["stays"][1]["brought"], "import");
    assert_eq!((&answer["changes"], answer.get("conflicts")), (&json!([]), None));
    assert!(center.allowed("zoe").await && center.allowed("eve").await);
    let grants = center.ask("GET", "/v1/services/orders/grants", None).await.good();
    assert_eq!(grants["items"][0]["brought"], "command");
    let members = center.ask("GET", "/v1/members", None).await.good();
    assert_eq!(members["members"][1]["brought"], "command", "{members}");
    // A membership of a role that the files do not have is none of their business.
    let other = json!({ "member": "user::\"zoe\"", "role": "role::\"other\"" });
    center.ask("POST", "/v1/roles/assign", Some(other)).await.good();
    let pruned = apply(&center, "?prune=true", &staff(&["alice"])).await.good();
    assert_eq!(names(&pruned["changes"]), all);
    assert!(!center.allowed("zoe").await && !center.allowed("eve").await);
    let members = center.ask("GET", "/v1/members?member=user::%22zoe%22", None).await.good();
    assert_eq!(members["members"].as_array().unwrap().len(), 1);
    center.stop().await;
}

/// Whether alice may `GET` the orders.
async fn may_get(center: &Running) -> bool {
    let ask = json!({ "service": "orders", "principal": "user::\"alice\"", "action": "GET",
        "resource": "route::\"/orders\"" });
    let answer = center.ask("POST", "/v1/check", Some(ask)).await.good();
    answer["decision"].as_bool().unwrap()
}

/// Each kind of item of files, changed by a command: the change stays and is named, with the text of
/// the files or without it, until someone says otherwise.
#[tokio::test]
async fn what_a_command_changed_stays_as_it_is() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let mut files = staff(&["alice"]);
    files["schema.cedarschema"] = json!(
        "entity role in [role];\nentity user in [role] { level?: Long };\nentity route in [route];\n\
         action GET appliesTo { principal: [user, role], resource: route };\n"
    );
    files["staff.cedar"] =
        json!("permit (principal in role::\"staff\", action == Action::\"GET\", resource);");
    files["t.cedar"] = json!("permit (principal == ?principal, action, resource);");
    files["links.toml"] =
        json!("[[link]]\nid = \"l\"\ntemplate = \"t\"\nprincipal = 'user::\"lin\"'\n");
    files["entities.json"] = json!("[{\"uid\":{\"type\":\"user\",\"id\":\"carl\"},\"attrs\":{}}]");
    files["routes.toml"] = json!("[[route]]\nmethod = \"GET\"\npath = \"/orders\"\n");
    files["limits.toml"] = json!(
        "[[rule]]\nname = \"r\"\nkey = \"address\"\nrate = \"9/s\"\n\n[plan.bulk]\n\
         [[plan.bulk.rule]]\nname = \"b\"\nkey = \"address\"\nrate = \"9/s\"\n"
    );
    apply(&center, "", &files).await.good();
    assert!(may_get(&center).await);
    let service = "/v1/services/orders";
    let schema = files["schema.cedarschema"].as_str().unwrap().replace("level?: Long", "x?: Long");
    for (path, body) in [
        (String::new(), json!({ "help": "https://example.org" })),
        ("/schema".to_owned(), json!({ "text": schema })),
        ("/entities/user::%22carl%22".into(), json!({ "attrs": { "x": 1 } })),
        (
            "/policies/staff".into(),
            json!({ "text": "forbid (principal, action, resource);", "file": "staff.cedar" }),
        ),
        ("/links/l".into(), json!({ "template": "t", "principal": { "type": "user", "id": "m" } })),
        ("/routes/GET%20%2Forders".into(), json!({ "cost": 3 })),
        ("/limits/r".into(), json!({ "key": "address", "rate": "8/s" })),
        (
            "/plans/bulk".into(),
            json!({ "rule": [{ "name": "b", "key": "address", "rate": "8/s" }] }),
        ),
    ] {
        center.ask("PUT", &format!("{service}{path}"), Some(body)).await.good();
    }
    let role = json!({ "description": "by hand", "source": "" });
    center.ask("PUT", "/v1/roles/staff", Some(role)).await.good();
    let all = [
        r"role role::\staff\",
        "service orders",
        "schema orders",
        r"entity user::\carl\",
        "policy staff",
        "link l",
        "route GET /orders",
        "limit r",
        "plan bulk",
    ];
    let answer = apply(&center, "", &files).await.good();
    assert_eq!(names(&answer["conflicts"]), all, "{answer}");
    assert_eq!(answer["changes"], json!([]));
    assert!(!may_get(&center).await, "the forbid of the command stands");
    for conflict in answer["conflicts"].as_array().unwrap() {
        assert!(conflict["message"].as_str().unwrap().starts_with("changed at revision "));
        assert!(conflict["actor"].is_string() && conflict["unix_ms"].is_u64(), "{conflict}");
    }
    // Dropped from the files, it does not go unseen either.
    let mut fewer = files.clone();
    for file in ["staff.cedar", "routes.toml"] {
        fewer.as_object_mut().unwrap().remove(file);
    }
    let answer = apply(&center, "", &fewer).await.good();
    assert_eq!(names(&answer["conflicts"]), all);
    // The files say the same as was made of it: agreed, and from then on theirs.
    let export = center.ask("GET", &format!("{service}/export"), None).await.good();
    let revision = center.revision().await;
    let agreed = apply(&center, "", &export["files"]).await.good();
    assert_eq!((agreed.get("conflicts"), &agreed["revision"]), (None, &json!(revision)));
    let answer = apply(&center, "", &files).await.good();
    assert_eq!((names(&answer["changes"]).len(), answer.get("conflicts")), (all.len(), None));
    assert!(may_get(&center).await);
    center.stop().await;
}

/// A directory with fewer files than before empties nothing unless it is told to.
#[tokio::test]
async fn missing_files_want_to_be_pruned() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let mut files = staff(&["alice"]);
    files["schema.cedarschema"] = json!(
        "entity role in [role];\nentity user in [role];\nentity route in [route];\n\
         action GET appliesTo { principal: [user, role], resource: route };\n"
    );
    files["staff.cedar"] =
        json!("permit (principal in role::\"staff\", action == Action::\"GET\", resource);");
    files["entities.json"] = json!("[{\"uid\":{\"type\":\"user\",\"id\":\"carl\"},\"attrs\":{}}]");
    apply(&center, "", &files).await.good();
    let revision = center.revision().await;
    for (file, empty, sorts) in [
        ("schema.cedarschema", None, "1 of kind schema (`orders`)"),
        ("entities.json", Some("[]"), "1 of kind entity (`user::\"carl\"`)"),
        ("roles.toml", Some(""), "1 of kind role (`role::\"staff\"`), 1 of kind member"),
    ] {
        for text in [None, empty] {
            let mut fewer = files.clone();
            match text {
                Some(text) => fewer[file] = json!(text),
                None => drop(fewer.as_object_mut().unwrap().remove(file)),
            }
            let detail = apply(&center, "", &fewer).await.problem(409);
            assert!(detail.contains(file) && detail.contains(sorts), "{detail}");
            assert!(detail.contains("--prune"), "{detail}");
            let dry = apply(&center, "?dry_run=true", &fewer).await.good();
            assert_eq!(dry["warnings"][0]["id"], file, "{dry}");
            assert_eq!(center.revision().await, revision);
        }
    }
    let mut fewer = files.clone();
    fewer.as_object_mut().unwrap().remove("roles.toml");
    fewer.as_object_mut().unwrap().remove("schema.cedarschema");
    let pruned = apply(&center, "?prune=true", &fewer).await.good();
    assert_eq!(names(&pruned["changes"]).len(), 3, "{pruned}");
    assert!(!center.allowed("alice").await);
    center.stop().await;
}

/// Over a revision: a colleague's change of the service or of the directory is named, one of another
/// service is not in the way.
#[tokio::test]
async fn two_people_do_not_overwrite_each_other() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    apply(&center, "", &staff(&["alice"])).await.good();
    let exported = center.ask("GET", "/v1/services/orders/export", None).await;
    let tag = exported.header("etag").to_owned();
    let exported = exported.good();
    let seen = exported["revision"].as_u64().unwrap();
    assert_eq!(tag, format!("\"{seen}\""));
    let settings = exported["files"]["service.toml"].as_str().unwrap();
    assert_eq!(settings.lines().next(), Some(format!("# revision {seen}").as_str()));
    center.service("other", &[("p", STAFF)]).await;
    let over = format!("?if_revision={seen}");
    let landed = apply(&center, &over, &staff(&["alice", "bob"])).await.good();
    assert_eq!(names(&landed["changes"]).len(), 1);
    // Now someone has changed it: even oneself.
    let colleague = center.token("editor", "").await;
    let grant = json!({ "principal": { "type": "user", "id": "eve" }, "actions": [] });
    let path = "/v1/services/orders/grants/eve";
    center.ask_as(Some(&colleague), "PUT", path, Some(grant)).await.good();
    let actor = colleague.split('_').nth(1).unwrap();
    let refused = apply(&center, &over, &staff(&["alice"])).await;
    let problems = refused.json()["problems"].clone();
    let detail = refused.problem(412);
    assert!(detail.contains(&format!("expected revision {seen}")), "{detail}");
    assert!(detail.contains("2 changes") && detail.contains(actor), "{detail}");
    assert_eq!(names(&problems), ["grant eve", r"member user::\bob\ in role::\staff\"]);
    assert!(
        problems[0]["message"].as_str().unwrap().contains("created by grant.put"),
        "{problems}"
    );
    let by_header = |tag: String| {
        let body = json!({ "files": staff(&["alice"]) }).to_string();
        let request = http::Request::post("/v1/services/orders/apply")
            .header("authorization", format!("Bearer {}", center.admin))
            .header("content-type", "application/json")
            .header("if-match", tag)
            .body(bytes::Bytes::from(body))
            .unwrap();
        center.send(request)
    };
    by_header(tag).await.problem(412);
    let detail = by_header(String::new()).await.problem(400);
    assert!(detail.contains("If-Match"), "{detail}");
    let detail = by_header("\"99999\"".into()).await.problem(412);
    assert!(detail.contains("no such revision yet"), "{detail}");
    by_header(format!("\"{}\"", center.revision().await)).await.good();
    center.stop().await;
}

/// What a dry run tells: texts line by line, access by name, entities that are in the directory, too.
#[tokio::test]
async fn a_dry_run_shows_texts_and_access() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let mut files = staff(&["alice"]);
    files["rule.cedar"] =
        json!("// one\npermit (principal in role::\"staff\",\n  action,\n  resource);");
    files["entities.json"] = json!("[{\"uid\":{\"type\":\"user\",\"id\":\"carl\"}}]");
    apply(&center, "", &files).await.good();
    center.ask("PUT", "/v1/entities/user::%22carl%22", Some(json!({}))).await.good();
    files["rule.cedar"] =
        json!("// one\nforbid (principal in role::\"staff\",\n  action,\n  resource);");
    files["roles.toml"] = json!(
        "[[role]]\nid = \"staff\"\nmembers = ['user::\"bob\"']\n[[role.grant]]\nactions = [\"GET\"]\n\
         resource = 'route::\"/o\"'\n"
    );
    let dry = apply(&center, "?dry_run=true", &files).await.good();
    let of = |id: &str| {
        let changes = dry["changes"].as_array().unwrap();
        changes.iter().find(|change| change["id"] == id).unwrap().clone()
    };
    let diff = of("rule")["diff"].as_str().unwrap().to_owned();
    assert!(diff.contains("-permit (principal in role::\"staff\",\n"), "{diff}");
    assert!(diff.contains("+forbid (principal in role::\"staff\",\n   action,\n"), "{diff}");
    let access: Vec<String> = dry["access"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| format!("{} {} {}", change["gained"], change["principal"], change["message"]))
        .collect();
    let text = access.join("\n").replace("\\\"", "'").replace('"', "");
    for part in [
        "false user::'alice' membership in role::'staff', which may GET on route::'/o'",
        "true user::'bob' membership in role::'staff', which may GET on route::'/o'",
        "true role::'staff' GET on route::'/o' (grant `staff: GET on route::'/o'`)",
        "false any what policy `rule` permits, only with role::'staff'",
        "false any what policy `rule` forbids, only with role::'staff'",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let warned = dry["warnings"].to_string();
    assert!(warned.contains("the directory has an entity of this name, too"), "{warned}");
    // Said when it lands, too; the rest is for a dry run.
    let landed = apply(&center, "", &files).await.good();
    assert!(landed["warnings"].to_string().contains("of this name, too"), "{landed}");
    assert_eq!((landed.get("access"), landed["changes"][0].get("diff")), (None, None));
    center.stop().await;
}

#[tokio::test]
async fn the_audit_log_is_filtered_and_read_from_its_end() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    apply(&center, "", &staff(&["alice"])).await.good();
    let colleague = center.token("editor", "").await;
    let actor = colleague.split('_').nth(1).unwrap().to_owned();
    for who in ["ann", "ben", "cat"] {
        let body = json!({ "member": format!("user::\"{who}\""), "role": "role::\"staff\"" });
        center.ask_as(Some(&colleague), "POST", "/v1/roles/assign", Some(body)).await.good();
    }
    center.member("ben", "revoke").await.good();
    let audit = |query: String| {
        let center = &center;
        async move { center.ask("GET", &format!("/v1/audit?newest=true&{query}"), None).await.good() }
    };
    let ids = |page: &Value| -> Vec<String> {
        let entries = page["entries"].as_array().unwrap();
        entries.iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
    };
    let member = |who: &str| format!("user::\"{who}\" in role::\"staff\"");
    let all = audit(String::new()).await;
    let seqs: Vec<u64> =
        all["entries"].as_array().unwrap().iter().map(|e| e["seq"].as_u64().unwrap()).collect();
    assert!(seqs.is_sorted_by(|a, b| a > b), "{seqs:?}");
    assert_eq!(ids(&all)[0], member("ben"));
    let by = audit(format!("actor={actor}")).await;
    assert_eq!(ids(&by), [member("cat"), member("ben"), member("ann")]);
    let roles = audit("action=role&kind=member".into()).await;
    assert_eq!(ids(&roles).len(), 4);
    assert_eq!(ids(&audit("action=role.revoke".into()).await), [member("ben")]);
    assert_eq!(ids(&audit("action=rol".into()).await), Vec::<String>::new());
    assert_eq!(ids(&audit("service=orders&kind=policy".into()).await), ["staff"]);
    assert_eq!(ids(&audit("since_ms=99999999999999".into()).await), Vec::<String>::new());
    assert_eq!(ids(&audit("until_ms=1".into()).await), Vec::<String>::new());
    let first = audit("action=role&limit=3".into()).await;
    let rest = audit(format!("action=role&limit=3&before={}", first["next"])).await;
    assert_eq!([ids(&first), ids(&rest)].concat(), ids(&roles));
    assert_eq!(rest.get("next"), None);
    center.ask("GET", "/v1/audit?nonsense=1", None).await.problem(400);
    center.ask("GET", "/v1/audit?service=", None).await.problem(400);
    center.stop().await;
}

/// A role that nothing names is likely a slip.
#[tokio::test]
async fn an_unknown_role_is_refused_with_the_nearest_name() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center
        .service(
            "orders",
            &[("p", "permit (principal in role::\"orders-reader\", action, resource);")],
        )
        .await;
    let assign = |role: &str, query: &str| {
        let body = json!({ "member": "user::\"ann\"", "role": format!("role::\"{role}\"") });
        let path = format!("/v1/roles/assign{query}");
        let center = &center;
        async move { center.ask("POST", &path, Some(body)).await }
    };
    let detail = assign("oders-reader", "?must_exist=true").await.problem(422);
    assert!(detail.contains("did you mean `role::\"orders-reader\"`?"), "{detail}");
    assert!(detail.contains("--create"), "{detail}");
    let detail = assign("something-else", "?must_exist=true").await.problem(422);
    assert!(!detail.contains("did you mean"), "{detail}");
    // A policy names it, and who does not ask for it to be known makes it.
    assign("orders-reader", "?must_exist=true").await.good();
    assign("made", "").await.good();
    assign("made", "?must_exist=true").await.good();
    center.stop().await;
}

/// A store of the layout before this one: what its audit log says of each item counts.
#[tokio::test]
async fn a_store_of_layout_2_is_migrated_with_its_origins() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    apply(&center, "", &staff(&["alice", "bob"])).await.good();
    center.member("zoe", "assign").await.good();
    center.member("bob", "revoke").await.good();
    let grant = json!({ "principal": { "type": "user", "id": "eve" }, "actions": [] });
    center.ask("PUT", "/v1/services/orders/grants/eve", Some(grant)).await.good();
    let policy = json!({ "text": "forbid (principal, action, resource);" });
    center.ask("PUT", "/v1/services/orders/policies/staff", Some(policy)).await.good();
    center.stop().await;
    crate::who::as_layout_2(dir.path());
    let center = Running::start(&dir).await;
    let answer = apply(&center, "", &staff(&["alice", "bob"])).await.good();
    assert_eq!(
        names(&answer["conflicts"]),
        [r"member user::\bob\ in role::\staff\", "policy staff"]
    );
    assert_eq!(names(&answer["stays"]), [r"member user::\zoe\ in role::\staff\", "grant eve"]);
    assert_eq!(answer["changes"], json!([]));
    center.stop().await;
}

/// A backup holds who brought what; one of an earlier release is read by its audit rows.
#[tokio::test]
async fn a_restored_store_knows_who_brought_what() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    apply(&center, "", &staff(&["alice", "bob"])).await.good();
    center.member("bob", "revoke").await.good();
    center.member("zoe", "assign").await.good();
    let policy = json!({ "text": "forbid (principal, action, resource);" });
    center.ask("PUT", "/v1/services/orders/policies/staff", Some(policy)).await.good();
    let before = apply(&center, "", &staff(&["alice", "bob"])).await.good();
    center.stop().await;
    let file = dir.path().with_extension("kgbackup");
    keepgate_center::upkeep::backup(dir.path(), &file, 5).unwrap();
    let prepared = keepgate_center::upkeep::restore(dir.path(), &file).unwrap();
    prepared.commit(9).unwrap();
    std::fs::remove_file(&file).unwrap();
    let center = Running::start(&dir).await;
    let after = apply(&center, "", &staff(&["alice", "bob"])).await.good();
    assert_eq!(names(&after["conflicts"]), names(&before["conflicts"]));
    assert_eq!(names(&after["conflicts"]).len(), 2);
    assert_eq!(names(&after["stays"]), names(&before["stays"]));
    center.stop().await;
}

/// A generator that each seed makes the same numbers of (Steele, Lea, Flood: SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }
}

/// Everything that permits or forbids, by kind and id, with what it says.
async fn state(center: &Running) -> BTreeMap<String, String> {
    let mut state = BTreeMap::new();
    let members = center.ask("GET", "/v1/members", None).await.good();
    for edge in members["members"].as_array().unwrap() {
        let text = |uid: &Value| format!("{}::{}", uid["type"].as_str().unwrap(), uid["id"]);
        let id = format!("member {} in {}", text(&edge["member"]), text(&edge["role"]));
        state.insert(id, String::new());
    }
    for kind in ["policies", "grants"] {
        let path = format!("/v1/services/orders/{kind}");
        let answer = center.ask("GET", &path, None).await;
        if answer.status == 404 {
            continue;
        }
        let noun = if kind == "policies" { "policy" } else { "grant" };
        for item in answer.good()["items"].as_array().unwrap() {
            let id = format!("{noun} {}", item["id"].as_str().unwrap());
            state.insert(id, item["body"].to_string());
        }
    }
    state
}

const WHO: [&str; 3] = ["ann", "ben", "cat"];
const ROLES: [&str; 2] = ["r", "s"];
const POLICIES: [&str; 2] = ["p", "q"];
const TEXTS: [&str; 3] = [
    "permit (principal in role::\"r\", action, resource);",
    "permit (principal, action, resource);",
    "forbid (principal in role::\"s\", action, resource);",
];

fn some_files(dice: &mut Dice) -> Value {
    let mut roles = String::new();
    for role in ROLES.iter().filter(|_| dice.below(5) > 0).copied().collect::<Vec<_>>() {
        let members: Vec<String> = WHO
            .iter()
            .filter(|_| dice.below(2) == 0)
            .map(|who| format!("'user::\"{who}\"'"))
            .collect();
        roles += &format!("[[role]]\nid = \"{role}\"\nmembers = [{}]\n", members.join(", "));
        if dice.below(2) == 0 {
            roles += &format!(
                "[[role.grant]]\nid = \"g-{role}\"\nactions = [\"{}\"]\nresource = \"any\"\n",
                dice.of(&["GET", "PUT"])
            );
        }
    }
    let mut files = json!({ "service.toml": "name = \"orders\"\n", "roles.toml": roles });
    for policy in POLICIES {
        if dice.below(3) > 0 {
            files[format!("{policy}.cedar")] = json!(dice.of(&TEXTS));
        }
    }
    files
}

/// Any sequence of applies and commands: what a command took away or changed is as the command left
/// it after each apply that was not told to overwrite it, is named where the files say otherwise, and
/// whatever an apply changes is in its answer.
#[tokio::test]
async fn no_revocation_is_undone_without_being_named() {
    let (mut conflicts, mut returned, mut pruned) = (0, 0, 0);
    for seed in 0..16 {
        let dir = Dir::in_memory();
        let mut center = Running::start(&dir).await;
        let mut dice = Dice(seed);
        // What commands did last to what is there no more, or is otherwise than the files had it.
        let mut by_command: BTreeMap<String, Option<String>> = BTreeMap::new();
        for step in 0..24 {
            let at = format!("seed {seed}, step {step}");
            let before = state(&center).await;
            let is_command = match dice.below(9) {
                0..4 => {
                    let files = some_files(&mut dice);
                    let (overwrite, prune) = (dice.below(6) == 0, dice.below(6) == 0);
                    let query = format!("?overwrite={overwrite}&prune={prune}");
                    let answer = apply(&center, &query, &files).await;
                    let after = state(&center).await;
                    if answer.status == 409 {
                        assert_eq!(before, after, "{at}: a refusal changes nothing");
                        continue;
                    }
                    let answer = answer.good();
                    let list = |name: &str| -> BTreeSet<String> {
                        let list = answer[name].as_array().cloned().unwrap_or_default();
                        let text =
                            |item: &Value, name: &str| item[name].as_str().unwrap().to_owned();
                        list.iter()
                            .map(|item| format!("{} {}", text(item, "kind"), text(item, "id")))
                            .collect()
                    };
                    let (changes, kept) = (list("changes"), list("conflicts"));
                    let stays = list("stays");
                    conflicts += kept.len();
                    for key in before.keys().chain(after.keys()) {
                        let same = before.get(key) == after.get(key);
                        assert!(same || changes.contains(key), "{at}: {key} changed unseen");
                    }
                    for (key, left) in &by_command {
                        let is_as_left = after.get(key) == left.as_ref();
                        if !overwrite && left.is_none() {
                            assert!(is_as_left, "{at}: {key} came back");
                        }
                        let pruned_now = prune && left.is_some() && !after.contains_key(key);
                        assert!(
                            is_as_left || overwrite || pruned_now,
                            "{at}: {key} is not as left: {answer}"
                        );
                        pruned += usize::from(pruned_now);
                        if !is_as_left {
                            assert!(changes.contains(key), "{at}: {key} is not named");
                            returned += usize::from(left.is_none());
                        }
                    }
                    // What the files agree with, or were told to overwrite, is theirs.
                    by_command.retain(|key, left| {
                        let is_theirs = !kept.contains(key) && !stays.contains(key);
                        after.get(key) == left.as_ref() && (!is_theirs || left.is_none())
                    });
                    false
                }
                4 | 5 => {
                    let body = json!({ "member": format!("user::\"{}\"", dice.of(&WHO)),
                        "role": format!("role::\"{}\"", dice.of(&ROLES)) });
                    let path = match dice.below(3) {
                        0 => "/v1/roles/assign",
                        _ => "/v1/roles/revoke",
                    };
                    center.ask("POST", path, Some(body)).await;
                    true
                }
                6 => {
                    let path = format!("/v1/services/orders/policies/{}", dice.of(&POLICIES));
                    match dice.below(2) {
                        0 => center.ask("DELETE", &path, None).await,
                        _ => {
                            let body = json!({ "text": dice.of(&TEXTS) });
                            center.ask("PUT", &path, Some(body)).await
                        }
                    };
                    true
                }
                7 => {
                    let path = match dice.below(2) {
                        0 => format!("/v1/services/orders/grants/g-{}", dice.of(&ROLES)),
                        _ => format!("/v1/roles/{}?cascade=true", dice.of(&ROLES)),
                    };
                    center.ask("DELETE", &path, None).await;
                    true
                }
                _ => {
                    center.stop().await;
                    center = Running::start(&dir).await;
                    assert_eq!(before, state(&center).await, "{at}: a restart changes nothing");
                    false
                }
            };
            if !is_command {
                continue;
            }
            let after = state(&center).await;
            let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for key in keys {
                if before.get(key) != after.get(key) {
                    by_command.insert(key.clone(), after.get(key).cloned());
                }
            }
        }
        center.stop().await;
    }
    assert!(conflicts > 50 && returned > 5 && pruned > 0, "{conflicts} {returned} {pruned}");
}

/// An import that runs each night does not bring back what somebody took away.
#[tokio::test]
async fn an_import_undoes_no_deletion_unseen() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    apply(&center, "", &staff(&["alice"])).await.good();
    let member =
        |who: &str| json!({ "member": format!("user::\"{who}\""), "role": "role::\"staff\"" });
    let lines = format!("{}\n{}\n", member("bob"), member("carol"));
    import(&center, "/v1/import/members", &lines).await.good();
    assert!(center.allowed("bob").await);
    center.member("bob", "revoke").await.good();
    for path in ["/v1/import/members", "/v1/import/members?overwrite=false"] {
        let answer = import(&center, path, &lines).await.good();
        assert_eq!(names(&answer["conflicts"]), [r"member user::\bob\ in role::\staff\"]);
        let conflict = &answer["conflicts"][0];
        assert_eq!((&conflict["line"], &conflict["action"]), (&json!(1), &json!("role.revoke")));
        assert_eq!((&answer["created"], &answer["updated"]), (&json!(0), &json!(0)));
        assert!(!center.allowed("bob").await && center.allowed("carol").await);
    }
    let over = import(&center, "/v1/import/members?overwrite=true", &lines).await.good();
    assert_eq!((over.get("conflicts"), &over["created"]), (None, &json!(1)));
    assert!(center.allowed("bob").await);

    // The same for each kind that is imported.
    let grant = r#"{"id":"g","principal":"user::\"eve\"","actions":"any","resource":"any"}"#;
    let entity = r#"{"uid":"user::\"eve\"","parents":["role::\"staff\""]}"#;
    for (path, line, item) in [
        ("/v1/services/orders/import/grants", grant, "/v1/services/orders/grants/g"),
        (
            "/v1/services/orders/import/entities",
            entity,
            "/v1/services/orders/entities/user::%22eve%22",
        ),
        ("/v1/import/entities", entity, "/v1/entities/user::%22eve%22"),
    ] {
        import(&center, path, line).await.good();
        assert!(center.allowed("eve").await, "{path}");
        center.ask("DELETE", item, None).await.good();
        let answer = import(&center, path, line).await.good();
        assert_eq!(answer["conflicts"].as_array().unwrap().len(), 1, "{path}: {answer}");
        assert!(!center.allowed("eve").await, "{path}");
        center.ask("GET", item, None).await.problem(404);
    }
    // What an apply took away, nobody revoked.
    let mut files = staff(&["alice"]);
    files["entities.json"] =
        json!(r#"[{"uid":{"type":"user","id":"ivy"},"attrs":{},"parents":[]}]"#);
    apply(&center, "", &files).await.good();
    files["entities.json"] = json!("[]");
    apply(&center, "?prune=true", &files).await.good();
    let line = r#"{"uid":"user::\"ivy\""}"#;
    let answer = import(&center, "/v1/services/orders/import/entities", line).await.good();
    assert_eq!((answer.get("conflicts"), &answer["created"]), (None, &json!(1)));
    center.stop().await;
}

#[tokio::test]
async fn an_entity_that_a_service_and_the_directory_have_is_said() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    apply(&center, "", &staff(&["alice"])).await.good();
    let body = json!({ "attrs": {}, "parents": [] });
    let own = "/v1/services/orders/entities/user::%22ann%22";
    let answer = center.ask("PUT", own, Some(body.clone())).await.good();
    assert_eq!(answer.get("warnings"), None);
    let said = |answer: Value| {
        assert_eq!(answer["warnings"][0]["id"], "user::\"ann\"", "{answer}");
        answer["warnings"][0]["message"].as_str().unwrap().to_owned()
    };
    let shared = "/v1/entities/user::%22ann%22";
    let told = said(center.ask("PUT", shared, Some(body.clone())).await.good());
    assert!(told.starts_with("service `orders` has an entity of this name, too"), "{told}");
    let told = said(center.ask("PUT", own, Some(body)).await.good());
    assert!(told.starts_with("the directory has an entity of this name, too"), "{told}");
    // What an import does not change is not said again.
    let lines =
        "{\"uid\":\"user::\\\"ann\\\"\",\"attrs\":{\"n\":1}}\n{\"uid\":\"user::\\\"bo\\\"\"}\n";
    let told = said(import(&center, "/v1/import/entities", lines).await.good());
    assert!(told.starts_with("service `orders`"), "{told}");
    let told = said(import(&center, "/v1/services/orders/import/entities", lines).await.good());
    assert!(told.starts_with("the directory"), "{told}");
    center.stop().await;
}
