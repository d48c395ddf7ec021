//! kill -9 of a real process while it writes: what was acknowledged is there afterwards.
//!
//! The process is this test binary, started again for one test that is ignored otherwise.

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::process::{Child, Command, Stdio};

use keepgate_center::Center;
use serde_json::json;

use crate::fixture::{Dir, PATIENCE, Running, config};

const CHILD: &str = "KEEPGATE_TEST_CENTER_DIR";

/// How often the process is killed.
const KILLS: usize = 12;

#[tokio::test]
#[ignore = "the process that is killed; started by the test below"]
async fn child() {
    // Run by itself it is no test: it is the other half of the one below.
    let Ok(dir) = std::env::var(CHILD) else { return };
    let mut config = config(&Dir::new());
    config.data_dir = dir.into();
    let center = Center::start(config).await.unwrap();
    println!("\nLISTENING {}", center.addr());
    center.run(std::future::pending()).await.unwrap();
}

struct Process {
    child: Child,
    center: Running,
}

async fn spawn(dir: &Dir) -> Process {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--ignored", "--nocapture"])
        .env(CHILD, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = child.stdout.take().unwrap();
    let (found, addr) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut found = Some(found);
        for line in std::io::BufReader::new(out).lines().map_while(Result::ok) {
            if let (Some(addr), true) = (line.strip_prefix("LISTENING "), found.is_some()) {
                let _ = found.take().unwrap().send(addr.parse().unwrap());
            }
        }
    });
    let addr = match tokio::time::timeout(PATIENCE, addr).await {
        Ok(Ok(addr)) => addr,
        _ => {
            let _ = child.kill();
            panic!("the child does not listen");
        }
    };
    let admin = std::fs::read_to_string(dir.path().join("admin.token")).unwrap();
    Process { child, center: Running::elsewhere(addr, admin.trim().to_owned()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_revision_is_lost() {
    let dir = Dir::new();
    // What the center acknowledged: key -> (revision, text); and what was asked for last.
    let mut acknowledged: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let mut highest = 0;
    for round in 0..KILLS {
        let mut process = spawn(&dir).await;
        let center = &process.center;
        let head = center.revision().await;
        assert!(head >= highest, "revision {head} after {highest} was acknowledged");
        for (id, (_, text)) in &acknowledged {
            let path = format!("/v1/services/crash/policies/{id}");
            let got = center.ask("GET", &path, None).await.good();
            // A write without an answer may have landed or not; an acknowledged one has.
            let got = got["text"].as_str().unwrap().to_owned();
            let number = |text: &str| {
                text.rsplit("n == ")
                    .next()
                    .unwrap()
                    .split(' ')
                    .next()
                    .unwrap()
                    .parse::<u64>()
                    .unwrap()
            };
            assert!(number(&got) >= number(text), "{id}: {got} after {text}");
        }
        if round == 0 {
            center.service("crash", &[]).await;
        }
        // Writers go on until the kill takes their connections away.
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let mut writers = Vec::new();
        for writer in 0..4_u64 {
            let (addr, admin, tell) = (center.addr, center.admin.clone(), tell.clone());
            writers.push(tokio::spawn(async move {
                let center = Running::elsewhere(addr, admin);
                for n in 1_u64.. {
                    let id = format!("w{writer}k{}", n % 5);
                    let number = (round as u64) * 1_000_000 + n;
                    let text = format!(
                        "permit (principal, action, resource) when {{ context has n && \
                         context.n == {number} }};"
                    );
                    let path = format!("/v1/services/crash/policies/{id}");
                    let Some(answer) = center.try_ask("PUT", &path, json!({ "text": text })).await
                    else {
                        break;
                    };
                    assert!(answer.status.is_success(), "{answer:?}");
                    let revision = answer.json()["revision"].as_u64().unwrap();
                    tell.send((id, revision, text)).unwrap();
                }
            }));
        }
        drop(tell);
        // Kill in the midst of it: after some acknowledgements, each round a different number.
        let mut seen = 0;
        while seen < 5 + round * 7 {
            let (id, revision, text) =
                tokio::time::timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
            highest = highest.max(revision);
            acknowledged.insert(id, (revision, text));
            seen += 1;
        }
        process.child.kill().unwrap();
        process.child.wait().unwrap();
        while let Some((id, revision, text)) = told.recv().await {
            highest = highest.max(revision);
            acknowledged.insert(id, (revision, text));
        }
        for writer in writers {
            writer.await.unwrap();
        }
    }
    // And once more, in this process: digests hold, the world builds, all is there.
    let center = Running::start(&dir).await;
    assert!(center.revision().await >= highest);
    assert!(acknowledged.len() >= 15);
    center.stop().await;
}
