//! What servers share: descriptors, places for connections, TLS material.
//!
//! - [`descriptors`]: raises the soft limit of open descriptors and divides what there is
//!   between callers, the upstream, the center and the program's own needs.
//! - [`certificate`]: what a client certificate says of its holder.
//! - [`retry`]: how long a caller waits after a refusal.
//! - [`places`]: who may hold how many connections, and which one gives way to the next.
//! - [`Certificates`]: the certificates and keys of a listener, by name, and the authorities of
//!   callers' certificates; an error names the file at fault.
//!
//! It names no other crate of Keepgate, accepts no connection and reads no clock: every call
//! that depends on time takes milliseconds on the caller's own monotonic clock. The one system
//! call it makes is the one about the limit of descriptors.

pub mod certificate;
pub mod descriptors;
pub mod places;
pub mod retry;
mod tls;

pub use descriptors::{DescriptorLimit, Needs, Shares, raise_limit};
pub use places::{Busy, Network, Place, Places, PlacesConfig, Refused, Seat};
pub use retry::Outages;
pub use tls::{ACME_TLS, Certificates, ClientCas, Issued, Loaded, TlsError, TlsFiles};
