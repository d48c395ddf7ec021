//! The gate as a program: it binds, accepts, serves connections, and stops.
//!
//! `gate` is the beginning and the end (`failure`: a bad one), `check` and `sites` make services,
//! upstreams and certificates of a configuration, `thread` is one worker's thread, `listen` accepts,
//! `connection` finds out the protocol and serves requests by `phase`, plain ones of HTTP/1.1 by `http1`,
//! and `tunnel` carries WebSockets.
//! Beside them run `admin`, `doctor`, which looks at the gate's own `ports`, and `revoke`, which decides open exchanges again. What they share is the
//! `front`; how far the end has come is its `life`. `takeover` passes listeners to the next process
//! (`rights`), `reload` reads certificates anew, `acme` obtains them, and
//! `assertions` keeps the key that signs what upstreams are told.

pub(crate) mod acme;
pub(crate) mod admin;
mod anchors;
mod assertions;
pub(crate) mod check;
pub(crate) mod connection;
mod doctor;
pub(crate) mod failure;
mod follow;
pub(crate) mod front;
pub(crate) mod gate;
mod http1;
pub(crate) mod life;
pub(crate) mod listen;
mod ports;
pub(crate) mod reload;
pub(crate) mod revoke;
pub(crate) mod rights;
pub(crate) mod sites;
pub(crate) mod takeover;
pub(crate) mod thread;
mod told;
pub(crate) mod tunnel;
mod upstream;
