//! The OpenAPI document: its schemas say everything, real answers fit them, a client that is
//! generated from it is typed and works, and requests that are made from it are answered as it says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::fixture::{Dir, Running};

/// Where the programs of `requirements.txt` are; none: not installed.
fn programs() -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fixtures/openapi/bin");
    if found.join("openapi-python-client").exists() {
        return Some(found);
    }
    assert!(
        std::env::var_os("KEEPGATE_REQUIRE_ALL").is_none_or(|v| v != "1"),
        "must run here, but target/fixtures/openapi is missing; run scripts/fetch-fixtures"
    );
    eprintln!("SKIPPED: target/fixtures/openapi is missing; run scripts/fetch-fixtures");
    None
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openapi").join(name)
}

fn succeeded(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}\n{complained}", output.status);
    said
}

async fn document(center: &Running) -> Value {
    center.ask("GET", "/v1/openapi.json", None).await.good()
}

/// Every schema below a value of the document, with the way to it.
fn schemas<'v>(value: &'v Value, way: &str, found: &mut Vec<(String, &'v Value)>) {
    let below = |name: &str| format!("{way}/{name}");
    match value {
        Value::Object(fields) => {
            for (name, child) in fields {
                match name.as_str() {
                    "schema" | "items" | "additionalProperties" => {
                        found.push((below(name), child));
                        schemas(child, &below(name), found);
                    }
                    "properties" | "schemas" => {
                        for (property, child) in child.as_object().unwrap() {
                            let way = format!("{}/{property}", below(name));
                            found.push((way.clone(), child));
                            schemas(child, &way, found);
                        }
                    }
                    "oneOf" | "anyOf" | "allOf" => {
                        for child in child.as_array().unwrap() {
                            found.push((below(name), child));
                            schemas(child, &below(name), found);
                        }
                    }
                    _ => schemas(child, &below(name), found),
                }
            }
        }
        Value::Array(children) => {
            children.iter().for_each(|child| schemas(child, way, found));
        }
        _ => {}
    }
}

/// Where values are attributes of somebody else's, of any shape: they have these names.
const OF_OTHERS: [&str; 2] = ["/components/schemas/Json/", "/components/schemas/CedarValue/"];

/// Says nothing of what it takes: any value, or an object of whatever members.
fn is_free(schema: &Value) -> bool {
    let Some(fields) = schema.as_object() else { return schema != &json!(false) };
    let says = |name: &str| fields.contains_key(name);
    let combined = ["$ref", "oneOf", "anyOf", "allOf", "enum", "const"].into_iter().any(says);
    // Which of the members that are described beside it must be there.
    let combined = combined || says("required") && !says("type");
    let typed = |name: &str| match &fields.get("type") {
        Some(Value::String(one)) => one == name,
        Some(Value::Array(several)) => several.iter().any(|one| one == name),
        _ => false,
    };
    if combined {
        return false;
    }
    !says("type") || (typed("object") && !says("properties") && !says("additionalProperties"))
}

#[tokio::test]
async fn no_operation_has_a_free_form_object() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let document = document(&center).await;
    let mut found = Vec::new();
    schemas(&document, "", &mut found);
    assert!(found.len() > 300, "{} schemas", found.len());
    // A member that is refused is no schema of one.
    let free: Vec<&String> = found
        .iter()
        .filter(|(way, schema)| !way.ends_with("/additionalProperties") || schema.is_object())
        .filter(|(way, _)| !OF_OTHERS.iter().any(|name| way.starts_with(name)))
        .filter(|(_, schema)| is_free(schema))
        .map(|(way, _)| way)
        .collect();
    assert!(free.is_empty(), "say nothing: {free:#?}");
    assert!(is_free(&json!({ "type": "object" })) && is_free(&json!(true)));
    assert!(!is_free(&json!({ "type": "object", "properties": {} })));
    center.stop().await;
}

/// Asks, and keeps the answer beside its operation.
async fn sample(
    center: &Running,
    samples: &mut Vec<Value>,
    operation: &str,
    (method, path): (&str, &str),
    body: Option<Value>,
) -> Value {
    let answer = center.ask(method, path, body).await;
    let status = answer.status.as_u16();
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    samples.push(json!({ "operation": operation, "status": status, "body": body }));
    body
}

const SETTINGS: &str = "name = \"orders\"\nhosts = [\"orders.example\"]\nmax_age = \"5m\"\n\
    answer_timeout = \"30s\"\n[identify.api_key]\n[[identify.jwt]]\nissuer = \"https://idp.example\"\n\
    audience = \"orders\"\njwks_url = \"https://idp.example/jwks\"\n";

const LIMITS: &str = "[[rule]]\nname = \"all\"\nkey = \"principal\"\nrate = \"100/min\"\nburst = 50\n\
    costs = [{ route = \"/a\", cost = 2 }]\n[plan.bulk]\ndescription = \"for crawlers\"\n\
    [[plan.bulk.rule]]\nname = \"bulk\"\nkey = \"api_key\"\nrate = \"1000/min\"\n";

fn files() -> Value {
    json!({ "files": {
        "service.toml": SETTINGS,
        "limits.toml": LIMITS,
        "all.cedar": "@id(\"all\") permit (principal, action, resource);\n@id(\"near\") permit (principal == user::\"bob\", action, resource);",
        "entities.json": "[{\"uid\":{\"type\":\"user\",\"id\":\"alice\"},\"attrs\":{\"level\":3,\"tags\":[\"a\"],\"of\":{\"x\":true}},\"parents\":[]}]",
        "roles.toml": "[[role]]\nid = \"reader\"\ndescription = \"reads\"\nmembers = ['user::\"alice\"']\n[[role.grant]]\nid = \"readers\"\nactions = [\"GET\"]\nresource = 'route::\"/a\"'\n",
        "routes.toml": "[[route]]\nmethod = \"GET\"\npath = \"/a\"\ncost = 2\nmax_age = \"1m\"\n",
    } })
}

#[tokio::test]
async fn real_answers_fit_the_document() {
    let Some(programs) = programs() else { return };
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let mut samples = Vec::new();
    let of = "/v1/services/orders";
    let mut ask = async |operation: &str, method: &str, path: &str, body: Option<Value>| {
        sample(&center, &mut samples, operation, (method, path), body).await
    };
    let dry = format!("{of}/apply?dry_run=true");
    ask("apply", "POST", &dry, Some(files())).await;
    ask("apply", "POST", &format!("{of}/apply"), Some(files())).await;
    ask("apply", "POST", &format!("{of}/apply"), Some(json!({ "files": { "x.txt": "" } }))).await;
    ask("listServices", "GET", "/v1/services", None).await;
    ask("getService", "GET", of, None).await;
    ask("putService", "PUT", of, Some(json!({}))).await;
    ask("export", "GET", &format!("{of}/export"), None).await;
    ask("extras", "GET", &format!("{of}/extras"), None).await;
    ask("top", "GET", &format!("{of}/top"), None).await;
    ask("hour", "GET", &format!("{of}/hour"), None).await;
    for (plural, one) in [
        ("policies", "getPolicy"),
        ("entities", "getEntity"),
        ("routes", "getRoute"),
        ("limits", "getLimit"),
        ("plans", "getPlan"),
        ("grants", "getGrant"),
    ] {
        let list = format!("list{}{}", plural[..1].to_uppercase(), &plural[1..]);
        let answer = ask(&list, "GET", &format!("{of}/{plural}?limit=1"), None).await;
        let id = answer["items"][0]["id"].as_str().unwrap_or_else(|| panic!("no {plural}"));
        let id: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
        ask(one, "GET", &format!("{of}/{plural}/{id}"), None).await;
        ask(one, "GET", &format!("{of}/{plural}/none::%22x%22"), None).await;
    }
    ask("listDirectoryRole", "GET", "/v1/roles", None).await;
    ask("getDirectoryRole", "GET", "/v1/roles/role::%22reader%22", None).await;
    let edge = json!({ "member": "user::\"bob\"", "role": { "type": "role", "id": "reader" } });
    ask("assignRole", "POST", "/v1/roles/assign", Some(edge.clone())).await;
    ask("listMembers", "GET", "/v1/members?limit=1", None).await;
    ask("revokeRole", "POST", "/v1/roles/revoke", Some(edge)).await;
    ask("deletePolicy", "DELETE", &format!("{of}/policies/near"), None).await;
    let key = json!({ "principal": "client::\"crawler\"", "plan": "bulk", "note": "n" });
    let made = ask("createKey", "POST", &format!("{of}/keys"), Some(key)).await;
    let prefix = made["prefix"].as_str().unwrap().to_owned();
    ask("rotateKey", "POST", &format!("{of}/keys/{prefix}/rotate"), Some(json!({}))).await;
    ask("listKeys", "GET", &format!("{of}/keys?limit=1"), None).await;
    ask("getKey", "GET", &format!("{of}/keys/{prefix}"), None).await;
    ask("extras", "GET", &format!("{of}/extras"), None).await;
    let made = ask("createToken", "POST", "/v1/tokens", Some(json!({ "role": "pep" }))).await;
    ask("createToken", "POST", "/v1/tokens", Some(json!({ "role": "king" }))).await;
    ask("listTokens", "GET", "/v1/tokens", None).await;
    let id = made["id"].as_str().unwrap().to_owned();
    ask("revokeToken", "DELETE", &format!("/v1/tokens/{id}"), None).await;
    ask("revision", "GET", "/v1/revision", None).await;
    ask("status", "GET", "/v1/status", None).await;
    ask("followers", "GET", "/v1/followers", None).await;
    ask("audit", "GET", "/v1/audit?limit=20", None).await;
    ask("audit", "GET", "/v1/audit?after=20", None).await;
    ask("write", "GET", &format!("/v1/writes/{}", "0".repeat(32)), None).await;
    ask("openapi", "GET", "/v1/openapi.json", None).await;
    let question = json!({ "service": "orders", "principal": "user::\"alice\"", "action": "GET",
        "resource": "route::\"/a\"", "context": { "ip": "10.0.0.1" } });
    ask("check", "POST", "/v1/check", Some(question.clone())).await;
    ask("authzenConfiguration", "GET", "/.well-known/authzen-configuration", None).await;
    let entity = |kind: &str, id: &str| json!({ "type": kind, "id": id });
    let one = json!({ "subject": entity("user", "alice"), "action": { "name": "GET" },
        "resource": entity("route", "/a") });
    ask("evaluation", "POST", "/access/v1/evaluation", Some(one.clone())).await;
    let many = json!({ "evaluations": [one, { "subject": {} }] });
    ask("evaluations", "POST", "/access/v1/evaluations", Some(many)).await;

    let text = document(&center).await.to_string();
    let (document, kept) = (dir.path().join("openapi.json"), dir.path().join("samples.json"));
    std::fs::write(&document, text).unwrap();
    std::fs::write(&kept, serde_json::to_string(&samples).unwrap()).unwrap();
    let check = Command::new(programs.join("python"))
        .arg(script("check.py"))
        .args([&document, &kept])
        .output()
        .unwrap();
    assert_eq!(succeeded(check).trim(), samples.len().to_string());
    let operations: BTreeSet<&str> =
        samples.iter().map(|sample| sample["operation"].as_str().unwrap()).collect();
    assert!(operations.len() >= 38, "{} operations", operations.len());
    center.stop().await;
}

#[tokio::test]
async fn a_generated_client_is_typed_and_works() {
    let Some(programs) = programs() else { return };
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("orders", &[("all", "permit (principal, action, resource);")]).await;
    let out = dir.path().join("client");
    std::fs::create_dir_all(&out).unwrap();
    let document_file = dir.path().join("openapi.json");
    std::fs::write(&document_file, document(&center).await.to_string()).unwrap();
    let generated = Command::new(programs.join("openapi-python-client"))
        .args(["generate", "--meta", "none", "--fail-on-warning", "--config"])
        .arg(script("generator.yaml"))
        .arg("--path")
        .arg(&document_file)
        .arg("--output-path")
        .arg(out.join("keepgate_center_client"))
        .env("PATH", format!("{}:{}", programs.display(), std::env::var("PATH").unwrap()))
        .current_dir(&out)
        .output()
        .unwrap();
    succeeded(generated);
    std::fs::copy(script("use.py"), out.join("use.py")).unwrap();
    let checked = Command::new(programs.join("mypy"))
        .args(["--strict", "--follow-imports=silent", "--no-incremental", "use.py"])
        .current_dir(&out)
        .output()
        .unwrap();
    succeeded(checked);
    let (url, token) = (format!("http://{}", center.addr), center.admin.clone());
    let ran = tokio::task::spawn_blocking(move || {
        Command::new(programs.join("python"))
            .args(["use.py", &url, &token])
            .current_dir(&out)
            .output()
            .unwrap()
    });
    assert_eq!(succeeded(ran.await.unwrap()).trim(), "ok");
    center.stop().await;
}

/// Requests for each operation: each for itself, as the document allows and as it does not.
const EXAMPLES: &str = "6";
/// Within this many seconds, on a slow machine too.
const BOUND_S: &str = "300";

/// Schemathesis, with a fixed seed. No answer is a 5xx, each status and body is documented, what the
/// document forbids is refused, and what it allows is refused only with 404, 409, 412 or 422.
/// `scripts/long openapi` asks more.
#[tokio::test]
#[ignore = "takes half a minute of two processors"]
async fn requests_made_from_the_document_are_answered_as_it_says() {
    let Some(programs) = programs() else { return };
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let applied = center.ask("POST", "/v1/services/orders/apply", Some(files())).await;
    applied.good();
    let examples = std::env::var("KEEPGATE_OPENAPI_EXAMPLES").unwrap_or(EXAMPLES.to_owned());
    let bound = std::env::var("KEEPGATE_OPENAPI_BOUND_S").unwrap_or(BOUND_S.to_owned());
    let mut asks = Command::new("timeout");
    asks.args(["--kill-after", "5", &bound])
        .arg(programs.join("schemathesis"))
        .arg("--config-file")
        .arg(script("fuzz.toml"))
        .arg("run")
        .arg(format!("http://{}/v1/openapi.json", center.addr))
        .args(["--header", &format!("Authorization: Bearer {}", center.admin)])
        .args(["--phases", "coverage,fuzzing", "--continue-on-failure", "--no-shrink"])
        .args(["--max-examples", &examples])
        .env("SCHEMATHESIS_HOOKS", script("fuzz.py"))
        .env("KEEPGATE_OWN_TOKEN", center.admin.split('_').nth(1).unwrap())
        .env("NO_COLOR", "1")
        .current_dir(dir.path());
    let output = tokio::task::spawn_blocking(move || asks.output()).await.unwrap();
    let said = succeeded(output.unwrap());
    assert!(said.contains("Tested: "), "{said}");
    center.stop().await;
}
