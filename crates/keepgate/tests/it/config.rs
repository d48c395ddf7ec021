//! Exit codes, and where values come from: a bad one is reported with its culprit.

use expect_test::{Expect, expect};

use crate::harness::{Said, Scratch, keepgate, keepgate_run, run};

fn check(said: &Said, code: i32, stderr: Expect) {
    stderr.assert_eq(&said.stderr);
    assert_eq!(said.code, code, "{said:?}");
}

/// With this environment.
fn with(env: &[(&str, &str)], args: &[&str]) -> Said {
    let mut command = keepgate();
    command.args(args).envs(env.iter().copied());
    run(command)
}

const CHECK: [&str; 7] =
    ["check", "--principal", "user::\"a\"", "--action", "read", "--resource", "record::\"r\""];

#[test]
fn usage_errors_end_with_64() {
    for args in [
        &[][..],
        &["nonsense"],
        &["apply"],
        &["apply", ".", "--nonsense"],
        &["check", "--principal", "no uid", "--action", "a", "--resource", "r::\"1\""],
        &["center", "--listen", "nowhere"],
        &["center", "--tls-cert", "only.pem"],
        &["up"],
        &["token", "create", "--role", "king"],
        &["key", "create", "--principal", "user::\"a\"", "--expires-in", "soon"],
        &["completions", "tcsh"],
        &["service", "delete", "orders"],
        &["conformance", "authzen", "--url", "ftp://example.com"],
    ] {
        let said = keepgate_run(args);
        assert_eq!(said.code, 64, "{args:?}: {said:?}");
        assert!(said.stdout.is_empty(), "{args:?}: {said:?}");
    }
    for args in [&["--help"][..], &["--version"], &["help", "up"], &["token", "--help"]] {
        assert_eq!(keepgate_run(args).code, 0, "{args:?}");
    }
}

#[test]
fn without_a_token_it_says_what_to_pass() {
    let scratch = Scratch::new();
    let mut command = keepgate();
    command.args(CHECK).current_dir(scratch.path());
    check(
        &run(command),
        64,
        expect![[r#"
        error: no token for the center `http://127.0.0.1:7480`: pass --token-file F (or set KEEPGATE_TOKEN_FILE, or KEEPGATE_TOKEN to the token itself). The first start of `keepgate up` or `keepgate center` wrote one to admin.token in its data directory; `keepgate-data/admin.token` cannot be read here
    "#]],
    );
    let elsewhere = [&CHECK[..], &["--center", "http://127.0.0.1:9"]].concat();
    check(
        &with(&[], &elsewhere),
        64,
        expect![[r#"
        error: no token for the center `http://127.0.0.1:9`: pass --token-file F (or set KEEPGATE_TOKEN_FILE, or KEEPGATE_TOKEN to the token itself)
    "#]],
    );
}

#[test]
fn a_token_never_travels_in_the_clear() {
    let args = [&CHECK[..], &["--center", "http://192.0.2.1:7480"]].concat();
    check(
        &with(&[("KEEPGATE_TOKEN", "kgt_a_b")], &args),
        64,
        expect![[r#"
        error: the center `http://192.0.2.1:7480` is neither https nor on this host: the token would travel in the clear
    "#]],
    );
}

#[test]
fn a_center_that_is_not_there_is_a_failure() {
    let args = [&CHECK[..], &["--center", "http://127.0.0.1:1"]].concat();
    let said = with(&[("KEEPGATE_TOKEN", "kgt_a_b")], &args);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.stderr.starts_with("error: the center `http://127.0.0.1:1` cannot be asked: "),
        "{said:?}"
    );
    assert!(!said.stderr.contains("kgt_a_b"), "{said:?}");
    // A report that could not look is 2.
    let said = keepgate_run(&["conformance", "authzen", "--url", "http://127.0.0.1:1"]);
    assert_eq!(said.code, 2, "{said:?}");
}

#[test]
fn flag_over_environment_over_file_over_default() {
    let scratch = Scratch::new();
    let file = scratch
        .write("keepgate.toml", "center = \"http://127.0.0.1:3\"\n[check]\nservice = \"x\"\n");
    let file = file.to_str().unwrap();
    // Port 9, 2 and 3 of loopback: nobody listens; the error names the center that was meant.
    let center = |env: &[(&str, &str)], more: &[&str]| {
        let env = [&[("KEEPGATE_TOKEN", "kgt_a_b")], env].concat();
        let said = with(&env, &[&CHECK[..], more].concat());
        let start = said.stderr.find('`').map_or(0, |at| at + 1);
        said.stderr[start..].split('`').next().unwrap().to_owned()
    };
    let env = [("KEEPGATE_CENTER", "http://127.0.0.1:2")];
    let flag = ["--center", "http://127.0.0.1:9"];
    let config = ["--config", file];
    assert_eq!(
        center(&[("KEEPGATE_CENTER", "http://127.0.0.1:2")], &[&flag[..], &config].concat()),
        "http://127.0.0.1:9"
    );
    assert_eq!(center(&env, &config), "http://127.0.0.1:2");
    assert_eq!(center(&[], &config), "http://127.0.0.1:3");
    assert_eq!(center(&[("KEEPGATE_CONFIG", file)], &[]), "http://127.0.0.1:3");
}

#[test]
fn a_bad_value_is_reported_with_its_culprit() {
    let scratch = Scratch::new();
    let config = |text: &str| {
        std::fs::write(scratch.join("keepgate.toml"), text).unwrap();
        let mut command = keepgate();
        command.args(["--config", "keepgate.toml", "center"]).current_dir(scratch.path());
        run(command)
    };
    check(
        &with(&[], &["center", "--listen", "here"]),
        64,
        expect![[r#"
        error: invalid value 'here' for '--listen <ADDR>': invalid socket address syntax

        For more information, try '--help'.
    "#]],
    );
    check(
        &with(&[("KEEPGATE_LISTEN", "here")], &["center"]),
        64,
        expect![[r#"
        error: invalid value 'here' for '--listen <ADDR>': invalid socket address syntax

        For more information, try '--help'.

        The value comes from the environment variable KEEPGATE_LISTEN.
    "#]],
    );
    check(
        &config("listen = \"here\"\n"),
        64,
        expect![[r#"
        error: invalid value 'here' for '--listen <ADDR>': invalid socket address syntax

        For more information, try '--help'.

        The value comes from the configuration file keepgate.toml, key `listen`.
    "#]],
    );
    check(
        &config("[center]\nlisten = \"there\"\n"),
        64,
        expect![[r#"
        error: invalid value 'there' for '--listen <ADDR>': invalid socket address syntax

        For more information, try '--help'.

        The value comes from the configuration file keepgate.toml, key `center.listen`.
    "#]],
    );
    check(
        &config("lsten = \"127.0.0.1:1\"\n"),
        64,
        expect![[r#"
        error: keepgate.toml: no command has a flag `lsten`
    "#]],
    );
    check(
        &config("[center]\nupstream = \"http://a\"\n"),
        64,
        expect![[r#"
        error: keepgate.toml: `keepgate center` has no flag `upstream`
    "#]],
    );
    check(
        &config("[centre]\nlisten = \"127.0.0.1:1\"\n"),
        64,
        expect![[r#"
        error: keepgate.toml: there is no command `centre`
    "#]],
    );
    check(
        &config("\nlisten = \n"),
        64,
        expect![[r#"
        error: keepgate.toml:2: string values must be quoted, expected literal string
    "#]],
    );
    check(
        &with(&[("KEEPGATE_CONFIG", "/nonexistent/k.toml")], &["center"]),
        64,
        expect![[r#"
        error: cannot read the configuration file `/nonexistent/k.toml` (KEEPGATE_CONFIG): No such file or directory (os error 2)
    "#]],
    );
    check(
        &with(&[("KEEPGATE_LOG", "loud=!")], &["center"]),
        64,
        expect![[r#"
            error: expected a log filter (KEEPGATE_LOG, --log), got `loud=!`: error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5
        "#]],
    );
}
