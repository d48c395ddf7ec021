//! Envoy's gRPC services, called as Envoy calls them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use keepgate_gate::proto::envoy::config::core::v3 as core;
use keepgate_gate::proto::envoy::service::auth::v3 as auth;
use keepgate_gate::proto::google::protobuf::value::Kind;
use keepgate_policy::model::KeyBody;
use prost::Message;
use sha2::{Digest as _, Sha256};

use super::{Original, both, listening};
use crate::support::{Draft, Echo, PATIENCE, TestGate, uid};
use crate::upstreams::h2;

pub(crate) const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// A message in its frame.
pub(crate) fn framed(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let mut all = vec![0];
    all.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    all.extend(bytes);
    all
}

/// What came of a call: the HTTP answer, the bytes, and the trailers (or headers, where there are no
/// others).
pub(crate) async fn call_raw(
    addr: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    bytes: Vec<u8>,
) -> (u16, Bytes, HeaderMap) {
    let mut sender = h2(addr).await;
    let mut request = Request::post(format!("http://{addr}{path}")).header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::from(Bytes::from(bytes))).unwrap();
    let response: Response<_> =
        tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    (parts.status.as_u16(), body.to_bytes(), trailers.unwrap_or(parts.headers))
}

/// A call's answer, else the code of its failure.
pub(crate) async fn call<A: Message + Default>(
    addr: SocketAddr,
    path: &str,
    message: &impl Message,
) -> Result<A, u8> {
    call_with(addr, path, &[], message).await
}

/// The same, with more headers.
pub(crate) async fn call_with<A: Message + Default>(
    addr: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    message: &impl Message,
) -> Result<A, u8> {
    let headers = [&[("content-type", "application/grpc")], headers].concat();
    let (status, bytes, trailers) = call_raw(addr, path, &headers, framed(message)).await;
    assert_eq!(status, 200);
    let code: u8 = trailers["grpc-status"].to_str().unwrap().parse().unwrap();
    if code != 0 {
        assert!(bytes.is_empty());
        return Err(code);
    }
    assert_eq!(bytes[0], 0);
    assert_eq!(u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize, bytes.len() - 5);
    Ok(A::decode(&bytes[5..]).unwrap())
}

fn address(address: core::address::Address) -> core::Address {
    core::Address { address: Some(address) }
}

fn socket(ip: &str) -> core::Address {
    address(core::address::Address::SocketAddress(core::SocketAddress {
        protocol: 0,
        address: ip.to_owned(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(4711)),
    }))
}

/// As Envoy describes a request; `raw`: with `encode_raw_headers`.
pub(crate) fn described(request: &Original, raw: bool) -> auth::CheckRequest {
    let Original { method, target, host, from, headers } = request;
    let mut fields: Vec<(String, Vec<u8>)> = vec![
        (":method".to_owned(), method.clone().into()),
        (":path".to_owned(), target.clone().into()),
        (":authority".to_owned(), host.clone().into()),
        (":scheme".to_owned(), "http".into()),
        ("x-forwarded-for".to_owned(), from.clone().into()),
        ("x-forwarded-proto".to_owned(), "http".into()),
        ("x-envoy-external-address".to_owned(), from.clone().into()),
    ];
    fields.extend(headers.iter().map(|(n, v)| (n.to_ascii_lowercase(), v.clone().into_bytes())));
    let mut joined = BTreeMap::new();
    let mut map = core::HeaderMap::default();
    for (name, value) in fields {
        if raw {
            let field = core::HeaderValue { key: name, value: String::new(), raw_value: value };
            map.headers.push(field);
            continue;
        }
        let text = String::from_utf8(value).unwrap();
        joined
            .entry(name)
            .and_modify(|before: &mut String| *before = format!("{before},{text}"))
            .or_insert(text);
    }
    let http = auth::attribute_context::HttpRequest {
        id: "1".to_owned(),
        method: method.clone(),
        headers: joined.into_iter().collect(),
        path: target.clone(),
        host: host.clone(),
        scheme: "http".to_owned(),
        header_map: raw.then_some(map),
    };
    auth::CheckRequest {
        attributes: Some(auth::AttributeContext {
            source: Some(auth::attribute_context::Peer { address: Some(socket(from)) }),
            request: Some(auth::attribute_context::Request { http: Some(http) }),
        }),
    }
}

/// What a user behind Envoy would get of an answer, as measured with Envoy: none is forwarded.
pub(crate) fn shown(answer: &auth::CheckResponse) -> Option<u16> {
    let status = answer.status.as_ref().expect("an answer without a status is an OK");
    match (status.code, answer.http_response.as_ref().expect("a response beside it")) {
        (0, auth::check_response::HttpResponse::OkResponse(_)) => None,
        (1.., auth::check_response::HttpResponse::DeniedResponse(denied)) => {
            Some(u16::try_from(denied.status.as_ref().expect("a status").code).unwrap())
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn checked(gate: &TestGate, request: &Original, raw: bool) -> auth::CheckResponse {
    call(gate.check.unwrap(), CHECK, &described(request, raw)).await.unwrap()
}

pub(super) fn ok(answer: auth::CheckResponse) -> auth::OkHttpResponse {
    match answer.http_response {
        Some(auth::check_response::HttpResponse::OkResponse(ok)) => ok,
        other => panic!("{other:?}"),
    }
}

fn denied(answer: auth::CheckResponse) -> (i32, BTreeMap<String, String>, String) {
    let code = answer.status.unwrap().code;
    match answer.http_response {
        Some(auth::check_response::HttpResponse::DeniedResponse(denied)) => {
            (code, values(&denied.headers), denied.body)
        }
        other => panic!("{other:?}"),
    }
}

pub(super) fn values(headers: &[core::HeaderValueOption]) -> BTreeMap<String, String> {
    let pair = |option: &core::HeaderValueOption| {
        let header = option.header.clone().unwrap();
        (header.key, header.value)
    };
    let map: BTreeMap<_, _> = headers.iter().map(pair).collect();
    assert_eq!(map.len(), headers.len(), "a name twice: {headers:?}");
    map
}

fn alice(target: &str) -> Original {
    Original::new("GET", target).with("x-user", "alice")
}

#[tokio::test(flavor = "multi_thread")]
async fn allowed() {
    let echo = Echo::start().await;
    let gate = both(&Draft::orders(), &echo.url).await;
    let request = alice("/orders/7?q=1")
        .with("keepgate-principal", "user::\"root\"")
        .with("keepgate_principal", "user::\"root\"")
        .with("keepgate-other", "x")
        .with("x-http-method-override", "DELETE")
        .with("te", "trailers");
    for raw in [false, true] {
        let answer = checked(&gate, &request, raw).await;
        assert_eq!(shown(&answer), None);
        let metadata = answer.dynamic_metadata.clone().unwrap().fields;
        let kind = |name: &str| metadata[name].kind.clone().unwrap();
        assert_eq!(kind("decision"), Kind::StringValue("allowed".to_owned()));
        assert_eq!(kind("principal"), Kind::StringValue("user::\"alice\"".to_owned()));
        assert_eq!(kind("route"), Kind::StringValue("/orders/{id}".to_owned()));
        assert_eq!(kind("revision"), Kind::NumberValue(1.0));
        let ok = ok(answer);
        let set = values(&ok.headers);
        assert_eq!(set["keepgate-principal"], "user::\"alice\"");
        assert_eq!(set["keepgate-revision"], "1");
        assert!(set["keepgate-age"].parse::<f64>().is_ok());
        assert_eq!(set.len(), 3, "{set:?}");
        let mut removed = ok.headers_to_remove;
        removed.sort_unstable();
        assert_eq!(removed, ["keepgate-other", "keepgate_principal", "x-http-method-override"]);
    }
    let public = ok(checked(&gate, &Original::new("GET", "/public"), false).await);
    let set = values(&public.headers);
    assert!(set["keepgate-principal"].contains("anonymous"), "{set:?}");
    let line = "keepgate_gate_checks_total{hook=\"ext_authz_grpc\",outcome=\"allowed\"}";
    assert_eq!(gate.metric(line).await, 3.0);
}

/// An API key is between the caller and the gate.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_removed() {
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    let identify = serde_json::json!({"api_key": {"header": "x-api-key"}});
    draft.settings.identify = serde_json::from_value(identify).unwrap();
    let secret = "kgk_good_secret".to_owned();
    draft.keys = vec![KeyBody {
        prefix: "good".to_owned(),
        sha256: Sha256::digest(&secret).iter().map(|b| format!("{b:02x}")).collect(),
        principal: uid("user", "alice"),
        plan: String::new(),
        expires_unix_s: None,
        note: String::new(),
    }];
    let gate = both(&draft, &echo.url).await;
    let request = Original::new("GET", "/orders").with("x-api-key", &secret);
    let answer = checked(&gate, &request, false).await;
    assert_eq!(ok(answer).headers_to_remove, ["x-api-key"]);
    let by_http = super::asked(gate.check.unwrap(), &request.ext_authz()).await;
    assert_eq!(by_http.headers["x-envoy-auth-headers-to-remove"], "x-api-key");
    // Twice, as Envoy joins it, it is no key; as it is sent raw it is two.
    let twice = request.clone().with("x-api-key", &secret);
    for raw in [false, true] {
        assert_eq!(shown(&checked(&gate, &twice, raw).await), Some(401));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused() {
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    draft.settings.max_age_ms = 1_000;
    let gate = both(&draft, &echo.url).await;
    for (request, code, status, kind) in [
        (alice("/orders/secret"), 7, 403, "denied"),
        (Original::new("GET", "/orders"), 16, 401, "unauthenticated"),
        (alice("/nothing"), 12, 404, "no-route"),
        (Original::new("TRACE", "/orders"), 12, 501, "method-not-implemented"),
        (alice("/orders/%2F"), 3, 400, "bad-path"),
    ] {
        let answer = checked(&gate, &request, false).await;
        assert_eq!(shown(&answer), Some(status), "{request:?}");
        let (found, headers, body) = denied(answer);
        assert_eq!(found, code, "{request:?}");
        assert_eq!(headers["content-type"], "application/problem+json");
        let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["type"], format!("urn:keepgate:problem:{kind}"));
        assert_eq!(problem["request_id"], headers["x-request-id"]);
        assert_eq!(status == 401, headers.contains_key("www-authenticate"));
    }
    gate.source.set_age(Some(Duration::from_secs(2)));
    let (code, headers, body) = denied(checked(&gate, &alice("/orders"), false).await);
    assert_eq!(code, 14);
    assert!(headers.contains_key("retry-after") && body.contains("stale"), "{headers:?} {body}");
    // To a gRPC caller Envoy writes the body into `grpc-message`.
    let call = alice("/orders").with("content-type", "application/grpc");
    let (code, _, body) = denied(checked(&gate, &call, false).await);
    assert_eq!(code, 14);
    assert!(!body.contains('{') && body.contains("stale"), "{body}");
}

/// Envoy forwards the decided form, which it is given; with its query, and what a site strips.
#[tokio::test(flavor = "multi_thread")]
async fn paths_are_replaced() {
    let echo = Echo::start().await;
    let gate = both(&Draft::orders(), &echo.url).await;
    for (target, path) in [
        ("/orders/7", None),
        ("/orders/7?a=%2e%2e", None),
        ("/orders/%37", Some("/orders/7")),
        ("//orders/./7?a=/../b", Some("/orders/7?a=/../b")),
        ("/public/../orders/a%20b", Some("/orders/a%20b")),
    ] {
        let set = values(&ok(checked(&gate, &alice(target), false).await).headers);
        assert_eq!(set.get(":path").map(String::as_str), path, "{target}");
    }
    let secret = checked(&gate, &alice("/public/%2e%2e/orders/secret"), false).await;
    assert_eq!(shown(&secret), Some(403));

    let mut draft = Draft::orders();
    draft.settings.paths_fold = keepgate_policy::service::PathsFold::Case;
    let read = "[[site]]\nservice = \"orders\"\nupstream = \"a\"\npath = \"/api\"\n\
                strip_prefix = true\n[upstream.a]\naddresses = \"ADDR\"\n";
    let text = read.replace("ADDR", &echo.addr.to_string());
    let pool = keepgate_client::pool::PoolConfig::default();
    let read = keepgate_gate::config::file::read(&text, std::path::Path::new(""), &pool).unwrap();
    let gate = TestGate::with(&draft, "", |config| {
        listening(config);
        (config.sites, config.upstreams) = (read.sites, read.upstreams);
    })
    .await;
    for (target, path) in [
        ("/api/orders/7", None),
        ("/api/orders/%37?x", Some("/api/orders/7?x")),
        ("/api/Orders/7", Some("/api/orders/7")),
    ] {
        let set = values(&ok(checked(&gate, &alice(target), false).await).headers);
        assert_eq!(set.get(":path").map(String::as_str), path, "{target}");
        let status = super::asked(gate.check.unwrap(), &alice(target).auth()).await.status;
        assert_eq!(status, if path.is_none() { 200 } else { 400 }, "{target}");
    }
}

/// A browser's preflight is answered by the gate where Envoy passes its answer on. To the others it is
/// a request as any.
#[tokio::test(flavor = "multi_thread")]
async fn preflights() {
    let echo = Echo::start().await;
    let mut draft = Draft::orders();
    let cors = serde_json::json!({"origins": ["https://shop.example"]});
    draft.settings.cors = Some(serde_json::from_value(cors).unwrap());
    let gate = both(&draft, &echo.url).await;
    let request = Original::new("OPTIONS", "/orders/7")
        .with("origin", "https://shop.example")
        .with("access-control-request-method", "DELETE");
    let answer = checked(&gate, &request, false).await;
    assert_eq!(shown(&answer), Some(204));
    let (_, headers, body) = denied(answer);
    assert_eq!(headers["access-control-allow-origin"], "https://shop.example");
    assert_eq!(body, "");
    let check = gate.check.unwrap();
    let answer = super::asked(check, &request.ext_authz()).await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.headers["access-control-allow-origin"], "https://shop.example");
    for text in [request.auth(), request.forward_auth()] {
        assert_eq!(super::asked(check, &text).await.status, 401, "{text}");
    }
}

/// Who made a request is whom Envoy was connected from.
#[tokio::test(flavor = "multi_thread")]
async fn sources() {
    let echo = Echo::start().await;
    let gate = both(&Draft::orders(), &echo.url).await;
    let check = gate.check.unwrap();
    let mut other = alice("/orders");
    other.from = "9.9.9.9".to_owned();
    assert_eq!(shown(&checked(&gate, &other, false).await), Some(401), "x-user is not believed");
    let from = |source: Option<auth::attribute_context::Peer>| {
        let mut request = described(&alice("/orders"), false);
        request.attributes.as_mut().unwrap().source = source;
        request
    };
    let pipe = core::Pipe { path: "/run/x".to_owned() };
    for source in [
        None,
        Some(auth::attribute_context::Peer { address: None }),
        Some(auth::attribute_context::Peer { address: Some(socket("nobody")) }),
        Some(auth::attribute_context::Peer {
            address: Some(address(core::address::Address::Pipe(pipe))),
        }),
    ] {
        let answer = call(check, CHECK, &from(source.clone())).await.unwrap();
        assert_eq!(shown(&answer), Some(401), "{source:?}: x-user is not believed");
    }
}

/// What is no description is an answer with 400, never an allow; what is no call is a failure.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_check() {
    let echo = Echo::start().await;
    let gate = both(&Draft::orders(), &echo.url).await;
    let check = gate.check.unwrap();
    let mut no_http = described(&alice("/public"), false);
    no_http.attributes.as_mut().unwrap().request = None;
    let answer = call(check, CHECK, &no_http).await.unwrap();
    assert_eq!(shown(&answer), Some(400));
    assert_eq!(
        shown(&call(check, CHECK, &auth::CheckRequest::default()).await.unwrap()),
        Some(400)
    );
    type Change = fn(&mut auth::attribute_context::HttpRequest);
    let changes: [(Change, u16); 9] = [
        (|http| http.method.clear(), 400),
        (|http| http.path.clear(), 400),
        (|http| http.path = "public".to_owned(), 400),
        (|http| http.path.push('#'), 400),
        (|http| http.host.clear(), 400),
        (|http| drop(http.headers.insert("host".to_owned(), "b.example".to_owned())), 400),
        (|http| drop(http.headers.insert("a b".to_owned(), String::new())), 400),
        (|http| drop(http.headers.insert("a".to_owned(), "x\ny".to_owned())), 400),
        (|http| http.path = format!("/public/{}", "a".repeat(8 * 1024)), 414),
    ];
    for (number, (change, status)) in changes.into_iter().enumerate() {
        let mut request = described(&Original::new("GET", "/public"), false);
        let attributes = request.attributes.as_mut().unwrap();
        change(attributes.request.as_mut().unwrap().http.as_mut().unwrap());
        let answer = call(check, CHECK, &request).await.unwrap();
        assert_eq!(shown(&answer), Some(status), "change {number}");
    }
    // At the bounds, and beyond them.
    let many = |count: usize| {
        let mut request = Original::new("GET", "/public");
        // Three are Envoy's own.
        for n in 0..count - 3 {
            request = request.with(&format!("x-{n}"), "1");
        }
        request
    };
    let long = |bytes: usize| Original::new("GET", "/public").with("x", &"a".repeat(bytes));
    for raw in [false, true] {
        assert_eq!(shown(&checked(&gate, &many(100), raw).await), None);
        assert_eq!(shown(&checked(&gate, &many(101), raw).await), Some(431));
        assert_eq!(shown(&checked(&gate, &long(32_000), raw).await), None);
        assert_eq!(shown(&checked(&gate, &long(32 * 1024), raw).await), Some(431));
    }
    let grpc = [("content-type", "application/grpc")];
    let whole = framed(&described(&Original::new("GET", "/public"), false));
    for (path, bytes, code) in [
        (CHECK, Vec::new(), "3"),
        (CHECK, whole[..whole.len() - 1].to_vec(), "3"),
        (CHECK, [whole.clone(), whole.clone()].concat(), "3"),
        (CHECK, vec![1, 0, 0, 0, 0], "12"),
        (CHECK, vec![0, 0, 0, 0, 1, 0xff], "3"),
        (CHECK, vec![0; (1 << 20) + 6], "8"),
        ("/envoy.service.auth.v3.Authorization/Other", whole.clone(), "12"),
        ("/envoy.service.auth.v2.Authorization/Check", whole.clone(), "12"),
    ] {
        let (status, body, trailers) = call_raw(check, path, &grpc, bytes).await;
        assert_eq!((status, trailers["grpc-status"].to_str().unwrap()), (200, code), "{path}");
        assert!(body.is_empty());
    }
    // A body in the description is not read, and does no harm below the bound.
    let padded = {
        let mut bytes = described(&Original::new("GET", "/public"), false).encode_to_vec();
        // An unknown member, number 99, of so many bytes.
        bytes.extend([0x9a, 0x06, 0x80, 0x80, 0x3c]);
        bytes.extend(vec![b'x'; 983_040]);
        bytes
    };
    let mut framed = vec![0];
    framed.extend(u32::try_from(padded.len()).unwrap().to_be_bytes());
    framed.extend(padded);
    let (_, _, trailers) = call_raw(check, CHECK, &grpc, framed).await;
    assert_eq!(trailers["grpc-status"], "0");
    let (status, ..) = call_raw(check, CHECK, &[("content-type", "text/plain")], whole).await;
    assert_eq!(status, 400);
}

/// A call has its caller's time and no more.
#[tokio::test(flavor = "multi_thread")]
async fn deadlines() {
    let echo = Echo::start().await;
    let gate = both(&Draft::orders(), &echo.url).await;
    // It waits for a revision that does not come.
    let request = alice("/orders").with("keepgate-min-revision", "2");
    let headers = [("content-type", "application/grpc"), ("grpc-timeout", "20m")];
    let bytes = framed(&described(&request, false));
    let (_, _, trailers) = call_raw(gate.check.unwrap(), CHECK, &headers, bytes).await;
    assert_eq!(trailers["grpc-status"], "4");
}
