//! Places that a few must not take from all: connections, snapshots, and what is behind a refused
//! body.

use std::time::Duration;

use http::StatusCode;
use keepgate_policy::proto::{self, FollowRequest, FollowResponse};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::fixture::{Dir, Mirror, PATIENCE, Running, config, connect, patiently};

/// Python's http.client keeps its connection through every refusal of a small body, and is told
/// before it loses one after a large body. No request fails.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_leave_the_connection_or_say_that_they_close_it() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/refused.py");
    let (port, admin) = (center.addr.port().to_string(), center.admin.clone());
    let running = tokio::task::spawn_blocking(move || {
        let mut command = std::process::Command::new("python3");
        command.args([script, "127.0.0.1", &port, &admin]).output()
    });
    let output = patiently("the script", running).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let runs: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(runs.len(), 4, "{text}");
    for run in runs {
        assert_eq!(run["wrong"], json!([]), "{run}");
        assert!(run["connections"].as_u64() <= run["most"].as_u64(), "{run}");
    }
    center.stop().await;
}

/// One request as it is on the wire; the answer's head.
async fn raw(center: &Running, text: &[u8]) -> String {
    let mut stream = connect(center.addr).await;
    stream.write_all(text).await.unwrap();
    head(&mut stream).await
}

async fn head(stream: &mut tokio::net::TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut byte = [0; 512];
        let read = patiently("an answer", stream.read(&mut byte)).await.unwrap();
        assert!(read > 0, "it closed: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&byte[..read]);
    }
    String::from_utf8_lossy(&answer).to_lowercase()
}

/// Who waits for `100 Continue` and is refused may never send the body: the connection is at its
/// end. Who was told to go on is not asked twice.
#[tokio::test(flavor = "multi_thread")]
async fn expectations_are_kept() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    let refused = raw(
        &center,
        b"POST /v1/tokens HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n",
    )
    .await;
    assert!(
        refused.starts_with("http/1.1 401") && refused.contains("connection: close"),
        "{refused}"
    );
    let too_large = format!(
        "POST /v1/tokens HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 2000000\r\nexpect: 100-continue\r\n\r\n",
        center.admin
    );
    let refused = raw(&center, too_large.as_bytes()).await;
    assert!(
        refused.starts_with("http/1.1 413") && refused.contains("connection: close"),
        "{refused}"
    );
    let mut stream = connect(center.addr).await;
    let good = format!(
        "POST /v1/tokens HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 14\r\nexpect: 100-continue\r\n\r\n",
        center.admin
    );
    stream.write_all(good.as_bytes()).await.unwrap();
    assert!(head(&mut stream).await.starts_with("http/1.1 100"));
    stream.write_all(b"{\"role\":\"pep\"}").await.unwrap();
    let answer = head(&mut stream).await;
    assert!(
        answer.starts_with("http/1.1 201") && !answer.contains("connection: close"),
        "{answer}"
    );
    center.stop().await;
}

/// Connections that do nothing give way to those that ask; the newest is served.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_give_way() {
    let dir = Dir::new();
    let mut config = config(&dir);
    config.bounds.connections = 64;
    config.bounds.connections_of_an_address = Some(16);
    let center = Running::with(config).await;
    let mut idle = Vec::new();
    for n in 0..200 {
        let mut stream = connect(center.addr).await;
        if n % 2 == 0 {
            // One that has asked, and keeps its connection for later.
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            assert!(head(&mut stream).await.starts_with("http/1.1 200"));
        }
        idle.push(stream);
    }
    let health = center.ask_as(None, "GET", "/healthz", None).await;
    assert_eq!(health.status, StatusCode::OK);
    assert!(center.ask("GET", "/v1/services", None).await.status.is_success());
    let page = center.ask_as(None, "GET", "/metrics", None).await;
    let page = String::from_utf8(page.body.to_vec()).unwrap();
    let open = page.lines().find_map(|l| l.strip_prefix("keepgate_center_connections ")).unwrap();
    assert!(open.parse::<u64>().unwrap() <= 16 + 1 + 8 + 1, "{open}");
    drop(idle);
    center.stop().await;
}

/// Where all places are taken by requests under way, health checks and followers still find one.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_leaves_room_for_health_checks_and_followers() {
    let dir = Dir::new();
    let mut config = config(&dir);
    config.bounds.connections = 64;
    config.bounds.connections_of_an_address = Some(4);
    let center = Running::with(config).await;
    let mut busy = Vec::new();
    let begun = format!(
        "POST /v1/tokens HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 14\r\nexpect: 100-continue\r\n\r\n",
        center.admin
    );
    for _ in 0..4 {
        let mut stream = connect(center.addr).await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        assert!(head(&mut stream).await.starts_with("http/1.1 100"));
        busy.push(stream);
    }
    let other = raw(&center, b"GET /v1/services HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(other.starts_with("http/1.1 503") && other.contains("connection: close"), "{other}");
    let health = raw(&center, b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(health.starts_with("http/1.1 200"), "{health}");
    let mut mirror = Mirror::follow(&center, &center.admin, &[]).await.unwrap();
    while mirror.snapshots == 0 {
        mirror.step().await.unwrap();
    }
    // Those under way are served all the same.
    for stream in &mut busy {
        stream.write_all(b"{\"role\":\"pep\"}").await.unwrap();
        assert!(head(stream).await.starts_with("http/1.1 201"));
    }
    center.stop().await;
}

/// One gate's token with a hundred followers that read nothing: another gate gets its snapshot at
/// once, and those that do not read are given up.
#[tokio::test(flavor = "multi_thread")]
async fn followers_that_do_not_read_take_nobodys_place() {
    let dir = Dir::new();
    let center = Running::start(&dir).await;
    // More pieces than the queue of a follower holds.
    let list: Vec<Value> = (0..60)
        .map(|n| {
            json!({ "uid": { "type": "user", "id": n.to_string() },
            "attrs": { "text": "x".repeat(300_000) } })
        })
        .collect();
    let files = json!({ "files": { "service.toml": "name = \"s\"\n",
        "entities.json": Value::Array(list).to_string() } });
    center.ask("POST", "/v1/services/s/apply", Some(files)).await.good();
    let deaf = center.token("gate", "s").await;
    let channel = tonic::transport::Endpoint::try_from(format!("http://{}", center.addr))
        .unwrap()
        .initial_stream_window_size(0)
        .connect()
        .await
        .unwrap();
    let mut streams = Vec::new();
    for _ in 0..100 {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        let (to, asked) = mpsc::channel(1);
        let hello = proto::Hello { services: vec!["s".to_owned()], ..proto::Hello::default() };
        let hello = Some(proto::follow_request::Request::Hello(hello));
        to.send(FollowRequest { request: hello }).await.unwrap();
        let asked = futures_util::stream::unfold(asked, |mut asked| async move {
            asked.recv().await.map(|message| (message, asked))
        });
        let mut request = tonic::Request::new(asked);
        request.metadata_mut().insert("authorization", format!("Bearer {deaf}").parse().unwrap());
        grpc.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/keepgate.sync.v1.Sync/Follow");
        let codec = tonic_prost::ProstCodec::<FollowRequest, FollowResponse>::default();
        let answer = patiently("a stream", grpc.streaming(request, path, codec)).await.unwrap();
        streams.push((to, answer.into_inner()));
    }
    let count = async || {
        let answer = center.ask("GET", "/v1/followers", None).await.good();
        answer["followers"].as_array().unwrap().len()
    };
    assert_eq!(count().await, 100);
    let other = center.token("gate", "s").await;
    let mut mirror = Mirror::follow(&center, &other, &["s"]).await.unwrap();
    while mirror.snapshots == 0 {
        mirror.step().await.unwrap();
    }
    // Nobody was given up for it yet.
    assert_eq!(count().await, 101);
    let given_up = async {
        while count().await > 90 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, given_up).await.is_ok(), "none was given up");
    drop(streams);
    center.stop().await;
}
