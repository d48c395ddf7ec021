//! The start screen of `keepgate up`: where everything is, and what to try.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::first_steps::{Caller, FirstSteps, Missing, quoted};
use super::set_up::SetUp;
use crate::admin::{ADMIN_TOKEN_FILE, DATA_DEFAULT};
use crate::demo;
use crate::style::Paint;

/// What a person sees when all is up.
pub(super) struct Screen {
    pub(super) gate: String,
    pub(super) metrics: Option<String>,
    pub(super) upstream: String,
    pub(super) center: String,
    pub(super) data: PathBuf,
    pub(super) temporary: bool,
    pub(super) set_up: SetUp,
}

impl Screen {
    fn admin_token_file(&self) -> PathBuf {
        self.data.join(ADMIN_TOKEN_FILE)
    }

    /// The same for programs.
    pub(super) fn json(&self) -> String {
        let demo = self.set_up.keys.as_ref().map_or(Value::Null, |keys| json!({ "keys": keys }));
        let screen = json!({
            "gate": self.gate,
            "metrics": self.metrics,
            "upstream": self.upstream,
            "center": self.center,
            "service": self.set_up.service,
            "data": self.data,
            "admin_token_file": self.admin_token_file(),
            "demo": demo,
        });
        format!("{screen}\n")
    }

    /// With the commands to try next.
    pub(super) fn text(&self, paint: Paint) -> String {
        let service = &self.set_up.service;
        let data = match self.temporary {
            true => format!("{} (removed at the end)", self.data.display()),
            false => self.data.display().to_string(),
        };
        let mut out = format!("\n  {} {}\n\n", paint.strong("keepgate"), env!("CARGO_PKG_VERSION"));
        let mut line = |name: &str, value: &str, remark: &str| {
            out += format!("  {name:<12} {value:<28} {}", paint.faint(remark)).trim_end();
            out.push('\n');
        };
        line("gate", &self.gate, &format!("-> {} (service {service})", self.upstream));
        line("center", &self.center, "admin API, AuthZEN, metrics");
        if let Some(metrics) = &self.metrics {
            line("metrics", &format!("{metrics}/metrics"), "of the gate");
        }
        line("data", &data, "");
        line("admin token", &self.admin_token_file().display().to_string(), "");
        out.push('\n');
        match &self.set_up.keys {
            Some(keys) => self.demo(keys, paint, &mut out),
            None => self.next(paint, &mut out),
        }
        out += &format!("  {}\n\n", paint.faint("Ctrl-C ends it."));
        out
    }

    /// The command that talks to this center, as it can be pasted.
    fn keepgate(&self, words: &str) -> String {
        let mut command = format!("{} {words}", executable());
        if self.center != crate::admin::CENTER_DEFAULT {
            command += &format!(" --center {}", self.center);
        }
        if self.center != crate::admin::CENTER_DEFAULT || self.data != Path::new(DATA_DEFAULT) {
            command += &format!(" --token-file {}", self.admin_token_file().display());
        }
        command
    }

    fn next(&self, paint: Paint, out: &mut String) {
        let mut step = |remark: &str, command: String| {
            *out += &format!("  {}\n  {command}\n\n", paint.faint(&format!("# {remark}")));
        };
        match &self.set_up.first {
            None => {}
            Some(FirstSteps::Missing(Missing { why, command })) => {
                step(why, self.keepgate(command))
            }
            Some(FirstSteps::Try { request, caller, host }) => {
                let service = &self.set_up.service;
                let (who, header) = match caller {
                    Caller::Anyone => ("anyone".to_owned(), None),
                    Caller::Key { principal, header } => {
                        let create = format!(
                            "key create --service {service} --principal {}",
                            quoted(&principal.to_string())
                        );
                        let create = format!("KEY=$({})", self.keepgate(&create));
                        step(&format!("a key for {principal}, whom the policies name"), create);
                        let word = if header == "authorization" { "Bearer " } else { "" };
                        (principal.to_string(), Some(format!("\"{header}: {word}$KEY\"")))
                    }
                    Caller::Named { principal, header } => {
                        let header = quoted(&format!("{header}: {}", principal.id));
                        (principal.to_string(), Some(header))
                    }
                    Caller::Token { principal, issuer } => {
                        let who = format!("{principal}, with a token of {issuer} in $TOKEN,");
                        (who, Some("\"authorization: Bearer $TOKEN\"".to_owned()))
                    }
                };
                let url = quoted(&format!("{}{}", self.gate, request.path));
                let mut curl = format!("curl -i {url}");
                if request.method == "HEAD" {
                    curl = format!("curl -I {url}");
                } else if request.method != "GET" {
                    curl += &format!(" -X {}", request.method);
                }
                if let Some(host) = host {
                    curl += &format!(" -H {}", quoted(&format!("host: {host}")));
                }
                if let Some(header) = header {
                    curl += &format!(" -H {header}");
                }
                let what = format!("{} {}", request.method, request.path);
                step(&format!("{who} may {what}: 200, if the server has it"), curl);
            }
        }
        step("what a change would do, before it does", self.keepgate("apply ./policy --dry-run"));
    }

    fn demo(&self, keys: &demo::Keys, paint: Paint, out: &mut String) {
        let orders = format!("{}/orders", self.gate);
        let mut step = |remark: &str, command: String| {
            *out += &format!("  {}\n  {command}\n\n", paint.faint(&format!("# {remark}")));
        };
        step(
            "alice may do everything on orders: 200",
            format!("curl -i {orders} -H 'X-Api-Key: {}'", keys.alice),
        );
        step(
            "bob may only read: 403, and why",
            format!("curl -i {orders} -H 'X-Api-Key: {}' -d '{{\"item\":\"sugar\"}}'", keys.bob),
        );
        step("a request without a key: 401", format!("curl -i {orders}"));
        step(
            "the crawler is a program that reads",
            format!("curl -i {orders}/1 -H 'X-Api-Key: {}'", keys.crawler),
        );
        step("take bob's role away ..", self.keepgate("role revoke 'user::\"bob\"' orders-reader"));
        step(
            ".. and the gate refuses him at once",
            format!("curl -i {orders} -H 'X-Api-Key: {}'", keys.bob),
        );
    }
}

/// This executable as one types it: by name if the shell would find it, else by path.
fn executable() -> String {
    let Ok(path) = std::env::current_exe() else { return "keepgate".into() };
    let on_path = std::env::var_os("PATH").is_some_and(|dirs| {
        path.parent().is_some_and(|parent| std::env::split_paths(&dirs).any(|dir| dir == parent))
    });
    if on_path {
        return "keepgate".into();
    }
    let below =
        std::env::current_dir().ok().and_then(|dir| Some(path.strip_prefix(dir).ok()?.to_owned()));
    below.map_or_else(|| path.display().to_string(), |below| format!("./{}", below.display()))
}
