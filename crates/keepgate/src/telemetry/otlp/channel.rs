//! The connection to a receiver: opened by our own dialer, with our own TLS.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use keepgate_client::dial::{DialError, Dialer, Identity, Roots, Stream, Target, TlsSettings};
use tonic::transport::{Channel, Endpoint, Uri};

use super::settings::Receiver;
use crate::exit::usage;

/// A channel that connects when something is sent. Must be called on the runtime that is to drive it.
pub(super) fn open(receiver: &Receiver) -> anyhow::Result<Channel> {
    let Receiver { variable, url, ca, client, timeout, .. } = receiver;
    let identity = match client {
        None => None,
        Some((certificate, key)) => {
            let read = |path: &std::path::Path| {
                std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))
            };
            Some(Identity { chain_pem: read(certificate)?, key_pem: read(key)? })
        }
    };
    let roots = ca.clone().map_or(Roots::System, Roots::File);
    let tls = || TlsSettings::new(&roots, identity.as_ref(), &["h2"]).map(Arc::new);
    let target = Target::from_url(url, tls)
        .map_err(|error| usage(format!("{variable}: {}", keepgate_observe::chain(&error))))?;
    let wrong =
        |_| usage(format!("{variable}: expected a URL such as http://host:4317, got `{url}`"));
    // TLS is ours, beneath the channel, which is told of plain HTTP; requests have the URL's own scheme.
    let origin: Uri = match url.starts_with("unix:") {
        true => Uri::from_static("http://localhost"),
        false => url.parse().map_err(|_| wrong(()))?,
    };
    let place = format!("http://{}", origin.authority().map_or("localhost", |it| it.as_str()));
    let endpoint = Endpoint::from_shared(place).map_err(|_| wrong(()))?;
    let connector = Connector { dialer: Dialer::default(), target };
    Ok(endpoint.origin(origin).timeout(*timeout).connect_with_connector_lazy(connector))
}

#[derive(Clone)]
struct Connector {
    dialer: Dialer,
    target: Target,
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Stream>, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Connector { dialer, target } = self.clone();
        Box::pin(async move { Ok(TokioIo::new(dialer.dial(&target).await?.stream)) })
    }
}
