//! An HTTP/2 upstream that closes a connection says which requests it took (RFC 9113 section 6.8);
//! the others are sent again. The upstream here is written frame by frame.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use keepgate_client::dial::{Dialer, Target};
use keepgate_client::pool::{KEPT_BODY, Pool, PoolConfig, PoolError, Protocol, UpstreamId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const PATIENCE: Duration = Duration::from_secs(20);
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;

async fn send(stream: &mut TcpStream, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(payload);
    stream.write_all(&frame).await.unwrap();
}

/// Kind, flags, stream, payload; none: the end.
async fn receive(stream: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}

/// Takes one request on its first connection and names it the last one, when the body of another
/// comes; serves all on the others. Bodies of requests that it answered there are counted in bytes.
async fn upstream(taken: Arc<AtomicUsize>) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::tcp("127.0.0.1", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        for connection in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let taken = taken.clone();
            tokio::spawn(async move {
                let mut preface = [0; 24];
                stream.read_exact(&mut preface).await.unwrap();
                send(&mut stream, SETTINGS, 0, 0, &[]).await;
                let mut bytes = std::collections::BTreeMap::<u32, usize>::new();
                while let Some((kind, flags, id, payload)) = receive(&mut stream).await {
                    match kind {
                        SETTINGS if flags & 1 == 0 => send(&mut stream, SETTINGS, 1, 0, &[]).await,
                        DATA if connection == 0 && id > 1 && bytes.insert(id, 0).is_none() => {
                            let last = [0, 0, 0, 1, 0, 0, 0, 0];
                            send(&mut stream, GOAWAY, 0, 0, &last).await;
                            send(&mut stream, HEADERS, 4 | END_STREAM, 1, &[0x88]).await;
                        }
                        DATA => {
                            *bytes.entry(id).or_default() += payload.len();
                            let more = u32::try_from(payload.len()).unwrap().to_be_bytes();
                            if !payload.is_empty() {
                                send(&mut stream, WINDOW_UPDATE, 0, 0, &more).await;
                                send(&mut stream, WINDOW_UPDATE, 0, id, &more).await;
                            }
                        }
                        _ => {}
                    }
                    let ended = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
                    if ended && connection > 0 {
                        taken.fetch_add(bytes.get(&id).copied().unwrap_or(0), Ordering::SeqCst);
                        send(&mut stream, HEADERS, 4 | END_STREAM, id, &[0x88]).await;
                    }
                }
            });
        }
    });
    target
}

async fn post(pool: &Pool<Full<Bytes>>, id: &UpstreamId, bytes: usize) -> Result<u16, PoolError> {
    let request = Request::post("/").body(Full::from(vec![b'x'; bytes])).unwrap();
    let response = tokio::time::timeout(PATIENCE, pool.send(id, request)).await.unwrap()?;
    let status = response.status().as_u16();
    response.into_body().collect().await.unwrap();
    Ok(status)
}

async fn two_posts(second: usize) -> (Result<u16, PoolError>, Result<u16, PoolError>, usize) {
    let taken = Arc::new(AtomicUsize::new(0));
    let target = upstream(taken.clone()).await;
    let id = UpstreamId { target, protocol: Protocol::Http2 };
    let pool = Pool::new(Dialer::default(), PoolConfig::default());
    let first = {
        let (pool, id) = (pool.clone(), id.clone());
        tokio::spawn(async move { post(&pool, &id, 10).await })
    };
    // The second comes when the first is under way, on the same connection.
    while pool.upstream(&id).stats().requests == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let second = post(&pool, &id, second).await;
    (first.await.unwrap(), second, taken.load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_above_the_last_stream_is_sent_again_with_its_body() {
    for bytes in [20, KEPT_BODY] {
        let (first, second, taken) = two_posts(bytes).await;
        assert_eq!((first.unwrap(), second.unwrap()), (200, 200));
        assert_eq!(taken, bytes, "the whole body, once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_to_be_kept_is_refused_by_name() {
    let (first, second, taken) = two_posts(KEPT_BODY + 1).await;
    assert_eq!(first.unwrap(), 200);
    let error = second.unwrap_err();
    assert!(matches!(error, PoolError::NotTaken { .. }), "{error:?}");
    assert_eq!((error.label(), taken), ("goaway", 0));
}
