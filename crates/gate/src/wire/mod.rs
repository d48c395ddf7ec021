//! What happens to bytes before they are a request: deadlines, framing, the client's address.
//!
//! `head` and `chunk` are pure and read HTTP/1 framing; `guard` puts them, and every deadline,
//! between a socket and hyper; [`h2`] sees what hyper hides; [`proxy_protocol`] reads the header a
//! load balancer sends; `stream` is the socket itself, plain or TLS; `peer` is who is at its other
//! end.

pub(crate) mod chunk;
pub(crate) mod guard;
pub mod h2;
pub(crate) mod head;
mod hpack;
pub(crate) mod peer;
pub mod proxy_protocol;
pub(crate) mod stream;
pub(crate) mod websocket;
