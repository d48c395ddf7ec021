//! Center and gate as processes of their own: what most of the tests stand on.

use std::path::{Path, PathBuf};

use crate::harness::{Netns, Running, Scratch, keepgate_ok, text};

/// A center process with its data.
pub(crate) struct CenterProcess {
    pub(crate) process: Running,
    pub(crate) url: String,
    pub(crate) data: PathBuf,
}

impl CenterProcess {
    /// Starts one; `listen` may have port 0.
    pub(crate) fn start(netns: Option<&Netns>, data: &Path, listen: &str) -> CenterProcess {
        // Where a center is started again its gates are those of the test: nothing to wait for.
        let args = [
            "center",
            "--json",
            "--data",
            data.to_str().unwrap(),
            "--listen",
            listen,
            "--witness-wait",
            "0s",
        ];
        let mut process = match netns {
            None => Running::keepgate(&args),
            Some(netns) => Running::keepgate_in(netns, &args),
        };
        let url = text(&process.json(), "/center");
        CenterProcess { process, url, data: data.to_owned() }
    }

    pub(crate) fn token_file(&self) -> String {
        self.data.join("admin.token").to_str().unwrap().to_owned()
    }

    /// `keepgate ARGS.. --center .. --token-file ..`, which must succeed; its stdout.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        keepgate_ok(&self.with(args).iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The arguments with those that name this center.
    pub(crate) fn with(&self, args: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        all.extend(["--center".into(), self.url.clone(), "--token-file".into(), self.token_file()]);
        all
    }
}

/// A policy directory for the orders that [`crate::harness::Nginx`] serves: alice and bob, roles
/// by the same names as in the demo, routes from OpenAPI; no limits, for the tests are few callers.
pub(crate) fn policies(scratch: &Scratch, max_age: &str) -> String {
    let settings = format!(
        "name = \"orders\"\nmax_age = \"{max_age}\"\n[limits]\ndefault = \"off\"\n[identify.api_key]\nheader = \"x-api-key\"\n"
    );
    scratch.write("policy/service.toml", &settings);
    scratch.write(
        "policy/openapi.json",
        r#"{"openapi":"3.0.3","info":{"title":"Orders","version":"1"},"paths":{
            "/orders":{"get":{"operationId":"list","responses":{}},"post":{"operationId":"create","responses":{}}},
            "/orders/{id}":{"get":{"operationId":"read","responses":{}}}}}"#,
    );
    scratch.write(
        "policy/roles.toml",
        "[[role]]\nid = \"orders-reader\"\nmembers = ['user::\"alice\"', 'user::\"bob\"']\n\
         [[role.grant]]\nactions = [\"GET\"]\nresource = 'route::\"/orders\"'\n",
    );
    scratch.join("policy").to_str().unwrap().to_owned()
}
