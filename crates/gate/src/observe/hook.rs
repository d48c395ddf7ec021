//! The ways in which other proxies ask, as labels.

/// How a proxy asks about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Hook {
    /// Envoy's `ext_authz` over gRPC.
    EnvoyGrpc,
    /// Envoy's `ext_authz` over HTTP.
    EnvoyHttp,
    /// nginx's `auth_request`.
    Auth,
    /// Caddy's `forward_auth`, Traefik's `ForwardAuth`.
    ForwardAuth,
    /// Envoy's rate limit service, which asks about limits alone.
    RateLimit,
    /// AuthZEN, which asks about no request.
    Authzen,
}

impl Hook {
    /// In the order of their numbers.
    pub(crate) const ALL: &'static [Hook] = &[
        Hook::EnvoyGrpc,
        Hook::EnvoyHttp,
        Hook::Auth,
        Hook::ForwardAuth,
        Hook::RateLimit,
        Hook::Authzen,
    ];

    /// The metric label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Hook::EnvoyGrpc => "ext_authz_grpc",
            Hook::EnvoyHttp => "ext_authz_http",
            Hook::Auth => "auth",
            Hook::ForwardAuth => "forward_auth",
            Hook::RateLimit => "rate_limit",
            Hook::Authzen => "authzen",
        }
    }

    /// The proxy forwards the path that it is given in place of the one that came.
    pub(crate) fn takes_path(self) -> bool {
        self == Hook::EnvoyGrpc
    }

    /// The proxy passes any answer on to the caller, also one that is a success. To the others every
    /// 2xx means that the request may go on.
    pub(crate) fn takes_answers(self) -> bool {
        matches!(self, Hook::EnvoyGrpc | Hook::EnvoyHttp)
    }
}
