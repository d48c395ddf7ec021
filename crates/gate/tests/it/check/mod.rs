//! The check listener: the same outcome by every hook as through the gate itself.

mod authzen;
pub(crate) mod grpc;
mod hooks;
mod peers;
mod rls;
mod says;
mod table;

use std::net::SocketAddr;

use keepgate_gate::{GateConfig, Listen};

use super::support::{Answer, Draft, TestGate, talk};

/// Adds a check listener.
pub(crate) fn listening(config: &mut GateConfig) {
    config.check_listen = vec![Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))];
}

/// A gate that forwards and answers other proxies.
pub(crate) async fn both(draft: &Draft, upstream: &str) -> TestGate {
    TestGate::with(draft, upstream, listening).await
}

/// A request as its caller makes it.
#[derive(Clone, Debug)]
pub(crate) struct Original {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) host: String,
    pub(crate) from: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Original {
    pub(crate) fn new(method: &str, target: &str) -> Original {
        Original {
            method: method.to_owned(),
            target: target.to_owned(),
            host: "a.example".to_owned(),
            from: "127.0.0.1".to_owned(),
            headers: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Original {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn lines(&self) -> String {
        self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
    }

    /// As it comes to a gate itself.
    pub(crate) fn plain(&self) -> String {
        let Original { method, target, host, .. } = self;
        let lines = self.lines();
        format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{lines}\r\n")
    }

    /// As nginx asks about it.
    pub(crate) fn auth(&self) -> String {
        let Original { method, target, host, from, .. } = self;
        let lines = self.lines();
        format!(
            "GET /auth HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
             X-Original-Method: {method}\r\nX-Original-URI: {target}\r\nX-Real-IP: {from}\r\n\
             {lines}\r\n"
        )
    }

    /// As Caddy asks about it, with the query at the end of its own target.
    pub(crate) fn forward_auth(&self) -> String {
        let Original { method, target, host, from, .. } = self;
        let query =
            target.split_once('?').map(|(_, query)| format!("?{query}")).unwrap_or_default();
        let lines = self.lines();
        format!(
            "GET /forward-auth{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\
             X-Forwarded-Method: {method}\r\nX-Forwarded-Uri: {target}\r\n\
             X-Forwarded-Host: {host}\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: {from}\r\n\
             {lines}\r\n"
        )
    }

    /// As Envoy asks about it over HTTP.
    pub(crate) fn ext_authz(&self) -> String {
        let Original { method, target, host, from, .. } = self;
        let lines = self.lines();
        format!(
            "{method} /ext_authz{target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
             Content-Length: 0\r\nX-Forwarded-For: {from}\r\n{lines}\r\n"
        )
    }
}

pub(crate) async fn asked(addr: SocketAddr, text: &str) -> Answer {
    Answer::parse(&talk(addr, text).await)
}
