//! The first minutes: the lines that `keepgate up` prints lead to a 200 with the policy that it was
//! given, or it says what is missing; and the README's lines do what they say.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::harness::{Netns, Running, Scratch, eventually, run, skipped};

/// A server that answers 200 to everything; its address.
fn upstream() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let mut stream = stream;
                while let Some(Ok(line)) = lines.next() {
                    if line.is_empty() {
                        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
                        if stream.write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    url
}

/// The start screen of `up` with these files, as remarks and commands.
fn screen(scratch: &Scratch, files: &[(&str, &str)]) -> (Running, String, Vec<(String, String)>) {
    for (name, text) in files {
        scratch.write(&format!("policy/{name}"), text);
    }
    let policy = scratch.join("policy");
    let (policy, data) = (policy.to_str().unwrap(), scratch.join("data"));
    let mut up = Running::up_with(&upstream(), policy, &data, &[]);
    let screen = up.until("Ctrl-C");
    let lines: Vec<&str> = screen.lines().map(str::trim).collect();
    let steps = lines
        .windows(2)
        .filter(|pair| pair[0].starts_with("# "))
        .map(|pair| (pair[0][2..].to_owned(), pair[1].to_owned()))
        .collect();
    (up, screen, steps)
}

/// Pastes all lines of the steps into one shell, up to the one about changes; the statuses of curl.
fn pasted(steps: &[(String, String)]) -> Vec<u16> {
    let mut script = String::from("set -e\n");
    for (_, command) in steps.iter().filter(|(remark, _)| !remark.starts_with("what a change")) {
        script.push_str(&command.replacen("curl -", "curl -sS --max-time 30 -", 1));
        script.push('\n');
    }
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]);
    let said = run(shell);
    assert_eq!(said.code, 0, "{script}: {said:?}");
    statuses(&said.stdout)
}

fn statuses(text: &str) -> Vec<u16> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 "));
    lines.map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
}

const ROUTES: &str = "[[route]]\nmethod = \"DELETE\"\npath = \"/a\"\n\n[[route]]\nmethod = \"POST\"\npath = \"/it's/{id}\"\n\n[[route]]\nmethod = \"GET\"\npath = \"/orders\"\n";

#[test]
fn the_printed_lines_lead_to_a_200_with_this_policy() {
    let key = "name = \"shop\"\n[identify.api_key]\n";
    let named = "name = \"shop\"\nhosts = [\"*.shop.example\"]\n[identify.trusted_header]\nheader = \
                 \"x-user\"\npeers = [\"127.0.0.1\"]\n";
    let open = "[[route]]\nmethod = \"GET\"\npath = \"/health\"\nanonymous = true\n";
    let roles = "[[role]]\nid = \"sellers\"\nmembers = [\"user::\\\"o'neil\\\"\"]\n\n[[role.grant]]\n\
                 actions = [\"POST\"]\nresource = \"any\"\n";
    for (what, files, who) in [
        (
            "a policy that names a user",
            vec![
                ("service.toml", key),
                ("routes.toml", ROUTES),
                (
                    "a.cedar",
                    "permit (principal == user::\"zoe\", action, resource in route::\"/orders\");",
                ),
            ],
            "user::\"zoe\"",
        ),
        (
            "a grant to a role, for one method",
            vec![("service.toml", key), ("routes.toml", ROUTES), ("roles.toml", roles)],
            // As Cedar writes it.
            "user::\"o\\'neil\"",
        ),
        (
            "everybody whom a policy lets",
            vec![
                ("service.toml", named),
                ("routes.toml", ROUTES),
                (
                    "a.cedar",
                    "permit (principal, action == Action::\"DELETE\", resource) when { context.host \
                     like \"*.shop.example\" };",
                ),
            ],
            "user::\"me\"",
        ),
        (
            "nobody in particular",
            vec![
                ("service.toml", "name = \"shop\"\n"),
                ("routes.toml", open),
                ("a.cedar", "permit (principal, action, resource);"),
            ],
            "anyone",
        ),
    ] {
        let scratch = Scratch::new();
        let (up, screen, steps) = screen(&scratch, &files);
        assert!(steps.iter().any(|(remark, _)| remark.starts_with(who)), "{what}: {screen}");
        assert_eq!(pasted(&steps), [200], "{what}: {screen}");
        up.stop();
    }
}

#[test]
fn what_is_missing_is_said() {
    let key = "name = \"shop\"\n[identify.api_key]\n";
    let alice = "permit (principal == user::\"alice\", action, resource);";
    let empty_role = "permit (principal in role::\"sellers\", action, resource);";
    for (files, expected) in [
        (vec![("service.toml", key), ("a.cedar", alice)], "has no routes"),
        (vec![("service.toml", key), ("routes.toml", ROUTES)], "no policy permits anything"),
        (
            vec![
                ("service.toml", "name = \"shop\"\n"),
                ("routes.toml", ROUTES),
                ("a.cedar", alice),
            ],
            "`[identify.api_key]`",
        ),
        (
            vec![("service.toml", key), ("routes.toml", ROUTES), ("a.cedar", empty_role)],
            "nobody is in role::\"sellers\"",
        ),
        (
            vec![
                ("service.toml", key),
                ("routes.toml", ROUTES),
                (
                    "a.cedar",
                    "permit (principal == user::\"alice\", action == Action::\"x\", resource);",
                ),
            ],
            "none of the callers",
        ),
    ] {
        let scratch = Scratch::new();
        let (up, screen, steps) = screen(&scratch, &files);
        assert!(screen.contains(expected), "{expected}: {screen}");
        assert!(!screen.contains("curl"), "{screen}");
        if expected.starts_with("nobody is in") {
            // The command that it names helps.
            let command = &steps[0].1;
            let mut shell = Command::new("bash");
            shell.args(["-c", command]);
            let said = run(shell);
            assert_eq!(said.code, 0, "{command}: {said:?}");
        }
        up.stop();
    }
}

/// The blocks of a section of the README.
fn blocks(section: &str) -> Vec<String> {
    let readme = include_str!("../../../../README.md");
    let (_, after) = readme.split_once(&format!("\n## {section}\n")).unwrap();
    let text = after.split("\n## ").next().unwrap();
    text.split("```\n").skip(1).step_by(2).map(str::to_owned).collect()
}

/// Word by word, on a host of its own, where the usual ports are free.
#[test]
fn the_readmes_lines_protect_a_server() {
    let Some(netns) = Netns::new() else {
        return skipped("network namespaces need root");
    };
    let blocks = blocks("Protect a server");
    let (start, requests) = (&blocks[0], &blocks[1]);
    let scratch = Scratch::new();
    let executable = std::path::Path::new(env!("CARGO_BIN_EXE_keepgate"));
    let path = format!(
        "{}:{}",
        executable.parent().unwrap().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let shell = |script: &str| {
        let mut command = Command::new("ip");
        // All that a shell has begun ends with it.
        command.args(["netns", "exec", &netns.name, "unshare", "--pid", "--fork", "--kill-child"]);
        command.args(["bash", "-c", script]).current_dir(scratch.path()).env("PATH", &path);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KEEPGATE_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null());
        command
    };
    let mut up = Running::start(shell(start), &[]);
    let screen = up.until("Ctrl-C");
    assert!(screen.contains("user::\"alice\" may GET /"), "{screen}");
    // The server of the first lines starts beside the gate.
    let all = eventually("the server answers", || {
        let said = run(shell(requests));
        assert_eq!(said.code, 0, "{said:?}");
        (!statuses(&said.stdout).contains(&502)).then_some(said.stdout)
    });
    let expected: Vec<u16> = requests
        .lines()
        .filter(|line| line.starts_with("curl"))
        .map(|line| line.rsplit_once("# ").unwrap().1[..3].parse().unwrap())
        .collect();
    assert_eq!(expected.len(), 4);
    assert_eq!(statuses(&all), expected, "{all}");
    assert!(all.contains("hello"), "{all}");
    up.kill();
}
