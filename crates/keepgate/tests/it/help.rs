//! Help texts, completions, version.

use expect_test::{expect, expect_file};

use crate::harness::{keepgate_ok, keepgate_run};

/// `docs/cli.md` is the help texts; `UPDATE_EXPECT=1 cargo test` writes it anew.
#[test]
fn the_document_is_the_help_texts() {
    expect_file!["../../../../docs/cli.md"].assert_eq(&keepgate_ok(&["help-markdown"]));
}

#[test]
fn short_help_names_every_command() {
    let commands = |help: String| {
        let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        lines
            .take_while(|line| !line.is_empty())
            .map(|line| format!("{}\n", line.trim_end()))
            .collect::<String>()
    };
    expect_file!["golden/commands.txt"].assert_eq(&commands(keepgate_ok(&["-h"])));
}

#[test]
fn version() {
    expect![[r#"
        keepgate 0.2.0
    "#]]
    .assert_eq(&keepgate_ok(&["--version"]));
}

#[test]
fn completions_name_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = keepgate_ok(&["completions", shell]);
        for command in ["up", "apply", "conformance", "token-file"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    let mut bash = std::process::Command::new("bash");
    bash.args(["-c", "eval \"$(cat)\" && complete -p keepgate"]);
    let script = keepgate_ok(&["completions", "bash"]);
    let said = crate::harness::run_with_input(bash, &script);
    assert!(said.stdout.contains("_keepgate"), "{said:?}");
}

#[test]
fn no_colors_in_a_pipe() {
    for args in [&["--help"][..], &["-h"], &["nonsense"]] {
        let said = keepgate_run(args);
        assert!(
            !said.stdout.contains('\x1b') && !said.stderr.contains('\x1b'),
            "{args:?}: {said:?}"
        );
    }
}
