//! Reads `[upstream.NAME]`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use keepgate_client::dial::Endpoint;
use keepgate_client::pool::{PoolConfig, Protocol, Sticky};
use toml::Spanned;
use toml::de::DeValue;

use super::super::setting::UPSTREAM;
use super::super::sites::{ADDRESSES, SOURCES, UpstreamConfig, UpstreamHost, UpstreamTls};
use super::{Members, NAME_BYTES, Reader, address, is_cookie_name};

impl Reader<'_> {
    pub(super) fn upstream(
        &mut self,
        name: &str,
        value: &Spanned<DeValue<'_>>,
        pool: &PoolConfig,
    ) -> Option<UpstreamConfig> {
        let mut members = self.members(format!("[upstream.{name}]"), value)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > NAME_BYTES || !name.bytes().all(plain) {
            let wrong = format!(
                "expected a name of 1 to {NAME_BYTES} letters, digits and `-_.`, got `{name}`"
            );
            self.fault(members.at, &members.shown, "", wrong);
        }
        let addresses = self.addresses(&mut members);
        let protocol = self.one_of(
            &mut members,
            "protocol",
            &[("auto", Protocol::Auto), ("http1", Protocol::Http1), ("http2", Protocol::Http2)],
        );
        let host = self.one_of(
            &mut members,
            "host",
            &[
                ("auto", UpstreamHost::Auto),
                ("caller", UpstreamHost::Caller),
                ("upstream", UpstreamHost::Upstream),
            ],
        );
        let tls = self.upstream_tls(&mut members, addresses.as_ref().is_some_and(|(_, tls)| *tls));
        let mut pool = pool.clone();
        for setting in UPSTREAM {
            if let Some(value) = self.setting(&mut members, setting) {
                (setting.write)(&mut pool, value);
            }
        }
        let sources = self.sources(&mut members);
        let sticky = self.sticky(&mut members);
        let check = self.text(&mut members, "check_path").map(|(path, at)| {
            if !path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err() {
                let wrong = format!("expected a path such as `/healthz`, got `{path}`");
                self.fault(at, &members.shown, "check_path", wrong);
            }
            path
        });
        let mut known = vec![
            "addresses",
            "protocol",
            "host",
            "tls",
            "sources",
            "sticky_header",
            "sticky_cookie",
            "check_path",
        ];
        known.extend(UPSTREAM.iter().map(|setting| setting.name));
        self.end(members, &known);
        Some(UpstreamConfig {
            name: name.to_owned(),
            addresses: addresses.map(|(addresses, _)| addresses).unwrap_or_default(),
            protocol: protocol.unwrap_or_default(),
            host: host.unwrap_or_default(),
            tls,
            pool,
            sources,
            sticky,
            check,
        })
    }

    /// The local addresses from which connections are opened.
    fn sources(&mut self, members: &mut Members<'_, '_>) -> Vec<IpAddr> {
        let Some((texts, at)) = self.texts(members, "sources") else { return Vec::new() };
        let shown = members.shown.clone();
        if texts.len() > SOURCES {
            let wrong = format!("expected at most {SOURCES} addresses, got {}", texts.len());
            self.fault(at, &shown, "sources", wrong);
        }
        let mut sources = Vec::new();
        for (text, at) in texts.iter().take(SOURCES) {
            match text.parse::<IpAddr>() {
                Ok(ip) if ip.is_unspecified() || ip.is_multicast() => {
                    let wrong = format!("expected an address of this host, got `{text}`");
                    self.fault(*at, &shown, "sources", wrong);
                }
                Ok(ip) if sources.contains(&ip) => {
                    let wrong = format!("`{text}` is there twice; leave one");
                    self.fault(*at, &shown, "sources", wrong);
                }
                Ok(ip) => sources.push(ip),
                Err(_) => {
                    let wrong = format!("expected an IP address of this host, got `{text}`");
                    self.fault(*at, &shown, "sources", wrong);
                }
            }
        }
        sources
    }

    /// What keeps callers at one address.
    fn sticky(&mut self, members: &mut Members<'_, '_>) -> Option<Sticky> {
        let header = self.text(members, "sticky_header").and_then(|(name, at)| {
            let parsed = name.parse().ok();
            if parsed.is_none() {
                let wrong = format!("expected the name of a header, got `{name}`");
                self.fault(at, &members.shown, "sticky_header", wrong);
            }
            parsed.map(Sticky::Header)
        });
        let cookie = self.text(members, "sticky_cookie").map(|(name, at)| {
            if !is_cookie_name(&name) {
                let wrong = format!("expected the name of a cookie, got `{name}`");
                self.fault(at, &members.shown, "sticky_cookie", wrong);
            }
            if header.is_some() {
                let wrong = "contradicts `sticky_header`; leave one of them out".to_owned();
                self.fault(at, &members.shown, "sticky_cookie", wrong);
            }
            Sticky::Cookie(name)
        });
        header.or(cookie)
    }

    /// The addresses, and whether they ask for TLS.
    fn addresses(&mut self, members: &mut Members<'_, '_>) -> Option<(Vec<Endpoint>, bool)> {
        let (texts, at) = self.texts(members, "addresses")?;
        let shown = members.shown.clone();
        if texts.is_empty() || texts.len() > ADDRESSES {
            let wrong = format!("expected 1 to {ADDRESSES} addresses, got {}", texts.len());
            self.fault(at, &shown, "addresses", wrong);
        }
        let (mut found, mut schemes) = (Vec::new(), BTreeSet::new());
        for (text, at) in texts.iter().take(ADDRESSES) {
            match address(text) {
                Ok((endpoint, scheme)) => {
                    schemes.extend(scheme);
                    if found.contains(&endpoint) {
                        let wrong = format!("`{text}` is there twice; leave one");
                        self.fault(*at, &shown, "addresses", wrong);
                    }
                    found.push(endpoint);
                }
                Err(wrong) => self.fault(*at, &shown, "addresses", wrong),
            }
        }
        if schemes.len() > 1 {
            let wrong = "expected all addresses with TLS or all without, got http and https; make \
                         two upstreams of them";
            self.fault(at, &shown, "addresses", wrong.to_owned());
        }
        Some((found, schemes.contains("https")))
    }

    fn upstream_tls(
        &mut self,
        members: &mut Members<'_, '_>,
        is_asked: bool,
    ) -> Option<UpstreamTls> {
        let Some(value) = members.left.remove("tls") else {
            return is_asked.then(UpstreamTls::default);
        };
        let at = value.span().start;
        if let DeValue::Boolean(on) = value.get_ref() {
            if !on && is_asked {
                let wrong = "`false` contradicts the `https` addresses; leave one of them out";
                self.fault(at, &members.shown, "tls", wrong.to_owned());
            }
            return on.then(UpstreamTls::default);
        }
        let mut inner = self.members(format!("{}, `tls`", members.shown), value)?;
        let ca = self.path(&mut inner, "ca");
        let client = self.pair(&mut inner);
        let server_name = self.text(&mut inner, "server_name").map(|(text, at)| {
            match keepgate_policy::host::normal(&text) {
                Ok((name, None)) => name.into_owned(),
                _ => {
                    let wrong = format!("expected a host name without a port, got `{text}`");
                    self.fault(at, &inner.shown, "server_name", wrong);
                    text
                }
            }
        });
        self.end(inner, &["ca", "cert", "key", "server_name"]);
        Some(UpstreamTls { ca, client, server_name })
    }
}
