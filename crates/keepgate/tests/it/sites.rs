//! One gate with many sites, as a program: its file, its one connection, its settings.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::harness::{Running, Said, Scratch, eventually, keepgate, run, text};
use crate::requests::Http;
use crate::separate::CenterProcess;

/// A server that answers every request with its name; it ends with the test.
fn server(name: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(n) = stream.read(&mut buffer) {
                    let head = String::from_utf8_lossy(&buffer[..n]);
                    let Some(line) = head.lines().next() else { return };
                    let body = format!("{name} {line}");
                    let answer =
                        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn policy(scratch: &Scratch, name: &str, permits: bool) -> String {
    scratch.write(
        &format!("{name}/service.toml"),
        &format!("name = \"{name}\"\n[limits]\ndefault = \"off\"\n"),
    );
    scratch.write(
        &format!("{name}/routes.toml"),
        "[[route]]\nmethod = \"*\"\npath = \"/{*rest}\"\nanonymous = true\n",
    );
    let text = if permits { "permit (principal, action, resource);\n" } else { "" };
    scratch.write(&format!("{name}/policy.cedar"), text);
    scratch.join(name).display().to_string()
}

#[test]
fn one_gate_serves_several_services_over_one_connection() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    for (name, permits) in [("orders", true), ("shop", true), ("secret", false), ("other", true)] {
        center.ok(&["apply", &policy(&scratch, name, permits)]);
    }
    let make = ["token", "create", "--role", "gate"];
    let services = ["--service", "orders", "--service", "shop", "--service", "secret"];
    let token = scratch.write("gate.token", &center.ok(&[&make[..], &services].concat()));
    let file = format!(
        "[gate]\nlisten = [\"127.0.0.1:0\", \"unix:{}\"]\nadmin_listen = \"127.0.0.1:0\"\n\
         center = [\"{}\"]\ntoken_file = \"{}\"\nunix_mode = \"0600\"\n\
         [upstream.one]\naddresses = \"{}\"\n[upstream.two]\naddresses = [\"{}\"]\n\
         [[site]]\npath = \"/orders\"\nstrip_prefix = true\nservice = \"orders\"\nupstream = \"one\"\n\
         [[site]]\npath = \"/secret\"\nservice = \"secret\"\nupstream = \"one\"\n\
         [[site]]\nservice = \"shop\"\nupstream = \"two\"\n",
        scratch.join("gate.sock").display(),
        center.url,
        token.display(),
        server("one"),
        server("two"),
    );
    let file = scratch.write("gate.toml", &file).display().to_string();
    let mut gate = Running::keepgate(&["gate", "--config", &file, "--json"]);
    let screen = gate.json();
    assert_eq!(screen["service"], json!(["orders", "secret", "shop"]));
    let (url, admin) = (text(&screen, "/gate"), text(&screen, "/admin"));
    eventually("all services are ready", || {
        let ready: Value = Http::new(&admin, &[]).get("/readyz").json();
        let services = ready["services"].as_array().unwrap();
        let is_ready = |service: &Value| service["missing"].is_null();
        (services.len() == 3 && services.iter().all(is_ready)).then_some(())
    });
    let mut http = Http::new(&url, &[]);
    assert_eq!(http.get("/orders/7").text(), "one GET /7 HTTP/1.1");
    assert_eq!(http.get("/x").text(), "two GET /x HTTP/1.1");
    assert_eq!(http.get("/secret/x").status, 403);
    // One connection and one stream for all of them, and no other service on it.
    let followers: Value = serde_json::from_str(&center.ok(&["status", "--json"])).unwrap();
    let shown = followers.to_string();
    assert!(shown.contains("[\"orders\",\"secret\",\"shop\"]"), "{shown}");
    let mut page = Http::new(&admin, &[]);
    let page = page.get("/metrics").text();
    let opened = "keepgate_gate_replica_connections_opened_total 1\n";
    assert!(page.contains(opened) && page.contains("replica_streams_total 1\n"), "{page}");
    // The center hears of each service.
    for service in ["orders", "shop", "secret"] {
        eventually("the center hears of the service", || {
            let args = ["top", "clients", "--json", "--service", service];
            let args = center.with(&args);
            let mut command = keepgate();
            command.args(args);
            let told: Value = serde_json::from_str(&run(command).stdout).ok()?;
            (told["gates"]["heard"] == 1 && told["requests"] == 1).then_some(())
        });
    }
    // A change of one service arrives, the others stay.
    center.ok(&["apply", &policy(&scratch, "secret", true)]);
    eventually("the change is here", || (http.get("/secret/x").status == 200).then_some(()));
    gate.stop();
    // The same token follows no service that it does not name.
    let wrong = std::fs::read_to_string(&file).unwrap().replace("\"secret\"", "\"other\"");
    let wrong = scratch.write("wrong.toml", &wrong).display().to_string();
    let gate = Running::keepgate(&["gate", "--config", &wrong, "--json"]);
    eventually("the refusal is said", || gate.stderr().contains("and no others").then_some(()));
    gate.stop_but(&["center", "replica", "follow", "token"]);
    center.process.stop();
}

fn check(scratch: &Scratch, text: &str, more: &[&str]) -> Said {
    let file = scratch.write("gate.toml", text);
    let mut command = keepgate();
    command.arg("gate").arg("--config").arg(file).arg("--check-config").args(more);
    command.env("KEEPGATE_TOKEN", "kgt_a_b");
    run(command)
}

const GOOD: &str = "[gate]\nlisten = [\":0\", \"localhost:0\"]\nbody-bytes = \"200MB\"\n\
                    upstream_queue = 7\n[upstream.u]\naddresses = \"a:1\"\n[[site]]\n\
                    service = \"s\"\nupstream = \"u\"\n";

#[test]
fn a_configuration_is_checked() {
    let scratch = Scratch::new();
    let said = check(&scratch, GOOD, &[]);
    assert_eq!(
        (said.code, said.stdout.as_str()),
        (0, "the configuration is valid: 1 site, 1 service, 1 upstream\n"),
        "{said:?}"
    );
    let bad = "[gate]\nlisten = \"here\"\nadmin_listen = [\":1\", \":2\"]\n\
               idle_timeot = \"5s\"\nmax_streams = 0\nservice = \"s\"\ntrust_everybody = \"maybe\"\n\
               [upstream.u]\naddresses = \"a\"\n[[site]]\nservice = \"s\"\nupstream = \"v\"\n";
    let said = check(&scratch, bad, &[]);
    assert_eq!(said.code, 64, "{said:?}");
    for part in [
        "gate.toml:2: [gate], `listen`: expected ADDR:PORT, localhost:PORT, :PORT or unix:/path, got `here`",
        "gate.toml:3: [gate], `admin_listen`: expected one value, got a list of 2",
        "gate.toml:4: [gate], `idle_timeot`: there is no such key; did you mean `idle_timeout`?",
        "gate.toml:5: [gate], `max_streams`: expected a whole number from 1 to 10000, got `0`",
        "gate.toml:6: [gate], `service`: is for a gate with one site",
        "gate.toml:7: [gate], `trust_everybody`: expected true or false, got `maybe`",
        "gate.toml:9: [upstream.u], `addresses`: expected HOST:PORT",
        "gate.toml:10: [[site]] 1, `upstream`: there is no `[upstream.v]`",
    ] {
        assert!(said.stderr.contains(part), "no `{part}` in:\n{}", said.stderr);
    }
    // Files are read too, and each one at fault is named.
    let tls =
        format!("{GOOD}hosts = [\"a.example\"]\ntls = {{ cert = \"no.pem\", key = \"no.key\" }}\n");
    let said = check(&scratch, &tls, &["--tls-cert", "/no/cert", "--tls-key", "/no/key"]);
    assert_eq!(said.code, 64, "{said:?}");
    let own = scratch.join("no.pem").display().to_string();
    assert!(said.stderr.contains(&own) && said.stderr.contains("/no/cert"), "{}", said.stderr);
    // What belongs to one site contradicts a file with sites.
    let said = check(&scratch, GOOD, &["--service", "s"]);
    assert!(said.code == 64 && said.stderr.contains("--service is for a gate with one site"));
    let file = scratch.write("gate.toml", GOOD);
    let mut command = keepgate();
    command.args(["up", "--demo", "--config"]).arg(file);
    let said = run(command);
    assert!(said.code == 64 && said.stderr.contains("`keepgate up` has one site"), "{said:?}");
    // The form with one site is checked as well.
    let mut command = keepgate();
    command.args(["gate", "--check-config", "--service", "s", "--upstream", "ftp://a"]);
    command.env("KEEPGATE_TOKEN", "kgt_a_b");
    let said = run(command);
    assert!(said.code == 64 && said.stderr.contains("`ftp://a`"), "{said:?}");
}

/// A gate that only answers other proxies needs no upstream, in flags, variables, and file; and any
/// other does.
#[test]
fn a_check_listener_needs_no_upstream() {
    let scratch = Scratch::new();
    let one = |more: &[&str], variable: Option<&str>| {
        let mut command = keepgate();
        command.args(["gate", "--check-config", "--service", "s"]).args(more);
        command.env("KEEPGATE_TOKEN", "kgt_a_b");
        if let Some(listen) = variable {
            command.env("KEEPGATE_CHECK_LISTEN", listen);
        }
        run(command)
    };
    let told =
        "the configuration is valid: 1 site, 1 service, 0 upstreams, checks on 127.0.0.1:1\n";
    for said in [
        one(&["--check-listen", "127.0.0.1:1"], None),
        one(&[], Some("127.0.0.1:1")),
        check(&scratch, "[gate]\ncheck_listen = \"127.0.0.1:1\"\nservice = \"s\"\n", &[]),
        check(&scratch, "[gate]\ncheck_listen = \"127.0.0.1:1\"\n[[site]]\nservice = \"s\"\n", &[]),
    ] {
        assert_eq!((said.code, said.stdout.as_str()), (0, told), "{said:?}");
    }
    let both = ["--check-listen", "unix:/run/c.sock", "--upstream", "http://a:1", "--check-peer"];
    let said = one(&[&both[..], &["10.0.0.0/8,unix"]].concat(), None);
    assert!(said.code == 0 && said.stdout.contains("checks on unix:/run/c.sock"), "{said:?}");
    for (said, part) in [
        (one(&[], None), "--check-listen"),
        (
            one(&["--check-listen", "127.0.0.1:1", "--listen", ":0"], None),
            "--listen is for requests",
        ),
        (one(&["--check-listen", "here"], None), "expected ADDR:PORT"),
        (one(&[&both[..], &["0.0.0.0/0"]].concat(), None), "covers every address"),
        (
            check(&scratch, "[gate]\nlisten = \":0\"\n[[site]]\nservice = \"s\"\n", &[]),
            "[[site]] 1, `upstream`: is missing",
        ),
    ] {
        assert!(said.code == 64 && said.stderr.contains(part), "no `{part}` in {said:?}");
    }
}

/// The flag counts before the variable, and that before the file.
#[test]
fn a_setting_is_in_reach_of_flag_variable_and_file() {
    let scratch = Scratch::new();
    let url = format!("http://{}", server("u"));
    let limit = |file: &str, variable: Option<&str>, flag: Option<&str>| {
        let file = scratch.write("one.toml", file);
        let mut command = keepgate();
        command.args(["gate", "--json", "--service", "s", "--upstream", &url]);
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        // Nobody is there: the gate serves its metrics all the same.
        command.args(["--center", "http://127.0.0.1:9"]).env("KEEPGATE_TOKEN", "kgt_a_b");
        command.arg("--config").arg(file);
        if let Some(value) = variable {
            command.env("KEEPGATE_UPSTREAM_CONNECTIONS", value);
        }
        let mut gate = Running::start(command, flag.map(|f| [f]).as_ref().map_or(&[], |f| &f[..]));
        let admin = text(&gate.json(), "/admin");
        let page = Http::new(&admin, &[]).get("/metrics").text();
        let name = "keepgate_gate_upstream_connections_limit ";
        let value = page.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        gate.stop_but(&["center"]);
        value
    };
    let file = "[gate]\nupstream_connections = 5\n";
    let flag = Some("--upstream-connections=7");
    assert_eq!(limit(file, None, None), "5");
    assert_eq!(limit(file, Some("6"), None), "6");
    assert_eq!(limit(file, Some("6"), flag), "7");
}

#[test]
fn the_file_takes_effect_while_the_gate_runs() {
    let scratch = Scratch::new();
    let center = CenterProcess::start(None, &scratch.join("data"), "127.0.0.1:0");
    for name in ["orders", "shop", "other"] {
        center.ok(&["apply", &policy(&scratch, name, true)]);
    }
    let make = ["token", "create", "--role", "gate", "--service", "orders", "--service", "shop"];
    let token = scratch.write("gate.token", &center.ok(&make));
    let (one, two) = (server("one"), server("two"));
    let head = |listen: &str| {
        format!(
            "[gate]\nlisten = [{listen}]\nadmin_listen = \"127.0.0.1:0\"\n\
             center = [\"{}\"]\ntoken_file = \"{}\"\n",
            center.url,
            token.display()
        )
    };
    let upstream =
        |name: &str, address: &str| format!("[upstream.{name}]\naddresses = \"{address}\"\n");
    let site = |path: &str, service: &str, upstream: &str, more: &str| {
        format!(
            "[[site]]\npath = \"{path}\"\nservice = \"{service}\"\nupstream = \"{upstream}\"\n{more}"
        )
    };
    let listen = "\"127.0.0.1:0\"";
    let first = [
        head(listen),
        upstream("one", &one),
        site("/orders", "orders", "one", ""),
        site("/", "shop", "one", ""),
    ];
    let file = scratch.write("gate.toml", &first.concat());
    let gate_args = ["gate", "--config", file.to_str().unwrap(), "--json"];
    let mut gate = Running::keepgate(&gate_args);
    let screen = gate.json();
    let (url, admin) = (text(&screen, "/gate"), text(&screen, "/admin"));
    let mut http = Http::new(&url, &[]);
    eventually("it is ready", || (http.get("/x").status == 200).then_some(()));
    assert_eq!(http.get("/x").text(), "one GET /x HTTP/1.1");

    // Under load, all the time: nobody sees an error.
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (stop, url) = (Arc::clone(&stop), url.clone());
        std::thread::spawn(move || {
            let (mut http, mut asked) = (Http::new(&url, &[]), 0);
            while !stop.load(Ordering::Relaxed) {
                let answer = http.get("/load");
                assert_eq!(answer.status, 200, "{}", answer.text());
                asked += 1;
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            asked
        })
    };

    // By itself: another upstream, a prefix that is stripped, a bound.
    let second = [
        head(listen),
        upstream("two", &two),
        site("/orders", "orders", "two", "strip_prefix = true\n"),
        site("/", "shop", "two", "body_bytes = 4\n"),
    ];
    scratch.write("gate.toml", &second.concat());
    eventually("the other upstream answers", || {
        (http.get("/x").text() == "two GET /x HTTP/1.1").then_some(())
    });
    assert_eq!(http.get("/orders/7").text(), "two GET /7 HTTP/1.1");
    let page = Http::new(&admin, &[]).get("/metrics").text();
    assert!(page.contains("upstream=\"two\"") && !page.contains("upstream=\"one\""), "{page}");

    // What cannot change is said and left; the rest of the file takes effect.
    let third = [
        head("\"127.0.0.1:0\", \"127.0.0.1:0\""),
        upstream("one", &one),
        upstream("two", &two),
        site("/orders", "orders", "one", ""),
        site("/", "shop", "two", ""),
    ];
    scratch.write("gate.toml", &third.concat());
    gate.send(libc::SIGHUP);
    gate.says("at the next start");
    eventually("the rest takes effect", || {
        (http.get("/orders/7").text() == "one GET /orders/7 HTTP/1.1").then_some(())
    });
    assert!(gate.stderr().contains("`listen`"), "{}", gate.stderr());

    // All or nothing: a service that it does not follow, and a file that cannot be read.
    let unknown = [third[..4].concat(), site("/", "other", "two", "")].concat();
    scratch.write("gate.toml", &unknown);
    gate.send(libc::SIGHUP);
    gate.says("does not follow the service `other`");
    assert_eq!(http.get("/x").text(), "two GET /x HTTP/1.1");
    scratch.write("gate.toml", "[[site]\n");
    gate.send(libc::SIGHUP);
    gate.says("the configuration file cannot be used");
    assert_eq!(http.get("/x").text(), "two GET /x HTTP/1.1");
    stop.store(true, Ordering::Relaxed);
    assert!(load.join().unwrap() > 100);
    gate.stop_but(&["what was used before stays"]);
    center.process.stop();
}
