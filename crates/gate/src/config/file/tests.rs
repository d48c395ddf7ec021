//! What is read, what is refused and how that is told, and the bounds.

use keepgate_client::pool::Protocol;

use super::super::sites::{ADDRESSES, SOURCES, UpstreamHost};
use super::*;

fn faults(text: &str) -> Vec<String> {
    match read(text, Path::new("/etc/keepgate"), &PoolConfig::default()) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.iter().map(|fault| fault.shown("gate.toml")).collect(),
    }
}

const CONTRACT: &str = r#"
[gate]
listen = ["0.0.0.0:443"]

[upstream.orders]
addresses = ["orders-1:8080", "orders-2:8080", "unix:/run/orders.sock"]
connections = 200

[[site]]
hosts = ["shop.example", "*.shop.example"]
path = "/api/orders"
strip_prefix = true
service = "orders"
upstream = "orders"
tls = { cert = "shop.pem", key = "shop.key" }
request_headers = { set = { "x-env" = "prod" }, remove = ["x-debug"] }
answer_timeout = "5s"
body_bytes = "200MB"
"#;

#[test]
fn the_contract_is_read() {
    let read = read(CONTRACT, Path::new("/etc/keepgate"), &PoolConfig::default()).unwrap();
    let [upstream] = read.upstreams.as_slice() else { panic!("{read:?}") };
    assert_eq!(upstream.pool.max_connections, Some(200));
    let tcp = |host: &str| Endpoint::Tcp { host: host.to_owned(), port: 8080 };
    let unix = Endpoint::Unix("/run/orders.sock".into());
    assert_eq!(upstream.addresses, [tcp("orders-1"), tcp("orders-2"), unix]);
    assert!(upstream.tls.is_none());
    let [site] = read.sites.as_slice() else { panic!("{read:?}") };
    assert_eq!((site.path.as_str(), site.strip_prefix), ("/api/orders", true));
    assert_eq!(site.hosts.len(), 2);
    let tls = site.tls.as_ref().unwrap();
    assert_eq!(tls.cert, Path::new("/etc/keepgate/shop.pem"));
    assert_eq!(site.request_headers.set.len(), 1);
    assert_eq!(site.request_headers.remove, ["x-debug"]);
    let set: Vec<_> = site.settings.iter().map(|(p, v)| (GATE[*p].name, *v)).collect();
    assert_eq!(set, [("body_bytes", 200_000_000), ("answer_timeout", 5_000)]);
    assert_eq!(read.services(), ["orders"]);
}

#[test]
fn the_example_of_the_document_is_read() {
    let document = include_str!("../../../../../docs/gate.md");
    let start = document.find("```toml\n[gate]").unwrap() + 8;
    let text = &document[start..];
    let text = &text[..text.find("```").unwrap()];
    assert_eq!(faults(text), Vec::<String>::new());
    assert!(text.contains("[[site]]"));
}

#[test]
fn an_upstream_with_tls() {
    let text = r#"
[upstream.a]
addresses = ["https://a.example", "https://b.example:8443/"]
protocol = "http2"
host = "caller"
tls = { ca = "ca.pem", cert = "/c.pem", key = "/k.pem", server_name = "A.example" }
[[site]]
service = "a"
upstream = "a"
"#;
    let read = read(text, Path::new("/d"), &PoolConfig::default()).unwrap();
    let tls = read.upstreams[0].tls.clone().unwrap();
    assert_eq!(tls.ca.as_deref(), Some(Path::new("/d/ca.pem")));
    assert_eq!(tls.client.unwrap().cert, Path::new("/c.pem"));
    assert_eq!(tls.server_name.as_deref(), Some("a.example"));
    assert_eq!(read.upstreams[0].host, UpstreamHost::Caller);
    assert_eq!(read.upstreams[0].protocol, Protocol::Http2);
}

#[test]
fn all_faults_are_told_at_once_with_file_line_table_key_and_the_way_out() {
    let text = r#"
[upstream.orders]
addresses = ["orders-1", "http://a:1", "https://b:2", "unix:run.sock"]
conections = 5
queue = "many"

[upstream.unused]
addresses = []
protocol = "http3"

[[site]]
hosts = ["*.x:80"]
path = "/a/"
strip_prefix = "yes"
upstream = "order"
tls = { cert = "a.pem" }
request_headers = { set = { host = "x", ok = 5 }, remove = ["keepgate-principal"] }
idle_timeout = "5s"
answer_timeout = 5
[[site]]
service = "orders"
upstream = "orders"
[[site]]
service = "orders"
upstream = "orders"
"#;
    let told = faults(text).join("\n");
    for part in [
        "gate.toml:3: [upstream.orders], `addresses`: expected HOST:PORT, http://HOST:PORT, \
         https://HOST:PORT or unix:/path, got `orders-1`: the port is missing",
        "gate.toml:3: [upstream.orders], `addresses`: expected all addresses with TLS or all",
        "got `unix:run.sock`",
        "gate.toml:4: [upstream.orders], `conections`: there is no such key; did you mean \
         `connections`?",
        "gate.toml:5: [upstream.orders], `queue`: expected a whole number from 0 to 1000000, \
         got `many`",
        "gate.toml:8: [upstream.unused], `addresses`: expected 1 to 256 addresses, got 0",
        "gate.toml:9: [upstream.unused], `protocol`: expected one of `auto`, `http1`, `http2`, \
         got `http3`",
        "gate.toml:12: [[site]] 1, `hosts`: `*.x:80` is not a host",
        "gate.toml:13: [[site]] 1, `path`: expected a path without `/` at its end",
        "gate.toml:14: [[site]] 1, `strip_prefix`: expected true or false",
        "[[site]] 1, `service`: is missing; name the service",
        "[[site]] 1, `upstream`: there is no `[upstream.order]`; did you mean `orders`?",
        "[[site]] 1, `tls`, `key`: is missing; `cert` is set",
        "`set`, `host`: `host` cannot be changed here: set the upstream's `host`",
        "`set`, `ok`: expected a text",
        "`keepgate-principal` cannot be changed here",
        "gate.toml:18: [[site]] 1, `idle_timeout`: there is no such key",
        "gate.toml:19: [[site]] 1, `answer_timeout`: expected a duration from 1ms to 1d",
        "[[site]] 3: takes any host with path `/`, as [[site]] 2 does; change one of them",
    ] {
        assert!(told.contains(part), "no `{part}` in:\n{told}");
    }
    // Where nothing else is wrong, what is left over is named too, in its place.
    let unused = "[upstream.a]\naddresses = \"a:1\"\n[upstream.b]\naddresses = \"b:1\"\n\
                  [[site]]\nservice = \"s\"\nupstream = \"a\"\n";
    let said = faults(unused);
    assert_eq!(
        said,
        ["gate.toml:3: [upstream.b]: no site uses it; name it in a `[[site]]`, or remove it"]
    );
    let empty = "[upstream.a]\naddresses = \"a:1\"\n[[site]]\nservice = \"s\"\n\
                 upstream = \"b\"\ntls = {}\n";
    let said = faults(empty).join("\n");
    assert!(said.contains("gate.toml:6: [[site]] 1, `tls`: expected `cert` and `key`"), "{said}");
    assert!(faults("[gate]\n").join("\n").contains("at least one `[[site]]`"));
    let said = faults("a = \n[[site\n");
    assert!(said.len() >= 2 && said[0].starts_with("gate.toml:1: "), "{said:?}");
}

#[test]
fn bounds_hold_at_and_beyond_them() {
    let upstream = |addresses: usize| {
        let list: Vec<String> = (0..addresses).map(|n| format!("\"a{n}:1\"")).collect();
        format!("[upstream.u]\naddresses = [{}]\n", list.join(","))
    };
    let site = |rest: &str| format!("[[site]]\nservice = \"s\"\nupstream = \"u\"\n{rest}\n");
    let paths =
        |n: usize| -> String { (0..n).map(|n| site(&format!("path = \"/{n}\""))).collect() };
    let hosts = |n: usize| {
        let list: Vec<String> = (0..n).map(|n| format!("\"h{n}\"")).collect();
        site(&format!("hosts = [{}]", list.join(",")))
    };
    let removed = |n: usize| {
        let list: Vec<String> = (0..n).map(|n| format!("\"x-{n}\"")).collect();
        site(&format!("request_headers = {{ remove = [{}] }}", list.join(",")))
    };
    let services = |n: usize| -> String {
        let one = |n| format!("[[site]]\nservice = \"s{n}\"\nupstream = \"u\"\npath = \"/{n}\"\n");
        (0..n).map(one).collect()
    };
    let upstreams = |n: usize| -> String {
        let one = |n| {
            format!(
                "[upstream.u{n}]\naddresses = \"a:1\"\n[[site]]\nservice = \"s\"\n\
                 upstream = \"u{n}\"\nhosts = [\"h{n}\"]\n"
            )
        };
        (0..n).map(one).collect()
    };
    fn sources(all: impl IntoIterator<Item = String>) -> String {
        let all: Vec<String> = all.into_iter().map(|one| format!("\"{one}\"")).collect();
        format!(
            "[upstream.u]\naddresses = \"a:1\"\nsources = [{}]\n\
             [[site]]\nservice = \"s\"\nupstream = \"u\"\n",
            all.join(",")
        )
    }
    for (good, bad, says) in [
        (upstream(ADDRESSES) + &site(""), upstream(ADDRESSES + 1) + &site(""), "256 addresses"),
        (
            sources((1..=SOURCES).map(|n| format!("10.0.0.{n}"))),
            sources((0..=SOURCES).map(|n| format!("10.0.0.{n}"))),
            "at most 64 addresses",
        ),
        (sources(["::1".to_owned()]), sources(["a.example".to_owned()]), "got `a.example`"),
        (sources([]), sources(["0.0.0.0".to_owned()]), "an address of this host"),
        (sources([]), sources(["::1".to_owned(), "::1".to_owned()]), "there twice"),
        (upstream(1) + &paths(SITES), upstream(1) + &paths(SITES + 1), "1000 sites"),
        (upstream(1) + &hosts(HOSTS), upstream(1) + &hosts(HOSTS + 1), "200 hosts"),
        (upstream(1) + &removed(HEADERS), upstream(1) + &removed(HEADERS + 1), "64 headers"),
        (upstream(1) + &services(SERVICES), upstream(1) + &services(SERVICES + 1), "services"),
        (upstreams(UPSTREAMS), upstreams(UPSTREAMS + 1), "at most 1000"),
    ] {
        assert_eq!(faults(&good), Vec::<String>::new());
        let said = faults(&bad).join("\n");
        assert!(said.contains(says), "{says}: {said}");
    }
    let large = format!("{}#{}", upstream(1) + &site(""), "x".repeat(FILE_BYTES));
    assert!(faults(&large).join("").contains("1048576 bytes"));
    let many: String = (0..FAULTS + 50).map(|n| format!("[[site]]\nx{n} = 1\n")).collect();
    assert_eq!(faults(&many).len(), FAULTS);
}

#[test]
fn addresses_are_read() {
    for (text, shown) in [
        ("a:1", "a:1 None"),
        ("A.example.:8080", "a.example:8080 None"),
        ("[::1]:80", "::1:80 None"),
        ("http://a", "a:80 http"),
        ("https://a/", "a:443 https"),
        ("unix:///run/x", "/run/x"),
    ] {
        let (endpoint, scheme) = address(text).unwrap();
        let found = match endpoint {
            Endpoint::Tcp { host, port } => {
                format!("{host}:{port} {}", scheme.unwrap_or("None"))
            }
            Endpoint::Unix(path) => path.display().to_string(),
        };
        assert_eq!(found, shown, "{text}");
    }
    for text in ["", "a", "a:0", "a:99999", ":80", "ftp://a:1", "http://a/b", "u@a:1", "unix:a"] {
        assert!(address(text).is_err(), "{text}");
    }
}
