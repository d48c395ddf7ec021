//! The table of raw-byte cases: what is refused, what is dropped, what arrives.

use super::support::{Answer, Draft, Echo, TestGate, get, talk};

/// How a case must end.
enum Expect {
    /// The gate's own answer: status and kind.
    Refused(u16, &'static str),
    /// Forwarded; the upstream saw all of the first and none of the second texts.
    Seen(&'static [&'static str], &'static [&'static str]),
}
use Expect::{Refused, Seen};

const BAD: Expect = Refused(400, "bad-request");
const PATH: Expect = Refused(400, "bad-path");
const METHOD: Expect = Refused(501, "method-not-implemented");

/// `GET` with these header lines, authorized, and the connection closed after it.
fn get_with(lines: &str) -> String {
    format!("GET /orders HTTP/1.1\r\nHost: a.example\r\nx-user: alice\r\n{lines}\r\n")
}

/// The same for a target.
fn target(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: a.example\r\nx-user: alice\r\nConnection: close\r\n\r\n"
    )
}

fn post(lines: &str, body: &str) -> String {
    format!("POST /orders HTTP/1.1\r\nHost: a.example\r\nx-user: alice\r\n{lines}\r\n{body}")
}

fn cases() -> Vec<(&'static str, String, Expect)> {
    let close = "Connection: close\r\n";
    let mut cases = vec![
        // Framing.
        ("plain", get_with(close), Seen(&["GET /orders\n"], &[])),
        ("leading empty line", format!("\r\n{}", get_with(close)), Seen(&["GET /orders\n"], &[])),
        ("two empty lines", format!("\r\n\r\n\r\n{}", get_with(close)), BAD),
        (
            "length and encoding",
            post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            BAD,
        ),
        (
            "encoding and length",
            post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "0\r\n\r\n"),
            BAD,
        ),
        ("two equal lengths", post("Content-Length: 1\r\nContent-Length: 1\r\n", "a"), BAD),
        ("two lengths", post("Content-Length: 1\r\nContent-Length: 2\r\n", "ab"), BAD),
        ("a list of lengths", post("Content-Length: 1, 1\r\n", "a"), BAD),
        ("signed length", post("Content-Length: +1\r\n", "a"), BAD),
        ("negative length", post("Content-Length: -1\r\n", "a"), BAD),
        ("hex length", post("Content-Length: 0x1\r\n", "a"), BAD),
        ("empty length", post("Content-Length:\r\n", ""), BAD),
        ("huge length", post("Content-Length: 99999999999999999999\r\n", ""), BAD),
        ("encoding identity", post("Transfer-Encoding: identity\r\n", ""), BAD),
        ("encoding gzip, chunked", post("Transfer-Encoding: gzip, chunked\r\n", ""), BAD),
        ("encoding chunked, gzip", post("Transfer-Encoding: chunked, gzip\r\n", ""), BAD),
        (
            "encoding twice",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            BAD,
        ),
        ("encoding with tab", post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"), BAD),
        (
            "encoding in 1.0",
            "POST /orders HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_owned(),
            BAD,
        ),
        (
            "chunked",
            post(
                &format!("Transfer-Encoding: chunked\r\n{close}"),
                "3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n",
            ),
            Seen(&["POST /orders\n", "transfer-encoding: chunked", "\n\nabc"], &[]),
        ),
        (
            "bad chunk size",
            post("Transfer-Encoding: chunked\r\n", "x\r\nabc\r\n0\r\n\r\n"),
            Refused(400, "bad-body"),
        ),
        (
            "chunk size over 64 bits",
            post("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n"),
            Refused(400, "bad-body"),
        ),
        (
            "chunk longer than its size",
            post("Transfer-Encoding: chunked\r\n", "2\r\nabc\r\n0\r\n\r\n"),
            Refused(400, "bad-body"),
        ),
        (
            "bare LF in chunks",
            post("Transfer-Encoding: chunked\r\n", "3\nabc\n0\n\n"),
            Refused(400, "bad-body"),
        ),
        ("bare LF lines", "GET /orders HTTP/1.1\nHost: a\n\n".to_owned(), BAD),
        ("bare LF at the end", "GET /orders HTTP/1.1\r\nHost: a\r\n\n".to_owned(), BAD),
        ("bare CR", "GET /orders HTTP/1.1\rHost: a\r\n\r\n".to_owned(), BAD),
        ("folded line", get_with("X-A: b\r\n c\r\n"), BAD),
        ("space before colon", get_with("X-A : b\r\n"), BAD),
        ("space before name", get_with(" X-A: b\r\n"), BAD),
        ("no colon", get_with("X-A\r\n"), BAD),
        ("empty name", get_with(": b\r\n"), BAD),
        ("NUL in value", get_with("X-A: b\0c\r\n"), BAD),
        ("control in value", get_with("X-A: b\x01c\r\n"), BAD),
        ("name with bracket", get_with("X(A: b\r\n"), BAD),
        ("HTTP/2.0 in words", "GET /orders HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(), BAD),
        ("HTTP/0.9", "GET /orders\r\n\r\n".to_owned(), BAD),
        ("two spaces", "GET  /orders HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), BAD),
        ("no method", " /orders HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), BAD),
        ("odd method", "G(T /orders HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), BAD),
        ("TLS to plain", "\x16\x03\x01\x02\x00\r\n\r\n".to_owned(), BAD),
        ("CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".to_owned(), METHOD),
        ("TRACE", get_with(close).replacen("GET", "TRACE", 1), METHOD),
        ("delete", get_with(close).replacen("GET", "delete", 1), METHOD),
        ("Get", get_with(close).replacen("GET", "Get", 1), METHOD),
        ("unknown method", get_with(close).replacen("GET", "MKCOL", 1), METHOD),
        ("a method that is no name", get_with(close).replacen("GET", "G!T", 1), METHOD),
        (
            "a method that the path does not have",
            get_with(close).replacen("GET", "DELETE", 1),
            Refused(405, "method-not-allowed"),
        ),
        // Host.
        ("no Host", "GET /orders HTTP/1.1\r\n\r\n".to_owned(), BAD),
        ("1.0 without Host", "GET /orders HTTP/1.0\r\n\r\n".to_owned(), BAD),
        (
            "1.0 with Host",
            "GET /orders HTTP/1.0\r\nHost: a\r\nx-user: alice\r\n\r\n".to_owned(),
            Seen(&["GET /orders\n", "host: a\n"], &[]),
        ),
        ("two Hosts", get_with("Host: b\r\n"), BAD),
        ("two equal Hosts", get_with("Host: a.example\r\n"), BAD),
        ("empty Host", "GET /orders HTTP/1.1\r\nHost:\r\n\r\n".to_owned(), BAD),
        ("Host with path", "GET /orders HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned(), BAD),
        ("Host with user", "GET /orders HTTP/1.1\r\nHost: u@a\r\n\r\n".to_owned(), BAD),
        ("Host list", "GET /orders HTTP/1.1\r\nHost: a, b\r\n\r\n".to_owned(), BAD),
        (
            "Host with an empty port",
            "GET /orders HTTP/1.1\r\nHost: name:\r\nx-user: alice\r\nConnection: close\r\n\r\n"
                .to_owned(),
            Seen(&["GET /orders\n", "host: name:\n"], &[]),
        ),
        ("Host with bad port", "GET /orders HTTP/1.1\r\nHost: a:b\r\n\r\n".to_owned(), BAD),
        (
            "absolute target, same Host",
            target("http://a.example/orders"),
            Seen(&["GET /orders\n", "host: a.example\n"], &[]),
        ),
        (
            "absolute target without a path",
            target("http://a.example?x=1"),
            Refused(404, "no-route"),
        ),
        ("absolute target, other scheme", target("ftp://a.example/orders"), BAD),
        ("absolute target, with user", target("http://u@a.example/orders"), BAD),
        ("absolute target, other Host", target("http://b.example/orders"), BAD),
        // Targets and paths.
        ("fragment", target("/orders#x"), BAD),
        ("raw UTF-8", target("/orders/\u{e9}"), Seen(&["GET /orders/%C3%A9\n"], &[])),
        (
            "what browsers send raw",
            target("/orders/[1]|^{x}\""),
            Seen(&["GET /orders/%5B1%5D%7C%5E%7Bx%7D%22\n"], &[]),
        ),
        ("invalid UTF-8", target("/orders/%ff"), PATH),
        ("parameters", target("/orders;v=1"), PATH),
        ("dots with an encoded parameter", target("/x/..%3Bv/orders"), PATH),
        ("asterisk", target("*"), PATH),
        ("dot segments", target("/x/../orders"), Seen(&["GET /orders\n"], &["x/"])),
        ("encoded dots", target("/x/%2e%2E/orders"), Seen(&["GET /orders\n"], &["%2e"])),
        ("slashes", target("//orders"), Seen(&["GET /orders\n"], &["//orders"])),
        ("encoded letters", target("/%6Frders/7"), Seen(&["GET /orders/7\n"], &["%6F"])),
        (
            "query stays",
            target("/orders?a=%2e%2e/x&b=//"),
            Seen(&["GET /orders?a=%2e%2e/x&b=//\n"], &[]),
        ),
        ("encoded twice", target("/orders/%252e"), Seen(&["GET /orders/%252e\n"], &[])),
        ("above the root", target("/../orders"), PATH),
        ("encoded slash", target("/orders%2F7"), PATH),
        ("encoded NUL", target("/orders/%00"), PATH),
        ("encoded CRLF", target("/orders/%0d%0aX:y"), PATH),
        ("backslash", target("/orders\\7"), PATH),
        ("encoded backslash", target("/orders%5c7"), PATH),
        ("dots with parameter", target("/x/..;/orders"), PATH),
        ("half an escape", target("/orders/%2"), PATH),
        // Connection, and what ends at the gate.
        ("Connection: host", get_with("Connection: close, host\r\n"), BAD),
        ("Connection: authorization", get_with("Connection: Authorization\r\n"), BAD),
        ("Connection: x-forwarded-for", get_with("Connection: X-Forwarded-For\r\n"), BAD),
        ("Connection: keepgate-principal", get_with("Connection: Keepgate-Principal\r\n"), BAD),
        ("Connection: cookie", get_with("Connection: cookie\r\n"), BAD),
        ("Connection: content-length", post("Connection: content-length\r\n", ""), BAD),
        (
            "hop by hop",
            get_with(
                "Connection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: a\r\n\
                 TE: gzip\r\nProxy-Authorization: b\r\n",
            ),
            Seen(&["GET /orders\n"], &["x-hop", "keep-alive", "proxy-", "te: ", "connection:"]),
        ),
        (
            "TE: trailers",
            get_with("Connection: close, TE\r\nTE: gzip, trailers\r\n"),
            Seen(&["te: trailers\n"], &["gzip"]),
        ),
        (
            "Keepgate from outside",
            get_with(&format!("Keepgate-Principal: user::\"root\"\r\nKeepgate-X: 1\r\n{close}")),
            Seen(&["keepgate-principal: user::\"alice\"\n"], &["root", "keepgate-x"]),
        ),
        (
            "look-alikes",
            get_with(&format!(
                "Keepgate_Principal: root\r\nX_Forwarded_For: 6.6.6.6\r\nx_real-ip: 6.6.6.6\r\n\
                 Content_Length: 6\r\nx_fine: 1\r\nX.Forwarded.For: 6.6.6.6\r\n\
                 X_User: root\r\nx.user: root\r\nX~User: root\r\nKeepgate~Principal: root\r\n\
                 X*Http*Method*Override: root\r\nTransfer_Encoding: chunked\r\n{close}"
            )),
            Seen(
                &["x_fine: 1\n", "x-user: alice\n"],
                &["root", "6.6.6.6", "content_length", "transfer_encoding"],
            ),
        ),
        (
            "X-Forwarded from outside",
            get_with(&format!(
                "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\n\
                 X-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nX-Real-IP: 6.6.6.6\r\n{close}"
            )),
            Seen(
                &[
                    "x-forwarded-for: 127.0.0.1\n",
                    "x-forwarded-proto: http\n",
                    "x-forwarded-host: a.example\n",
                    "x-forwarded-port: 80\n",
                ],
                &["6.6.6.6", "evil", "x-forwarded-port: 1\n"],
            ),
        ),
        (
            "what overrides method, path and host",
            get_with(&format!(
                "X-HTTP-Method-Override: root\r\nX-Method-Override: root\r\nX-HTTP-Method: root\r\n\
                 X-Original-URL: /root\r\nX-Rewrite-URL: /root\r\nX-Original-Host: root\r\n{close}"
            )),
            Seen(&["GET /orders\n"], &["root"]),
        ),
        (
            "other names of an address",
            get_with(&format!(
                "True-Client-IP: 6.6.6.6\r\nCF-Connecting-IP: 6.6.6.6\r\nX-Client-IP: 6.6.6.6\r\n\
                 X-Cluster-Client-IP: 6.6.6.6\r\nFastly-Client-IP: 6.6.6.6\r\n{close}"
            )),
            Seen(&["x-forwarded-for: 127.0.0.1\n"], &["6.6.6.6"]),
        ),
        (
            "Upgrade to h2c",
            get_with(
                "Connection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                 HTTP2-Settings: AAMAAABkAAQAAP__\r\n",
            ),
            Seen(&["GET /orders\n"], &["upgrade", "http2-settings"]),
        ),
        (
            "Upgrade to another",
            get_with("Connection: close, Upgrade\r\nUpgrade: tls/1.2\r\n"),
            Seen(&["GET /orders\n"], &["upgrade"]),
        ),
        (
            "Expect",
            post(&format!("Expect: 100-continue\r\nContent-Length: 2\r\n{close}"), "ab"),
            Seen(&["\n\nab"], &["expect"]),
        ),
        (
            "request id kept",
            get_with(&format!("X-Request-Id: abc-1\r\n{close}")),
            Seen(&["x-request-id: abc-1\n"], &[]),
        ),
        (
            "request id odd",
            get_with(&format!("X-Request-Id: a b\"c\r\n{close}")),
            Seen(&["x-request-id: "], &["a b"]),
        ),
        ("min revision odd", get_with(&format!("Keepgate-Min-Revision: x\r\n{close}")), BAD),
        // Bounds.
        ("long target", target(&format!("/{}", "a".repeat(8192))), Refused(414, "uri-too-long")),
        ("endless target", format!("GET /{}", "a".repeat(20_000)), Refused(414, "uri-too-long")),
        (
            "101 headers",
            get_with(&format!("{}{close}", "X-A: b\r\n".repeat(98))),
            Refused(431, "headers-too-large"),
        ),
        (
            "100 headers",
            get_with(&format!("{}{close}", "X-A: b\r\n".repeat(97))),
            Seen(&["GET /orders\n"], &[]),
        ),
        (
            "33 KiB of headers",
            get_with(&format!("X-A: {}\r\n{close}", "b".repeat(33 * 1024))),
            Refused(431, "headers-too-large"),
        ),
        (
            "31 KiB of headers",
            get_with(&format!("X-A: {}\r\n{close}", "b".repeat(31 * 1024))),
            Seen(&["GET /orders\n"], &[]),
        ),
        (
            "large body by length",
            post("Content-Length: 2000\r\n", ""),
            Refused(413, "body-too-large"),
        ),
        (
            "large body by chunks",
            post(
                "Transfer-Encoding: chunked\r\n",
                &format!("7d0\r\n{}\r\n0\r\n\r\n", "a".repeat(2000)),
            ),
            Refused(413, "body-too-large"),
        ),
    ];
    cases.push((
        "a second, smuggled request",
        format!("{}{}", get_with(""), "GET /orders HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        Seen(&["GET /orders\n", "400 Bad Request"], &[]),
    ));
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case() {
    let echo = Echo::start().await;
    let gate = TestGate::with(&Draft::orders(), &echo.url, |config| {
        config.bounds.body_bytes = 1000;
    })
    .await;
    let cases = cases();
    assert!(cases.len() >= 59, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for (name, bytes, expect) in cases {
        let text = talk(gate.addr, &bytes).await;
        let answer = Answer::parse(&text);
        match expect {
            Refused(status, kind) => {
                let urn = format!("urn:keepgate:problem:{kind}");
                if answer.status != status || answer.json()["type"] != urn {
                    wrong.push(format!("{name}: not refused with {status} {kind}: {text}"));
                } else {
                    answer.is_problem(status, kind);
                }
            }
            Seen(seen, unseen) => {
                let missing = seen.iter().any(|want| !text.contains(want));
                // Answer headers do not count as seen by the upstream.
                let body = answer.body.as_str();
                let present = unseen.iter().any(|not| body.contains(not));
                if answer.status != 200 || missing || present {
                    wrong.push(format!("{name}: {text}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n\n{}", wrong.len(), wrong.join("\n\n"));
    gate.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_can_be_refused_where_they_are_not_normal() {
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    draft.settings.paths = keepgate_policy::service::Paths::Refuse;
    let gate = TestGate::start(&draft, &echo.url).await;
    let alice = [("x-user", "alice")];
    assert_eq!(get(gate.addr, "/orders/7", &alice).await.status, 200);
    for path in ["//orders", "/x/../orders", "/%6Frders"] {
        get(gate.addr, path, &alice).await.is_problem(400, "bad-path");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_lose_their_hop_by_hop_headers() {
    let echo = Echo::start().await;
    let gate = TestGate::start(&Draft::orders(), &echo.url).await;
    let answer = get(gate.addr, "/orders", &[("x-user", "alice")]).await;
    assert_eq!(answer.headers["x-upstream"], "echo");
    assert!(!answer.headers.contains_key("keep-alive"), "{answer:?}");
    assert!(!answer.headers.contains_key("x-mine"), "{answer:?}");
    assert!(answer.headers.contains_key("x-request-id"));
}
