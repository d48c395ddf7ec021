//! How responses are framed, beside what hyper makes of them; bounds; the bell of an idle connection.

use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

const GET: &[u8] = b"GET /a?b HTTP/1.1\r\nhost: up\r\n\r\n";

fn request(method: Method) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = "/a?b".parse().unwrap();
    request.headers_mut().insert("host", HeaderValue::from_static("up"));
    request
}

fn plain() -> (Plain, DuplexStream) {
    let (ours, theirs) = duplex(1 << 20);
    (Plain::new(Box::new(ours), Box::new(|| {})), theirs)
}

/// What a GET gets of a peer that sends this, in pieces of so many bytes, and then closes or not:
/// the status, the body with trailers, and whether the connection goes on.
async fn got(sent: &str, piece: usize, closes: bool) -> String {
    let (mut plain, mut theirs) = plain();
    let peer = async {
        let mut asked = vec![0; GET.len()];
        theirs.read_exact(&mut asked).await.unwrap();
        assert_eq!(asked, GET);
        for piece in sent.as_bytes().chunks(piece) {
            theirs.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        if closes {
            theirs.shutdown().await.unwrap();
        }
        theirs
    };
    let asker = async {
        let response = match plain.exchange(&request(Method::GET)).await {
            Ok(response) => response,
            Err(failed) => return failed.error.to_string(),
        };
        let (parts, mut rest) = response.into_parts();
        let mut body = format!("{} ", parts.status.as_u16());
        while !rest.is_over() {
            match poll_fn(|cx| plain.poll_frame(&mut rest, cx)).await {
                None => break,
                Some(Err(error)) => return error.to_string(),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => body.push_str(std::str::from_utf8(&data).unwrap()),
                    Err(frame) => body.push_str(&format!("{:?}", frame.trailers_ref())),
                },
            }
        }
        body.push_str(if plain.is_ready() && plain.arm() { " goes on" } else { " ends" });
        body
    };
    tokio::join!(asker, peer).0
}

#[tokio::test]
async fn responses_are_framed_however_they_come() {
    for (sent, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "200 abc goes on"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd", "200 abc ends"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "200  goes on"),
        ("HTTP/1.1 204 No Content\r\n\r\n", "204  goes on"),
        ("HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 304 Same\r\n\r\n", "304  goes on"),
        ("HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 1\r\n\r\na", "200 a ends"),
        ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", "200 a ends"),
        (
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
            "200 a goes on",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\nA\r\n0123456789\r\n0\r\n\r\n",
            "200 ab0123456789 goes on",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: y\r\n\r\n",
            "200 aSome({\"x\": \"y\"}) goes on",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n1\r\na\r\n0\r\n\r\n",
            "200 a ends",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
            "the response has a Content-Length that is none",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
            "the response has a Content-Length that is none",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
            "the response has a chunk's size that is none",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
            "the response has a chunk without its end",
        ),
        (
            "HTTP/1.1 101 Go\r\nUpgrade: x\r\n\r\n",
            "the response has an upgrade that nobody asked for",
        ),
        ("HTPP/1.1 200 OK\r\n\r\n", "the response has a malformed head"),
    ] {
        for piece in [1, 7, usize::MAX] {
            assert_eq!(got(sent, piece, false).await, expected, "{sent:?} by {piece}");
        }
    }
}

/// The same of hyper, of a peer that closes: the status and the body with trailers; none: it failed.
async fn of_hyper(sent: Vec<u8>) -> Option<(u16, Vec<u8>)> {
    let (ours, mut theirs) = duplex(1 << 20);
    let built = http1::Builder::new()
        .max_headers(RESPONSE_FIELDS)
        .max_header_size(RESPONSE_HEAD_BYTES)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(ours))
        .await;
    let (mut sender, connection) = built.unwrap();
    let driven = tokio::spawn(connection);
    let asked = sender.send_request(request(Method::GET).map(|()| Empty::new()));
    let peer = async {
        let mut asked = vec![0; GET.len()];
        theirs.read_exact(&mut asked).await.unwrap();
        theirs.write_all(&sent).await.unwrap();
        theirs.shutdown().await.unwrap();
    };
    let (response, ()) = tokio::join!(asked, peer);
    let whole = match response {
        Ok(response) => {
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.ok();
            body.map(|body| {
                let trailers = body.trailers().map(|trailers| format!("{trailers:?}"));
                (status, [&body.to_bytes()[..], trailers.unwrap_or_default().as_bytes()].concat())
            })
        }
        Err(_) => None,
    };
    driven.abort();
    whole
}

/// The same of a plain connection, in pieces of so many bytes.
async fn of_plain(sent: &[u8], piece: usize) -> Option<(u16, Vec<u8>)> {
    let (mut plain, mut theirs) = plain();
    let peer = async {
        let mut asked = vec![0; GET.len()];
        theirs.read_exact(&mut asked).await.unwrap();
        for piece in sent.chunks(piece) {
            theirs.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        theirs.shutdown().await.unwrap();
    };
    let asker = async {
        let response = plain.exchange(&request(Method::GET)).await.ok()?;
        let (parts, mut rest) = response.into_parts();
        let (mut body, mut trailers) = (Vec::new(), String::new());
        while !rest.is_over() {
            match poll_fn(|cx| plain.poll_frame(&mut rest, cx)).await {
                None => break,
                Some(frame) => match frame.ok()?.into_data() {
                    Ok(data) => body.extend_from_slice(&data),
                    Err(frame) => trailers = format!("{:?}", frame.trailers_ref()?),
                },
            }
        }
        body.extend_from_slice(trailers.as_bytes());
        Some((parts.status.as_u16(), body))
    };
    tokio::join!(asker, peer).0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]
    /// Whole or broken, a response is to a plain connection what it is to hyper, however it comes.
    #[test]
    fn a_response_is_what_hyper_reads(
        line in prop::sample::select(vec![
            "HTTP/1.1 200 OK", "HTTP/1.0 200 OK", "HTTP/1.1 404 ", "HTTP/1.1 500", "HTTP/1.1 204 None",
            "HTTP/1.1 304 Same", "HTTP/1.1 103 Early\r\nlink: a\r\n\r\nHTTP/1.1 200 OK",
        ]),
        fields in prop::collection::vec(prop::sample::select(vec![
            "content-length: 5", "content-length: 0", "content-length: 05", "content-length: 5, 5",
            "content-length: +5", "content-length: ", "transfer-encoding: chunked",
            "transfer-encoding: gzip, chunked", "transfer-encoding: gzip", "connection: close",
            "connection: keep-alive", "x: y", "x:", "x : y", "x: \u{e9}", " folded",
        ]), 0..4),
        body in prop::sample::select(vec![
            "", "hello", "hello and more", "5\r\nhello\r\n0\r\n\r\n", "5;a=b\r\nhello\r\n0\r\nt: u\r\n\r\n",
            "2\r\nhe\r\n003\r\nllo\r\n0\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n", "FFFFFFFFFFFFFFFFF\r\n", "0\r\n", "5\nhello\n0\n\n",
        ]),
        changed in prop::option::of((0_usize..200, 0_u8..0x80)),
        piece in 1_usize..40,
    ) {
        let head: Vec<String> = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let mut sent = format!("{line}\r\n{}\r\n{body}", head.concat()).into_bytes();
        if let Some((place, byte)) = changed
            && let Some(at) = sent.get_mut(place)
        {
            *at = byte;
        }
        // An upgrade is hyper's affair.
        prop_assume!(!sent.windows(5).any(|five| five == b"1 101" || five == b"0 101"));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (ours, theirs) = runtime.block_on(async {
            (of_plain(&sent, piece).await, of_hyper(sent.clone()).await)
        });
        prop_assert_eq!(ours, theirs, "{:?}", String::from_utf8_lossy(&sent));
    }
}

#[tokio::test]
async fn what_ends_early_is_no_whole_response() {
    let early = "the connection was closed before the response was whole";
    for (sent, expected) in [
        ("", early),
        ("HTTP/1.1 200 OK\r\nContent-", early),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", early),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", early),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: y\r\n", early),
        ("HTTP/1.1 200 OK\r\n\r\nall", "200 all ends"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nall", "200 all ends"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "200 abc ends"),
    ] {
        let closed = got(sent, usize::MAX, true).await;
        // Whether the end is heard before the connection is idle is up to the peer.
        let closed = closed.replace("abc goes on", "abc ends");
        assert_eq!(closed, expected, "{sent:?}");
    }
}

#[tokio::test]
async fn heads_have_bounds() {
    let fields = |count: usize| "a: b\r\n".repeat(count);
    let head = |count| format!("HTTP/1.1 204 None\r\n{}\r\n", fields(count));
    assert_eq!(got(&head(RESPONSE_FIELDS), usize::MAX, false).await, "204  goes on");
    let many = got(&head(RESPONSE_FIELDS + 1), usize::MAX, false).await;
    assert_eq!(many, "the response has more fields of a head than are read");
    let long = format!("HTTP/1.1 204 None\r\na: {}", "b".repeat(RESPONSE_HEAD_BYTES));
    let long = got(&long, usize::MAX, false).await;
    assert_eq!(long, "the response has more bytes of a head than are read");
    let line = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;";
    let line = got(&format!("{line}{}", "x".repeat(3 * CHUNK_LINE)), usize::MAX, false).await;
    assert_eq!(line, "the response has a chunk's size with too many bytes");
    let last = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: ";
    let last = got(&format!("{last}{}", "x".repeat(2 * TRAILER_BYTES)), usize::MAX, false).await;
    assert_eq!(last, "the response has more bytes of trailers than are read");
}

#[tokio::test]
async fn an_idle_connection_rings_once_and_is_not_used() {
    for closes in [true, false] {
        let (ours, mut theirs) = duplex(64);
        let rung = Arc::new(AtomicU8::new(0));
        let heard = Arc::clone(&rung);
        let tell = move || {
            heard.fetch_add(1, Ordering::Relaxed);
        };
        let mut plain = Plain::new(Box::new(ours), Box::new(tell));
        assert!(plain.is_ready() && plain.arm() && plain.disarm() && plain.arm());
        if closes {
            drop(theirs);
        } else {
            theirs.write_all(b"HTTP/1.1 408 Late\r\n\r\n").await.unwrap();
        }
        assert!(plain.is_closed() && !plain.is_ready());
        assert_eq!(rung.load(Ordering::Relaxed), 1);
        assert!(!plain.disarm());
    }
}

#[test]
fn heads_are_written() {
    assert_eq!(written(&request(Method::GET)), GET);
    let mut odd = request(Method::from_bytes(b"PURGE").unwrap());
    *odd.uri_mut() = "*".parse().unwrap();
    odd.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    assert_eq!(written(&odd), b"PURGE * HTTP/1.1\r\nhost: up\r\n\r\n");
    assert!(is_plain(&odd));
    odd.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    assert!(!is_plain(&odd) && !is_plain(&request(Method::CONNECT)));
}
