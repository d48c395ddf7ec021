//! The AuthZEN 1.0 certification scenario (levels Basic and Batch, sub-levels Core and
//! Properties) over HTTP, with and without a schema; and the rules of the specification beside it.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::fixture::{Answer, Dir, Running, request};

const POLICIES: &str = r#"
@id("readers")
permit (principal in role::"reader", action == Action::"read", resource is record);

@id("writers")
permit (principal in role::"writer", action == Action::"write", resource is record)
unless { resource has status && resource.status == "archived" };

@id("admins-write-archived")
permit (principal is user, action == Action::"write", resource is record)
when {
  principal has role && principal.role == "admin" &&
  resource has status && resource.status == "archived"
};

@id("soft-delete")
permit (principal in role::"writer", action == Action::"delete", resource is record)
when { context has action && context.action has soft && context.action.soft };
"#;

const SCHEMA: &str = r#"
entity role;
entity user in [role] { role?: String };
entity record { status?: String };
action read, write appliesTo { principal: user, resource: record, context: {} };
action delete appliesTo {
  principal: user, resource: record, context: { action?: { soft?: Bool } }
};
"#;

const ENTITIES: &str = r#"[
  {"uid": {"type": "user", "id": "bob"}, "attrs": {"role": "admin"}, "parents": []},
  {"uid": {"type": "record", "id": "record-1"}, "attrs": {"status": "active"}, "parents": []},
  {"uid": {"type": "record", "id": "record-2"}, "attrs": {"status": "archived"}, "parents": []}
]"#;

const ROLES: &str = r#"
[[role]]
id = "reader"
members = ['user::"alice"', 'user::"bob"']

[[role]]
id = "writer"
members = ['user::"alice"']
"#;

struct Pdp {
    center: Running,
    pep: String,
    base: &'static str,
}

impl Pdp {
    async fn start(dir: &Dir, with_schema: bool, base: &'static str) -> Pdp {
        let center = Running::start(dir).await;
        let mut files = json!({
            "service.toml": "name = \"records\"\n",
            "policies.cedar": POLICIES,
            "entities.json": ENTITIES,
            "roles.toml": ROLES,
        });
        if with_schema {
            files["schema.cedarschema"] = json!(SCHEMA);
        }
        let path = "/v1/services/records/apply";
        center.ask("POST", path, Some(json!({ "files": files }))).await.good();
        let pep = center.token("pep", "").await;
        Pdp { center, pep, base }
    }

    async fn post(&self, endpoint: &str, content_type: Option<&str>, body: &str) -> Answer {
        let mut builder = request(Method::POST, &format!("{}/access/v1/{endpoint}", self.base))
            .header("authorization", format!("Bearer {}", self.pep))
            .header("x-request-id", "id of the caller");
        if let Some(kind) = content_type {
            builder = builder.header("content-type", kind);
        }
        let answer = self.center.send(builder.body(Bytes::from(body.to_owned())).unwrap()).await;
        assert_eq!(answer.header("x-request-id"), "id of the caller");
        answer
    }

    async fn json(&self, endpoint: &str, body: &Value) -> Value {
        let answer = self.post(endpoint, Some("application/json"), &body.to_string()).await;
        assert_eq!(answer.status, 200, "{body}: {answer:?}");
        assert_eq!(answer.header("content-type"), "application/json");
        answer.json()
    }

    async fn decides(&self, body: Value, expected: bool) {
        // Twice: the same decision both times; and the batch endpoint behaves as the single one.
        for endpoint in ["evaluation", "evaluation", "evaluations"] {
            let answer = self.json(endpoint, &body).await;
            assert_eq!(answer["decision"], json!(expected), "{endpoint} {body}: {answer}");
            assert!(answer.get("context").is_none_or(Value::is_object), "{answer}");
        }
        let mut empty = body;
        empty["evaluations"] = json!([]);
        assert_eq!(self.json("evaluations", &empty).await["decision"], json!(expected), "{empty}");
    }

    /// `None` expects any boolean.
    async fn decides_all(&self, body: Value, expected: &[Option<bool>]) -> Value {
        let answer = self.json("evaluations", &body).await;
        assert!(answer.get("decision").is_none(), "{answer}");
        let found = answer["evaluations"].as_array().unwrap();
        assert_eq!(found.len(), expected.len(), "{body}: {answer}");
        for (found, expected) in found.iter().zip(expected) {
            let decision = found["decision"].as_bool().unwrap();
            assert_eq!(decision, expected.unwrap_or(decision), "{body}: {answer}");
        }
        answer
    }

    async fn is_bad(&self, content_type: Option<&str>, body: &str) {
        for endpoint in ["evaluation", "evaluations"] {
            let answer = self.post(endpoint, content_type, body).await;
            assert_eq!(answer.status, 400, "{endpoint} {body:?}: {answer:?}");
            answer.problem(400);
        }
    }
}

fn user(id: &str) -> Value {
    json!({ "type": "user", "id": id })
}

fn admin(id: &str) -> Value {
    json!({ "type": "user", "id": id, "properties": { "role": "admin" } })
}

fn action(name: &str) -> Value {
    json!({ "name": name })
}

fn record(id: &str) -> Value {
    json!({ "type": "record", "id": id })
}

fn record_that_is(id: &str, status: &str) -> Value {
    json!({ "type": "record", "id": id, "properties": { "status": status } })
}

fn ask(subject: Value, action: Value, resource: Value) -> Value {
    json!({ "subject": subject, "action": action, "resource": resource })
}

async fn basic(pdp: &Pdp) {
    // Core: rules 1 to 4.
    pdp.decides(ask(user("alice"), action("read"), record("record-1")), true).await;
    pdp.decides(ask(user("alice"), action("write"), record("record-1")), true).await;
    pdp.decides(ask(user("bob"), action("read"), record("record-1")), true).await;
    pdp.decides(ask(user("bob"), action("write"), record("record-1")), false).await;
    let mut with_context = ask(user("alice"), action("read"), record("record-1"));
    with_context["context"] = json!({ "time": "2025-06-27T18:03-07:00", "ip": "192.168.1.1" });
    pdp.decides(with_context.clone(), true).await;
    // Unknown members are ignored, at the top and within.
    with_context["surprise"] = json!([1, 2]);
    with_context["subject"]["surprise"] = json!({ "a": null });
    pdp.decides(with_context, true).await;
    // Properties: rules 5 to 8.
    let archived = || record_that_is("record-2", "archived");
    pdp.decides(ask(user("alice"), action("write"), archived()), false).await;
    pdp.decides(ask(admin("bob"), action("write"), archived()), true).await;
    let delete = |soft| json!({ "name": "delete", "properties": { "soft": soft } });
    pdp.decides(ask(user("alice"), delete(true), record("record-1")), true).await;
    pdp.decides(ask(user("alice"), delete(false), record("record-1")), false).await;
    // Properties last for one evaluation: nothing of them stays.
    pdp.decides(ask(admin("carol"), action("write"), archived()), true).await;
    pdp.decides(ask(user("carol"), action("write"), archived()), false).await;
    pdp.decides(ask(user("alice"), action("write"), record_that_is("record-1", "archived")), false)
        .await;
    pdp.decides(ask(user("alice"), action("write"), record("record-1")), true).await;
    // What nobody knows is a denial, not an error; a type need not be a Cedar name.
    pdp.decides(ask(user("nobody"), action("read"), record("record-1")), false).await;
    pdp.decides(ask(user("alice"), action("fly"), record("record-1")), false).await;
    let odd = json!({ "type": "user-account", "id": "alice" });
    pdp.decides(ask(odd, action("read"), record("record-1")), false).await;
    let ship = json!({ "type": "if", "id": "1" });
    pdp.decides(ask(user("alice"), action("read"), ship), false).await;
}

async fn basic_errors(pdp: &Pdp) {
    let json = Some("application/json");
    let good = ask(user("alice"), action("read"), record("record-1"));
    for member in ["subject", "action", "resource"] {
        let mut missing = good.clone();
        missing.as_object_mut().unwrap().remove(member);
        pdp.is_bad(json, &missing.to_string()).await;
        for wrong in [json!("alice"), json!(7), json!([]), Value::Null] {
            let mut typed = good.clone();
            typed[member] = wrong;
            pdp.is_bad(json, &typed.to_string()).await;
        }
    }
    for (member, field) in [
        ("subject", "type"),
        ("subject", "id"),
        ("action", "name"),
        ("resource", "type"),
        ("resource", "id"),
    ] {
        let mut missing = good.clone();
        missing[member].as_object_mut().unwrap().remove(field);
        pdp.is_bad(json, &missing.to_string()).await;
        let mut typed = good.clone();
        typed[member][field] = json!(123);
        pdp.is_bad(json, &typed.to_string()).await;
    }
    for body in ["", "{", "null", "[]", "\"x\"", "{\"subject\":{}}"] {
        pdp.is_bad(json, body).await;
    }
    let good = good.to_string();
    for kind in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        pdp.is_bad(kind, &good).await;
    }
    let charset = Some("application/json; charset=utf-8");
    assert_eq!(pdp.post("evaluation", charset, &good).await.status, 200);
}

async fn batch(pdp: &Pdp) {
    let (yes, no, any) = (Some(true), Some(false), None);
    pdp.decides_all(
        json!({ "subject": user("alice"), "action": action("read"), "evaluations": [
            { "resource": record("record-1") }, { "resource": record("record-2") } ] }),
        &[yes, any],
    )
    .await;
    pdp.decides_all(
        json!({ "subject": user("bob"), "resource": record("record-1"), "evaluations": [
            { "action": action("read") }, { "action": action("write") } ] }),
        &[yes, no],
    )
    .await;
    pdp.decides_all(
        json!({ "subject": user("alice"), "action": action("write"), "evaluations": [
            { "resource": record_that_is("record-1", "active") },
            { "resource": record_that_is("record-2", "archived") } ] }),
        &[yes, no],
    )
    .await;
    let archived = || record_that_is("record-2", "archived");
    pdp.decides_all(
        json!({ "action": action("write"), "resource": archived(), "evaluations": [
            { "subject": user("alice") }, { "subject": admin("bob") } ] }),
        &[no, yes],
    )
    .await;
    pdp.decides_all(
        json!({ "evaluations": [
            ask(user("alice"), action("read"), record("record-1")),
            ask(user("bob"), action("write"), record("record-1")) ] }),
        &[yes, no],
    )
    .await;
    pdp.decides_all(
        json!({ "subject": user("alice"), "action": action("read"),
            "context": { "time": "2025-06-27T18:03-07:00" }, "evaluations": [
                { "resource": record("record-1") },
                { "resource": record("record-2"), "context": {
                    "time": "2025-06-27T19:00-07:00", "source": "batch-override" } } ] }),
        &[yes, any],
    )
    .await;
    pdp.decides_all(
        json!({ "subject": user("alice"), "action": action("write"),
            "resource": record_that_is("record-1", "active"), "evaluations": [
                {}, { "resource": archived() } ] }),
        &[yes, no],
    )
    .await;
    // Entities of one id in one batch do not share properties.
    pdp.decides_all(
        json!({ "subject": user("alice"), "action": action("write"), "evaluations": [
            { "resource": record_that_is("record-1", "archived") },
            { "resource": record("record-1") },
            { "resource": record_that_is("record-1", "archived") } ] }),
        &[no, yes, no],
    )
    .await;
    // An item that fails is a denial with an error; the others are answered.
    let answer = pdp
        .decides_all(
            json!({ "subject": user("alice"), "action": action("read"),
                "options": { "evaluations_semantic": "execute_all", "another": 1 },
                "evaluations": [ { "resource": record("record-1") }, {} ] }),
            &[yes, no],
        )
        .await;
    assert_eq!(answer["evaluations"][1]["context"]["error"]["status"], 400);
    // A whole entity replaces the default: nothing is merged into it.
    pdp.decides_all(
        json!({ "subject": user("alice"), "action": action("read"), "evaluations": [
            { "resource": { "type": "record" } }, { "resource": record("record-1") } ] }),
        &[no, yes],
    )
    .await;
    let reads = |semantic: &str, ids: &[&str]| {
        let items: Vec<Value> = ids.iter().map(|id| json!({ "subject": user(id) })).collect();
        json!({ "action": action("read"), "resource": record("record-1"),
            "options": { "evaluations_semantic": semantic }, "evaluations": items })
    };
    let who = ["alice", "nobody", "bob"];
    pdp.decides_all(reads("execute_all", &who), &[yes, no, yes]).await;
    pdp.decides_all(reads("deny_on_first_deny", &who), &[yes, no]).await;
    pdp.decides_all(reads("permit_on_first_permit", &who), &[yes]).await;
    pdp.decides_all(reads("permit_on_first_permit", &["x", "y", "bob", "alice"]), &[no, no, yes])
        .await;
    for wrong in [
        json!({ "evaluations": 7 }),
        json!({ "evaluations": [{}], "options": { "evaluations_semantic": "sometimes" } }),
    ] {
        let answer = pdp.post("evaluations", Some("application/json"), &wrong.to_string()).await;
        assert_eq!(answer.status, 400, "{wrong}: {answer:?}");
    }
}

#[tokio::test]
async fn the_certification_scenario() {
    for with_schema in [false, true] {
        for base in ["", "/s/records"] {
            let dir = Dir::new();
            let pdp = Pdp::start(&dir, with_schema, base).await;
            basic(&pdp).await;
            basic_errors(&pdp).await;
            batch(&pdp).await;
            pdp.center.stop().await;
        }
    }
}

#[tokio::test]
async fn metadata_names_what_there_is() {
    let dir = Dir::new();
    let mut config = crate::fixture::config(&dir);
    let center = Running::with(config.clone()).await;
    center.service("records", &[]).await;
    let well_known = "/.well-known/authzen-configuration";
    let base = format!("http://{}", center.addr);
    let found = center.ask_as(None, "GET", well_known, None).await.good();
    assert_eq!(
        found,
        json!({
            "policy_decision_point": base,
            "access_evaluation_endpoint": format!("{base}/access/v1/evaluation"),
            "access_evaluations_endpoint": format!("{base}/access/v1/evaluations"),
        })
    );
    let of_service = format!("{well_known}/s/records");
    let found = center.ask_as(None, "GET", &of_service, None).await.good();
    assert_eq!(found["policy_decision_point"], json!(format!("{base}/s/records")));
    center.ask_as(None, "GET", &format!("{well_known}/s/none"), None).await.problem(404);
    center.stop().await;
    config.public_url = Some("https://pdp.example.com/".to_owned());
    let center = Running::with(config).await;
    let found = center.ask_as(None, "GET", well_known, None).await.good();
    assert_eq!(found["policy_decision_point"], "https://pdp.example.com");
    center.stop().await;
}

/// A service that permits everything to everybody, and one that permits nothing.
async fn open_and_closed(center: &Running) {
    center.service("open", &[("all", "permit (principal, action, resource);")]).await;
    center.service("closed", &[]).await;
}

async fn authzen_of(center: &Running, name: &str, value: Value) -> Answer {
    let path = format!("/v1/services/{name}");
    center.ask("PUT", &path, Some(json!({ "authzen": value }))).await
}

#[tokio::test]
async fn what_names_no_service_is_decided_by_the_default_one() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let all = "/access/v1/evaluation";
    let pep = center.token("pep", "").await;
    let body = || Some(ask(user("a"), action("read"), record("r1")));
    let question = || json!({ "principal": "user::\"a\"", "action": "read", "resource": { "type": "record", "id": "r1" } });
    let ask = |path: &'static str| center.ask_as(Some(&pep), "POST", path, body());
    let decision = |answer: Answer| answer.good()["decision"].as_bool().unwrap();
    // There is none.
    assert!(ask(all).await.problem(409).contains("no service yet"));
    // There is one.
    center.service("open", &[("all", "permit (principal, action, resource);")]).await;
    assert!(decision(ask(all).await));
    authzen_of(&center, "open", json!(false)).await.good();
    assert!(ask(all).await.problem(409).contains("`authzen = false`"));
    assert!(decision(ask("/s/open/access/v1/evaluation").await), "by name it decides");
    authzen_of(&center, "open", json!(true)).await.good();
    // There are two, and none is the default: the open one does not open the other.
    open_and_closed(&center).await;
    let detail = ask(all).await.problem(409);
    assert!(
        detail.contains("none of the 2") && detail.contains("`authzen = \"default\"`"),
        "{detail}"
    );
    let batch = json!({ "evaluations": [body()] });
    let batch = center.ask_as(Some(&pep), "POST", "/access/v1/evaluations", Some(batch)).await;
    batch.problem(409);
    center.ask("POST", "/v1/check", Some(question())).await.problem(409);
    authzen_of(&center, "closed", json!("default")).await.good();
    assert!(!decision(ask(all).await));
    let check = center.ask("POST", "/v1/check", Some(question())).await.good();
    assert_eq!(check["reason"], "no_permit");
    assert!(decision(ask("/s/open/access/v1/evaluation").await));
    // One only, whichever way it comes.
    let detail = authzen_of(&center, "open", json!("default")).await.problem(422);
    assert!(detail.contains("`closed` says it already"), "{detail}");
    for dry in ["", "&dry_run=true"] {
        let files =
            json!({ "files": { "service.toml": "name = \"open\"\nauthzen = \"default\"\n" } });
        let path = format!("/v1/services/open/apply?overwrite=true{dry}");
        let detail = center.ask("POST", &path, Some(files)).await.problem(422);
        assert!(detail.contains("service.toml") && detail.contains("`closed`"), "{detail}");
    }
    authzen_of(&center, "closed", json!("sometimes")).await.problem(422);
    // A token of one service asks where that one decides, and nowhere else.
    let bound = center.token("pep", "closed").await;
    assert!(!decision(center.ask_as(Some(&bound), "POST", all, body()).await));
    let other = center.token("pep", "open").await;
    center.ask_as(Some(&other), "POST", all, body()).await.problem(403);
    center.ask_as(Some(&other), "POST", "/v1/check", Some(question())).await.problem(403);
    let other_path = "/s/closed/access/v1/evaluation";
    center.ask_as(Some(&other), "POST", other_path, body()).await.problem(403);
    // The default moves when the first one lets it go, and what an export says comes back.
    authzen_of(&center, "closed", json!(true)).await.good();
    authzen_of(&center, "open", json!("default")).await.good();
    assert!(decision(ask(all).await));
    let export = center.ask("GET", "/v1/services/open/export", None).await.good();
    let settings = export["files"]["service.toml"].as_str().unwrap();
    assert!(settings.contains("authzen = \"default\""), "{settings}");
    let before = center.revision().await;
    let files = json!({ "files": export["files"] });
    center.ask("POST", "/v1/services/open/apply", Some(files)).await.good();
    assert_eq!(center.revision().await, before);
    center.stop().await;
}

/// In a store of an earlier release several services decide together, until one is the default.
#[tokio::test]
async fn services_of_an_earlier_release_decide_together_until_one_is_the_default() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let pep = center.token("pep", "").await;
    let permit = "permit (principal == user::\"a\", action, resource);";
    let forbid = "forbid (principal, action, resource == record::\"secret\");";
    center.service("one", &[("p", permit)]).await;
    center.service("two", &[("f", forbid)]).await;
    center.stop().await;
    crate::who::as_layout_2(dir.path());
    let center = Running::start(&dir).await;
    let all = "/access/v1/evaluation";
    let ask = |path: &'static str, resource: &str| {
        center.ask_as(
            Some(&pep),
            "POST",
            path,
            Some(ask(user("a"), action("read"), record(resource))),
        )
    };
    let decision = |answer: Answer| answer.good()["decision"].as_bool().unwrap();
    assert!(decision(ask(all, "x").await));
    assert!(!decision(ask(all, "secret").await));
    assert!(decision(ask("/s/one/access/v1/evaluation", "secret").await));
    assert!(!decision(ask("/s/two/access/v1/evaluation", "x").await));
    ask("/s/none/access/v1/evaluation", "x").await.problem(404);
    // `/v1/check` says the same, and why.
    let question = |service: Option<&str>| {
        json!({ "service": service, "principal": "user::\"a\"", "action": "read",
            "resource": { "type": "record", "id": "secret" } })
    };
    let check = center.ask("POST", "/v1/check", Some(question(None))).await.good();
    assert_eq!((&check["effect"], &check["reason"]), (&json!("deny"), &json!("forbid")));
    assert_eq!(check["determining"], json!([{ "service": "two", "id": "f", "text": forbid }]));
    // An apply warns.
    let files = json!({ "files": { "service.toml": "name = \"one\"\n" } });
    let path = "/v1/services/one/apply?dry_run=true";
    let said = center.ask("POST", path, Some(files)).await.good()["warnings"].to_string();
    assert!(said.contains("decided by 2 services together"), "{said}");
    // One that takes no part.
    authzen_of(&center, "two", json!(false)).await.good();
    assert!(decision(ask(all, "secret").await));
    authzen_of(&center, "two", json!(true)).await.good();
    assert!(!decision(ask(all, "secret").await));
    // A backup and a restart keep it.
    center.stop().await;
    let backup = dir.path().join("b.kgbackup");
    keepgate_center::upkeep::backup(dir.path(), &backup, 1).unwrap();
    let center = Running::start(&dir).await;
    let answer = center.ask_as(Some(&pep), "POST", all, Some(ask_of("secret"))).await;
    assert!(!decision(answer));
    // One says otherwise: for good.
    authzen_of(&center, "one", json!("default")).await.good();
    let answer = center.ask_as(Some(&pep), "POST", all, Some(ask_of("secret"))).await;
    assert!(decision(answer));
    authzen_of(&center, "one", json!(true)).await.good();
    center.ask_as(Some(&pep), "POST", all, Some(ask_of("x"))).await.problem(409);
    center.stop().await;
    let center = Running::start(&dir).await;
    center.ask_as(Some(&pep), "POST", all, Some(ask_of("x"))).await.problem(409);
    center.stop().await;
    // The backup is of the state before.
    let restored = keepgate_center::upkeep::restore(dir.path(), &backup).unwrap();
    restored.commit(2).unwrap();
    let center = Running::start(&dir).await;
    let answer = center.ask_as(Some(&pep), "POST", all, Some(ask_of("secret"))).await;
    assert!(!decision(answer));
    center.stop().await;
}

fn ask_of(resource: &str) -> Value {
    ask(user("a"), action("read"), record(resource))
}
