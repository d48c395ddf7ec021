//! Edits of many items: linear, told as they go, given up with their client; imports in portions.

use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use keepgate_center::store::Address;
use keepgate_policy::Digest;
use serde_json::{Value, json};

use crate::database::{Cluster, eventually, skipped};
use crate::fixture::{Answer, Dir, Mirror, PATIENCE, Running, config, connect, patiently, request};

/// `entities.json` of so many users.
fn entities(count: usize) -> String {
    let mut text = String::from("[\n");
    for n in 0..count {
        let end = if n + 1 == count { "\n" } else { ",\n" };
        text.push_str(&format!(
            "{{\"uid\":{{\"type\":\"user\",\"id\":\"u{n:07}\"}},\"attrs\":{{}},\"parents\":\
             [{{\"type\":\"role\",\"id\":\"r{}\"}}]}}{end}",
            n % 100
        ));
    }
    text.push_str("]\n");
    text
}

fn files(count: usize) -> Value {
    json!({ "files": { "service.toml": "name = \"s\"\n", "entities.json": entities(count) } })
}

/// What it says of a large change: how many, the first of them, and one audit row a kind.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_entities_land() {
    const MANY: usize = 100_000;
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("s", &[]).await;
    let mut mirror = Mirror::follow(&center, &center.admin, &["s"]).await.unwrap();
    mirror.until(center.revision().await).await;
    let path = "/v1/services/s/apply";
    let (_, told) = lines(&center, path, files(MANY)).await;
    let answer = &told.last().unwrap()["result"];
    assert_eq!(
        (answer["created"].as_u64(), answer["deleted"].as_u64()),
        (Some(MANY as u64), Some(0))
    );
    assert_eq!(answer["changes"].as_array().unwrap().len(), 10_000);
    let revision = answer["revision"].as_u64().unwrap();

    // A follower gets a snapshot in place of a delta, and holds what the center holds.
    let before = mirror.snapshots;
    mirror.until(revision).await;
    assert_eq!(mirror.snapshots, before + 1);
    let digest = center.ask("GET", "/v1/revision", None).await.good()["digest"].clone();
    assert_eq!(digest, json!(Digest::of_all(mirror.items.values()).to_string()));

    // The log has a row for the kind, not a hundred thousand that push out all others.
    let audit = center.ask("GET", "/v1/audit?after=0", None).await.good();
    let rows: Vec<&Value> = audit["entries"].as_array().unwrap().iter().collect();
    let of_apply: Vec<&&Value> =
        rows.iter().filter(|row| row["revision"].as_u64() == Some(revision)).collect();
    assert_eq!(of_apply.len(), 1, "{of_apply:?}");
    assert_eq!(of_apply[0]["after"]["summary"]["created"], json!(MANY));

    // The same again is nothing; a restart finds the same state.
    let (_, told) = lines(&center, path, files(MANY)).await;
    let again = &told.last().unwrap()["result"];
    assert_eq!((again["revision"].as_u64(), &again["changes"]), (Some(revision), &json!([])));
    center.stop().await;
    let center = Running::start(&dir).await;
    assert_eq!(center.ask("GET", "/v1/revision", None).await.good()["digest"], digest);
    // One goes by itself, and then all the others at once.
    center.ask("DELETE", "/v1/services/s/entities/user%3A%3A%22u0000007%22", None).await.good();
    let gone = center.ask("DELETE", "/v1/services/s", None).await.good();
    assert_eq!(gone["deleted"].as_u64(), Some(MANY as u64));
    center.stop().await;
}

/// In a database many items are laid aside first; what others land meanwhile stays, and in the end the
/// store holds what the center does.
#[tokio::test(flavor = "multi_thread")]
async fn many_entities_are_laid_aside_in_a_database() {
    const MANY: usize = 12_000;
    let Some(cluster) = Cluster::new("fsync = off\nlog_statement = 'ddl'\n") else {
        return skipped("PostgreSQL is not installed");
    };
    let address = Address::parse(&cluster.url("aside", "")).unwrap();
    let in_database = |dir: &Dir| {
        let mut config = config(dir);
        config.database = Some(Box::new(address.clone()));
        config
    };
    let (dir, beside) = (Dir::new(), Dir::new());
    let center = Running::with(in_database(&dir)).await;
    let sqlite = Running::start(&beside).await;
    let path = "/v1/services/s/apply";
    let digest = async |center: &Running| {
        center.ask("GET", "/v1/revision", None).await.good()["digest"].clone()
    };
    let mut digests = Vec::new();
    for center in [&center, &sqlite] {
        center.service("s", &[]).await;
        let (_, told) = lines(center, path, files(MANY)).await;
        assert_eq!(told.last().unwrap()["result"]["created"].as_u64(), Some(MANY as u64));
        digests.push(digest(center).await);
    }
    assert_eq!(digests[0], digests[1]);
    assert!(cluster.log().contains("CREATE UNLOGGED TABLE aside.staged_"));
    // All of them change, while some go one by one.
    let changed = entities(MANY).replace("\"id\":\"r", "\"id\":\"q");
    let changed =
        json!({ "files": { "service.toml": "name = \"s\"\n", "entities.json": changed } });
    let applied = lines(&center, path, changed);
    let one_by_one = async {
        for n in 0..40 {
            let path = format!("/v1/services/s/entities/user%3A%3A%22u{:07}%22", n * 17);
            let answer = center.ask("DELETE", &path, None).await;
            assert!([200, 404].contains(&answer.status.as_u16()), "{answer:?}");
        }
    };
    let ((_, told), ()) = tokio::join!(applied, one_by_one);
    let answer = &told.last().unwrap()["result"];
    assert!(answer["updated"].as_u64() > Some(MANY as u64 - 100), "{told:?}");
    let last = digest(&center).await;
    center.stop().await;
    // A start holds all rows against their digests.
    let center = Running::with(in_database(&dir)).await;
    assert_eq!(digest(&center).await, last);
    let tables = "SELECT count(*) FROM pg_class WHERE relname LIKE 'staged%'";
    eventually("no table", || cluster.sql("kg", tables) == "0");
    center.stop().await;
    sqlite.stop().await;
}

/// Lines of an answer, until it ends.
async fn lines(center: &Running, path: &str, body: Value) -> (http::response::Parts, Vec<Value>) {
    let stream = connect(center.addr).await;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = request(Method::POST, path)
        .header("host", center.addr.to_string())
        .header("authorization", format!("Bearer {}", center.admin))
        .header("content-type", "application/json")
        .header("accept", "application/x-ndjson")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    // There is no limit of time while it tells how far it is; only for each of its lines.
    // What is sent is read before the answer begins, and a loaded machine takes its time.
    let answer = tokio::time::timeout(5 * PATIENCE, sender.send_request(request)).await;
    let answer = answer.unwrap().unwrap();
    let (head, mut body) = answer.into_parts();
    let mut text = Vec::new();
    while let Some(frame) = patiently("a line", body.frame()).await {
        text.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    driver.abort();
    let text = String::from_utf8(text).unwrap();
    (head, text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_tells_how_far_it_is_and_the_result_last() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let path = "/v1/services/s/apply";
    let (head, told) = lines(&center, path, files(20_000)).await;
    assert_eq!(head.headers["content-type"], "application/x-ndjson");
    let (last, before) = told.split_last().unwrap();
    assert_eq!(last["result"]["created"], json!(20_001), "{last}");
    assert!(!before.is_empty());
    let stages = ["read", "compare", "check", "build", "commit"];
    for line in before {
        assert!(stages.contains(&line["progress"]["stage"].as_str().unwrap()), "{line}");
    }
    // What is refused is a line too, once the answer has begun.
    let parent = json!([{ "uid": { "type": "user", "id": "a" },
        "parents": [{ "type": "user", "id": "a" }] }]);
    let circle = json!({ "files": { "service.toml": "name = \"s\"\n",
        "entities.json": parent.to_string() } });
    let (_, told) = lines(&center, path, circle).await;
    let problem = &told.last().unwrap()["problem"];
    assert_eq!(
        (problem["status"].as_u64(), &problem["problems"][0]["file"]),
        (Some(422), &json!("entities.json")),
        "{problem}"
    );
    center.stop().await;
}

/// A client that leaves ends its work: nothing lands, and the next one need not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_work() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let body = files(40_000).to_string();
    let mut stream = connect(center.addr).await;
    let head = format!(
        "POST /v1/services/s/apply HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\naccept: application/x-ndjson\r\n\
         content-length: {}\r\n\r\n",
        center.admin,
        body.len()
    );
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    // The body is read and the work has begun.
    let mut begun = [0; 15];
    patiently("the answer's head", stream.read_exact(&mut begun)).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200 OK");
    drop(stream);
    // The next one takes its turn after it.
    let one = json!({ "files": { "service.toml": "name = \"s\"\n" } });
    let answer = center.ask("POST", "/v1/services/s/apply", Some(one)).await.good();
    // Had it landed, there would be 40,000 to delete.
    assert_eq!(answer["changes"].as_array().unwrap().len(), 1, "{answer}");
    center.stop().await;
}

pub(crate) async fn import(center: &Running, path: &str, lines: &str) -> Answer {
    let request = request(Method::POST, path)
        .header("authorization", format!("Bearer {}", center.admin))
        .header("content-type", "application/x-ndjson")
        .body(Bytes::from(lines.to_owned()))
        .unwrap();
    center.send(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn portions_land_whole_or_not_at_all_and_twice_is_once() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    center.service("s", &[]).await;
    let path = "/v1/services/s/import/entities";
    let good = "{\"uid\":\"user::\\\"a\\\"\",\"parents\":[\"role::\\\"r\\\"\"]}\n\n\
                {\"uid\":{\"type\":\"user\",\"id\":\"b\"},\"attrs\":{\"n\":1}}\n";
    let first = import(&center, path, good).await.good();
    assert_eq!((first["created"].as_u64(), first["updated"].as_u64()), (Some(2), Some(0)));
    let again = import(&center, path, good).await.good();
    assert_eq!((&again["revision"], again["created"].as_u64()), (&first["revision"], Some(0)));

    // A bad line is named, and none of its portion lands.
    let bad = "{\"uid\":\"user::\\\"c\\\"\"}\n{\"uid\":7}\n{\"id\":1}\n";
    let answer = import(&center, path, bad).await;
    assert_eq!(answer.status, 422);
    let problems = answer.json()["problems"].clone();
    assert_eq!((&problems[0]["line"], &problems[1]["line"]), (&json!(2), &json!(3)), "{problems}");
    let bad =
        "{\"uid\":\"user::\\\"d\\\"\"}\n{\"uid\":\"user::\\\"c\\\"\",\"attrs\":{\"x\":1.5}}\n";
    let answer = import(&center, path, bad).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["problems"][0]["line"]), (422, &json!(2)));
    let all = center.ask("GET", "/v1/services/s/entities", None).await.good();
    assert_eq!(all["items"].as_array().unwrap().len(), 2);

    let member = "{\"member\":\"user::\\\"a\\\"\",\"role\":\"role::\\\"r\\\"\"}\n";
    assert_eq!(import(&center, "/v1/import/members", member).await.good()["created"], json!(1));
    assert_eq!(import(&center, "/v1/import/members", member).await.good()["created"], json!(0));
    let grant = "{\"principal\":\"role::\\\"r\\\"\",\"actions\":[\"GET\"],\"resource\":\"any\"}\n";
    let path = "/v1/services/s/import/grants";
    assert_eq!(import(&center, path, grant).await.good()["created"], json!(1));
    let empty = "{\"principal\":\"role::\\\"r\\\"\",\"actions\":[],\"resource\":\"any\"}\n";
    assert_eq!(import(&center, path, empty).await.status, 422);

    // At the bound, and beyond it.
    let line = |n: usize| format!("{{\"uid\":\"user::\\\"m{n}\\\"\"}}\n");
    let path = "/v1/import/entities";
    let most: String = (0..5_000).map(line).collect();
    assert_eq!(import(&center, path, &most).await.good()["created"], json!(5_000));
    let more: String = (0..5_001).map(line).collect();
    assert!(import(&center, path, &more).await.problem(400).contains("at most 5000 lines"));
    center.stop().await;
}

/// Errors, changes and problems are bounded, whatever comes.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_is_bounded() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let list: Vec<Value> = (0..3_000).map(|n| json!({ "uid": n })).collect();
    let body = json!({ "files": { "service.toml": "name = \"s\"\n",
        "entities.json": Value::Array(list).to_string() } });
    let answer = center.ask("POST", "/v1/services/s/apply", Some(body)).await;
    assert_eq!(answer.status, 422);
    let problems = answer.json()["problems"].as_array().unwrap().clone();
    assert_eq!(problems.len(), 1_001);
    assert!(problems[1_000]["message"].as_str().unwrap().contains("2000 more errors"));

    // A member of too many roles; and a chain of many roles that ends in a circle.
    let many: String = (0..10_001)
        .map(|n| format!("[[membership]]\nmember = 'user::\"a\"'\nrole = \"r{n}\"\n"))
        .collect();
    let body = json!({ "files": { "service.toml": "name = \"s\"\n", "roles.toml": many } });
    let answer = center.ask("POST", "/v1/services/s/apply", Some(body)).await;
    assert!(answer.problem(422).contains("more than 10000 roles"));
    let chain: Vec<Value> = (0..20_000)
        .map(|n| {
            json!({ "uid": { "type": "role", "id": format!("r{n}") },
            "parents": [{ "type": "role", "id": format!("r{}", (n + 1) % 20_000) }] })
        })
        .collect();
    let body = json!({ "files": { "service.toml": "name = \"s\"\n",
        "entities.json": Value::Array(chain).to_string() } });
    let answer = center.ask("POST", "/v1/services/s/apply", Some(body)).await;
    assert!(answer.body.len() < 100_000, "{} bytes", answer.body.len());
    assert!(answer.problem(422).contains("membership forms a cycle"));
    center.stop().await;
}

/// An apply above the bound is refused before it is read.
#[tokio::test(flavor = "multi_thread")]
async fn the_bound_of_an_apply_is_a_setting() {
    let dir = Dir::new();
    let mut config = config(&dir);
    config.bounds.apply_bytes = 10_000;
    let center = Running::with(config).await;
    let text = |bytes: usize| {
        let toml = "name = \"s\"\n#";
        let empty = json!({ "files": { "service.toml": toml } }).to_string().len();
        json!({ "files": { "service.toml": format!("{toml}{}", "x".repeat(bytes - empty)) } })
    };
    let at = center.ask("POST", "/v1/services/s/apply", Some(text(10_000))).await;
    assert_eq!(at.status, 200);
    let beyond = center.ask("POST", "/v1/services/s/apply", Some(text(10_001))).await;
    assert!(beyond.problem(413).contains("at most 10000 bytes"));
    center.stop().await;
}
