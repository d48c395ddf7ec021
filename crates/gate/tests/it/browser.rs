//! A real browser: what a page sees of its WebSocket, its event stream and its request when what
//! was allowed is not any more. Chromium, without a screen.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use keepgate_policy::model::MemberBody;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::support::{Draft, Echo, TestGate, route, serve, skip, uid};

/// How long a browser may take to start, beside other tests.
pub(super) const START: Duration = Duration::from_secs(60);
/// From the change to the end, as promised.
const PROMISED_MS: f64 = 1_200.0;

/// The page: three long exchanges, of which it tells by a request of its own; and a frame with the
/// page of another gate.
const PAGE: &str = r#"<!doctype html><title>page</title><body><script>
const other = new URLSearchParams(location.search).get("other");
if (other) {
  const frame = document.createElement("iframe");
  frame.src = `http://${location.hostname}:${other}/page`;
  document.body.append(frame);
}
const tell = (what, more) => fetch("/page/told", {method: "POST",
  body: JSON.stringify({what, at: Date.now(), port: location.port, ...more})});
const ws = new WebSocket(`ws://${location.host}/long/ws`);
ws.onmessage = event => tell("ws open", {text: event.data});
ws.onclose = event => tell("ws end", {code: event.code, text: event.reason, clean: event.wasClean});
const events = new EventSource("/long/events");
events.onmessage = event => tell("events open", {text: event.data});
events.onerror = () => {
  if (events.readyState === EventSource.CLOSED) tell("events refused", {});
  else tell("events end", {});
};
(async () => {
  try {
    const response = await fetch("/long/events");
    const reader = response.body.getReader();
    await reader.read();
    tell("fetch open", {});
    while (!(await reader.read()).done);
    tell("fetch end", {whole: true});
  } catch (error) {
    tell("fetch end", {whole: false, text: String(error)});
  }
})();
</script>"#;

/// A running browser; it ends with the test, with all its processes.
pub(super) struct Browser {
    child: Child,
    profile: PathBuf,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its own group: a browser is many processes.
        if let Ok(group) = i32::try_from(self.child.id()) {
            // SAFETY: it takes no pointer, and the group is of this test's own child.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

impl Browser {
    /// None: there is none here, and the test may be left out.
    pub(super) fn start(page: &str) -> Option<Browser> {
        use std::os::unix::process::CommandExt as _;
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let names = ["chromium", "chromium-headless-shell", "chromium-browser", "google-chrome"];
        let found = names
            .iter()
            .flat_map(|name| ["/usr/bin", "/usr/local/bin"].map(|dir| Path::new(dir).join(name)))
            .find(|path| path.exists());
        let Some(program) = found else {
            skip("chromium is not installed");
            return None;
        };
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let name = format!("keepgate-browser-{}-{number}", std::process::id());
        let profile = std::env::temp_dir().join(name);
        let child = Command::new(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--no-proxy-server", "--disable-extensions"])
            .args(["--disable-background-networking", "--disable-component-update"])
            // Without it a browser that has shown its page ends.
            .arg("--remote-debugging-port=0")
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(page)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        Some(Browser { child, profile })
    }
}

type Page = UnsyncBoxBody<Bytes, Infallible>;

fn full(text: impl Into<Bytes>) -> Page {
    UnsyncBoxBody::new(Full::new(text.into()))
}

/// Takes a WebSocket, says a word and is quiet.
fn websocket(mut request: Request<Incoming>) -> Response<Page> {
    let key = request.headers()["sec-websocket-key"].as_bytes();
    let salted = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    let accept =
        STANDARD.encode(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &salted));
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut io = TokioIo::new(upgraded);
        let _ = io.write_all(b"\x81\x05hello").await;
        let mut buffer = [0; 256];
        while matches!(io.read(&mut buffer).await, Ok(1..)) {}
    });
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("Upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("websocket"));
    headers.insert("sec-websocket-accept", HeaderValue::try_from(accept).unwrap());
    response
}

/// The upstream of the page, and what the page tells.
async fn site() -> (Echo, mpsc::UnboundedReceiver<Value>) {
    let (tell, told) = mpsc::unbounded_channel();
    let echo = serve(move |request: Request<Incoming>| {
        let tell = tell.clone();
        async move {
            let mut response = match request.uri().path() {
                "/long/ws" => return websocket(request),
                "/long/events" => {
                    let first = Frame::data(Bytes::from_static(b"data: 1\n\n"));
                    let first = futures_util::stream::iter([Ok::<_, Infallible>(first)]);
                    let body = StreamBody::new(first.chain(futures_util::stream::pending()));
                    let mut response = Response::new(UnsyncBoxBody::new(body));
                    let kind = HeaderValue::from_static("text/event-stream");
                    response.headers_mut().insert("content-type", kind);
                    response
                }
                "/page/told" => {
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let _ = tell.send(serde_json::from_slice(&body).unwrap());
                    Response::new(full("fine"))
                }
                _ => {
                    let mut response = Response::new(full(PAGE));
                    let kind = HeaderValue::from_static("text/html");
                    response.headers_mut().insert("content-type", kind);
                    response
                }
            };
            let none = HeaderValue::from_static("no-store");
            response.headers_mut().insert("cache-control", none);
            response
        }
    })
    .await;
    (echo, told)
}

/// Whoever shows no credential may use what is long, as long as nobody takes that role away.
fn draft() -> Draft {
    let mut draft = Draft::orders();
    draft.routes = ["/page", "/page/told", "/long/{*rest}", "/favicon.ico"]
        .map(|path| {
            let mut route = route("*", path);
            route.anonymous = true;
            if path.starts_with("/long") {
                route.max_age_ms = Some(5_000);
            }
            route
        })
        .to_vec();
    let policy = |id: &str, text: &str| (id.to_owned(), text.to_owned());
    draft.policies = vec![
        policy("page", "permit (principal, action, resource in route::\"/page\");"),
        policy(
            "long",
            "permit (principal in role::\"reader\", action, resource in route::\"/long\");",
        ),
    ];
    draft.members = vec![MemberBody {
        member: uid("user", "anonymous"),
        role: uid("role", "reader"),
        source: String::new(),
        until_unix_s: None,
    }];
    draft
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_sees_why_its_websocket_and_its_event_stream_end() {
    let (site, mut told) = site().await;
    let mut draft = draft();
    let brisk = |config: &mut keepgate_gate::GateConfig| {
        config.bounds.revoke_after = Duration::from_millis(100);
    };
    let revoked = TestGate::with(&draft, &site.url, brisk).await;
    let frozen = TestGate::with(&draft, &site.url, brisk).await;
    let ports = [&revoked, &frozen].map(|gate| gate.addr.port().to_string());
    let page = format!("http://127.0.0.1:{}/page?other={}", ports[0], ports[1]);
    let Some(browser) = Browser::start(&page) else { return };
    let mut said: Vec<Value> = Vec::new();
    let find = |said: &[Value], port: &str, what: &str| {
        said.iter().find(|said| said["port"] == port && said["what"] == what).cloned()
    };
    // Until both pages have said all of these.
    let mut until = async |said: &mut Vec<Value>, wanted: &[&str]| {
        while !ports.iter().all(|p| wanted.iter().all(|what| find(said, p, what).is_some())) {
            match tokio::time::timeout(START, told.recv()).await {
                Ok(Some(one)) => said.push(one),
                _ => panic!("of {wanted:?} the pages have said only: {said:?}"),
            }
        }
    };
    until(&mut said, &["ws open", "events open", "fetch open"]).await;
    // Older than exchanges that are left alone.
    tokio::time::sleep(Duration::from_millis(150)).await;
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() * 1_000.0;
    draft.members.clear();
    draft.revision += 1;
    revoked.source.replace(draft.world());
    frozen.source.set_age(Duration::from_millis(5_100));
    let ends = ["ws end", "events end", "fetch end", "events refused"];
    until(&mut said, &ends).await;
    for (port, code, reason) in [
        (&ports[0], 1008, "access was revoked"),
        (&ports[1], 1013, "access cannot be decided right now"),
    ] {
        for what in &ends[..3] {
            let said = find(&said, port, what).unwrap();
            let took = said["at"].as_f64().unwrap() - begun;
            assert!((-1.0..PROMISED_MS).contains(&took), "{what} after {took} ms: {said}");
        }
        let ws = find(&said, port, "ws end").unwrap();
        assert_eq!((&ws["code"], &ws["text"]), (&code.into(), &reason.into()), "{ws}");
        assert_eq!(ws["clean"], true, "{ws}");
        // A stream that was cut is told from one that is over.
        assert_eq!(find(&said, port, "fetch end").unwrap()["whole"], false);
    }
    drop(browser);
    revoked.stop().await;
    frozen.stop().await;
}
