//! Each rule of `tidy` finds its culprit: a small workspace is tidy, and one change makes it untidy.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A workspace of the project's shape, in a directory within one that goes with the test.
struct Workspace(PathBuf);

impl Workspace {
    fn new() -> Workspace {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("keepgate-tidy-{}-{number}", std::process::id());
        let workspace = Workspace(std::env::temp_dir().join(name).join("workspace"));
        workspace.write(
            "Cargo.toml",
            "[workspace]\nresolver = \"3\"\nmembers = [\"crates/*\"]\n[workspace.lints.rust]\n",
        );
        workspace.write(
            "deny.toml",
            "[licenses]\nallow = [\"MIT\"]\n[bans]\ndeny = [\"openssl\"]\nskip = []\n[sources]\nallow-registry = []\n",
        );
        workspace.write("README.md", "[the promises](SPECIFICATION.md)\n");
        workspace.write("SPECIFICATION.md", "| it holds | `policy::holds::it_holds` |\n");
        for name in ["ports", "policy"] {
            workspace.package(name, "");
        }
        workspace.write("crates/policy/tests/it/main.rs", "//! Tests.\n\nmod holds;\n");
        workspace.write(
            "crates/policy/tests/it/holds.rs",
            "//! It holds.\n\n#[test]\nfn it_holds() {}\n",
        );
        let git = Command::new("git").args(["init", "-q"]).current_dir(&workspace.0).status();
        assert!(git.is_ok_and(|status| status.success()), "git init");
        workspace
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.0.join(file);
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    /// The package `keepgate-NAME` in `crates/NAME`, with more lines in its manifest.
    fn package(&self, name: &str, more: &str) {
        self.package_of(name, &format!("keepgate-{name}"), "MIT", "1.0.0", more);
    }

    fn package_of(&self, folder: &str, name: &str, license: &str, version: &str, more: &str) {
        let license =
            if license.is_empty() { String::new() } else { format!("license = \"{license}\"\n") };
        self.write(
            &format!("crates/{folder}/Cargo.toml"),
            &format!(
                "[package]\nname = \"{name}\"\nversion = \"{version}\"\nedition = \"2024\"\n{license}{more}\n[lints]\nworkspace = true\n"
            ),
        );
        self.write(&format!("crates/{folder}/src/lib.rs"), "//! A crate.\n");
    }

    /// What `tidy` says of it.
    fn problems(&self) -> Vec<String> {
        let lock = Command::new(env!("CARGO"))
            .args(["generate-lockfile", "--offline", "--quiet"])
            .current_dir(&self.0)
            .status();
        assert!(lock.is_ok_and(|status| status.success()), "cargo generate-lockfile");
        xtask::tidy::run(&self.0).expect("the workspace can be read")
    }

    /// There is one problem, and it says this.
    fn must_say(&self, expected: &str) {
        let problems = self.problems();
        assert_eq!(problems.len(), 1, "one problem: {problems:#?}");
        assert!(problems.iter().all(|p| p.contains(expected)), "{expected}: {problems:#?}");
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Some(directory) = self.0.parent() {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

#[test]
fn a_tidy_workspace_has_no_problems() {
    assert_eq!(Workspace::new().problems(), Vec::<String>::new());
}

#[test]
fn directions() {
    let workspace = Workspace::new();
    workspace.package("ports", "[dependencies]\nkeepgate-policy = { path = \"../policy\" }");
    workspace.must_say("`keepgate-ports` must not depend on `keepgate-policy`");
    let workspace = Workspace::new();
    workspace.package("other", "");
    workspace.must_say("`keepgate-other` has no layer");
}

#[test]
fn circles_of_modules() {
    let workspace = Workspace::new();
    workspace.package("gate", "");
    workspace.write("crates/gate/src/lib.rs", "//! A crate.\n\nmod a;\nmod b;\n");
    workspace.write("crates/gate/src/a.rs", "//! A.\n\nuse crate::b::B;\npub struct A(B);\n");
    workspace.write("crates/gate/src/b.rs", "//! B.\n\npub struct B;\n");
    assert_eq!(workspace.problems(), Vec::<String>::new());
    workspace.write("crates/gate/src/b.rs", "//! B.\n\npub struct B(super::a::A);\n");
    workspace.must_say("crate `gate`: modules in a circle: a > b > a");
}

#[test]
fn the_gate_has_few_modules_in_its_root() {
    let workspace = Workspace::new();
    workspace.package("gate", "");
    for name in 'a'..='k' {
        workspace.write(&format!("crates/gate/src/{name}/mod.rs"), "//! A module.\n");
    }
    assert_eq!(workspace.problems(), Vec::<String>::new());
    workspace.write("crates/gate/src/l.rs", "//! One more.\n");
    workspace.must_say("crate `gate` has 12 modules in its root");
}

#[test]
fn one_crate_names_cedar() {
    let workspace = Workspace::new();
    workspace.package_of("cedar", "cedar-policy", "MIT", "1.0.0", "");
    workspace.package("ports", "[dependencies]\ncedar-policy = { path = \"../cedar\" }");
    let problems = workspace.problems();
    assert!(
        problems.contains(&"crate `keepgate-ports` names `cedar-policy`".to_owned()),
        "{problems:#?}"
    );
}

#[test]
fn lints_are_inherited() {
    let workspace = Workspace::new();
    workspace.write(
        "crates/ports/Cargo.toml",
        "[package]\nname = \"keepgate-ports\"\nversion = \"1.0.0\"\nedition = \"2024\"\nlicense = \"MIT\"\n",
    );
    workspace.must_say("`keepgate-ports` lacks `[lints] workspace = true`");
}

#[test]
fn licenses() {
    for (license, expected) in
        [("GPL-3.0", "license `GPL-3.0` is not allowed"), ("", "states no license")]
    {
        let workspace = Workspace::new();
        workspace.package_of("ports", "keepgate-ports", license, "1.0.0", "");
        workspace.must_say(expected);
    }
}

/// A package outside of the workspace's directory, as a dependency of `keepgate-ports`.
fn outside(workspace: &Workspace, name: &str, version: &str) -> String {
    let folder = format!("../outside/{name}-{version}");
    workspace.write(
        &format!("{folder}/Cargo.toml"),
        &format!(
            "[package]\nname = \"{name}\"\nversion = \"{version}\"\nedition = \"2024\"\nlicense = \"MIT\"\n"
        ),
    );
    workspace.write(&format!("{folder}/src/lib.rs"), "//! A crate.\n");
    format!("{{ path = \"../../{folder}\", package = \"{name}\" }}")
}

#[test]
fn bans() {
    let workspace = Workspace::new();
    let path = outside(&workspace, "openssl", "1.0.0");
    workspace.package("ports", &format!("[dependencies]\nopenssl = {path}"));
    workspace.must_say("`openssl` is banned");
}

#[test]
fn connections_without_permissions() {
    let workspace = Workspace::new();
    let tonic = outside(&workspace, "tonic", "1.0.0");
    let line = |optional: &str| tonic.replace(" }", optional);
    let optional = line(", optional = true }");
    let features = "[features]\ndefault = [\"replica\"]\nreplica = [\"dep:tonic\"]";
    workspace.package("client", &format!("{features}\n[dependencies]\ntonic = {optional}"));
    assert_eq!(workspace.problems(), Vec::<String>::new(), "behind the feature");
    workspace.package("client", &format!("[dependencies]\ntonic = {tonic}"));
    workspace.must_say("`keepgate-client` needs `tonic` without its default features");
}

#[test]
fn duplicates() {
    let workspace = Workspace::new();
    let one = outside(&workspace, "twice", "1.0.0");
    let two = outside(&workspace, "twice", "2.0.0");
    workspace.package("ports", &format!("[dependencies]\none = {one}\ntwo = {two}"));
    workspace.must_say("`twice` is built in versions");
    let skip = "[licenses]\nallow = [\"MIT\"]\n[bans]\ndeny = []\nskip = [{ crate = \"twice@1\", reason = \"old\" }]\n[sources]\nallow-registry = []\n";
    workspace.write("deny.toml", skip);
    assert_eq!(workspace.problems(), Vec::<String>::new(), "skipped");
    workspace.package("ports", &format!("[dependencies]\ntwo = {two}"));
    workspace.must_say("deny.toml skips `twice@1`");
}

#[test]
fn sources_of_packages() {
    let workspace = Workspace::new();
    outside(&workspace, "foreign", "1.0.0");
    let repository = workspace.0.join("../outside/foreign-1.0.0");
    for arguments in [
        &["init", "-q"][..],
        &["add", "-A"],
        &["-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", "one"],
    ] {
        let status = Command::new("git").args(arguments).current_dir(&repository).status();
        assert!(status.is_ok_and(|status| status.success()), "git {arguments:?}");
    }
    let url = format!("file://{}", repository.display());
    workspace.package("ports", &format!("[dependencies]\nforeign = {{ git = \"{url}\" }}"));
    // Cargo keeps what it fetched in a directory that goes with the test.
    let output = |program: &str, arguments: &[&str]| {
        Command::new(program)
            .args(arguments)
            .current_dir(&workspace.0)
            .env("CARGO_HOME", workspace.0.join("cargo-home"))
            .output()
            .expect("starts")
    };
    let locked = output(env!("CARGO"), &["generate-lockfile", "--quiet"]);
    assert!(locked.status.success(), "{locked:?}");
    let root = workspace.0.to_string_lossy();
    let tidy = output(env!("CARGO_BIN_EXE_xtask"), &["tidy", "--root", &root]);
    let said = String::from_utf8_lossy(&tidy.stderr);
    assert!(!tidy.status.success() && said.contains("`foreign` comes from `git+"), "{said}");
}

#[test]
fn files() {
    let cases = [
        ("crates/ports/src/utils.rs", "//! Things.\n", "`utils.rs` says nothing"),
        ("crates/ports/src/plain.rs", "pub fn plain() {}\n", "begins without `//!`"),
        ("docs/where.md", concat!("It lies in `/", "root/x`.\n"), "path of a machine"),
        ("docs/link.md", "See [that](nowhere.md).\n", "link to `nowhere.md` leads nowhere"),
    ];
    for (file, text, expected) in cases {
        let workspace = Workspace::new();
        workspace.write(file, text);
        workspace.must_say(expected);
    }
    let workspace = Workspace::new();
    workspace.write("crates/ports/src/long.rs", &format!("//! Long.\n{}", "// One.\n".repeat(800)));
    workspace.must_say("801 lines");
}

#[test]
fn links_in_code_are_left_alone() {
    let workspace = Workspace::new();
    workspace.write("docs/code.md", "```\n[x](nowhere.md)\n```\n[y](https://example.org/z)\n");
    assert_eq!(workspace.problems(), Vec::<String>::new());
}

#[test]
fn promises() {
    let cases = [
        ("policy::holds::it_falls", "`policy::holds::it_falls`, which does not exist"),
        ("policy::other::it_holds", "`policy::other::it_holds`, which is in `policy::holds`"),
        ("ports::holds::it_holds", "`ports::holds::it_holds`, which does not exist"),
    ];
    for (name, expected) in cases {
        let workspace = Workspace::new();
        workspace.write("SPECIFICATION.md", &format!("| it holds | `{name}` |\n"));
        workspace.must_say(expected);
    }
    let workspace = Workspace::new();
    workspace.write("crates/policy/tests/it/holds.rs", "//! It holds.\n\nfn it_holds() {}\n");
    workspace.must_say("does not exist");
    let workspace = Workspace::new();
    std::fs::remove_file(workspace.0.join("SPECIFICATION.md")).expect("removed");
    let problems = workspace.problems();
    assert!(problems.contains(&"SPECIFICATION.md is missing".to_owned()), "{problems:#?}");
}

#[test]
fn words_of_documents() {
    for (text, expected) in [
        ("\nSo\nmany words.\n", "docs/x.md:2: `so many`: use plainer words"),
        ("```\nx\n```\nWhoever.\n", "docs/x.md:4: `whoever`: use plainer words"),
        ("Its colours.\n", "docs/x.md:1: `colours`: use the American spelling"),
    ] {
        let workspace = Workspace::new();
        workspace.write("docs/x.md", text);
        workspace.must_say(expected);
    }
    let workspace = Workspace::new();
    workspace.write("docs/cli.md", "```text\nNormalise.\n```\n");
    workspace.must_say("docs/cli.md:2: `normalise`");
    let workspace = Workspace::new();
    workspace.write("docs/x.md", "Colors, so not many: `x` is no y.\n```\nwhoever\n```\n");
    workspace.write("CHANGELOG.md", "Whoever.\n");
    assert_eq!(workspace.problems(), Vec::<String>::new());
}

#[test]
fn words_of_messages() {
    for (source, expected) in [
        (r##"const A: &str = "x\\";{n}const B: &str = "told by";"##, "lib.rs:4: `told by`"),
        (r##"const A: &str = r#"a "b{n}whatever"#;"##, "lib.rs:4: `whatever`"),
        (r##"const A: (char, &str) = ('"', "grey");"##, "lib.rs:3: `grey`"),
        (r##"const A: &str = "`{x}` is no \{n}    port";"##, "lib.rs:3: `is no`"),
    ] {
        let workspace = Workspace::new();
        let source = source.replace("{n}", "\n");
        workspace.write("crates/ports/src/lib.rs", &format!("//! A crate.\n\n{source}\n"));
        workspace.must_say(expected);
    }
    let workspace = Workspace::new();
    let source = r##"//! Told by "whoever".

/// 'whatever "colour'
const A: &str = "`x` is no longer so; there is no \"y\"";

#[cfg(test)]
mod tests {
    const B: &str = "whoever";
}
"##;
    workspace.write("crates/ports/src/lib.rs", source);
    workspace.write("crates/ports/tests/it/main.rs", "//! Tests.\n\nconst A: &str = \"grey\";\n");
    assert_eq!(workspace.problems(), Vec::<String>::new());
}
