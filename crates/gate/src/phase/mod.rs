//! The life of a request: one list of phases, one file each.
//!
//! ```text
//! accept > route > limit by address > identify > limit by principal > decide > forward > record
//! ```
//!
//! A browser's preflight leaves the list after the limit by address: it has no credentials
//! ([`preflight`]).
//!
//! A phase takes the request at one stage and gives it back at the next ([`stage`]), or refuses it
//! with all that is known by then. [`live`] is the list; nothing else calls a phase, but for the
//! wait of `revision`, which lets a request through the first ones, and then begins anew.

pub(crate) mod accept;
pub(crate) mod context;
pub(crate) mod decide;
pub(crate) mod forward;
pub(crate) mod identify;
pub(crate) mod limit_address;
pub(crate) mod limit_principal;
pub(crate) mod preflight;
pub(crate) mod record;
pub(crate) mod refusal;
pub(crate) mod revision;
pub(crate) mod route;
pub(crate) mod stage;
pub(crate) mod undecided;
pub(crate) mod upstream_headers;
pub(crate) mod wanted;
pub(crate) mod worker;

use hyper::body::Incoming;

use self::preflight::Turn;
use self::record::{Answered, Outcome};
use self::revision::Behind;
use self::stage::{Arrived, Refused};

/// The list.
async fn phases(arrived: Box<Arrived>, body: Incoming) -> Result<Outcome, Box<Refused>> {
    let accepted = accept::run(arrived)?;
    let accepted = match Behind::of(accepted) {
        Ok(accepted) => accepted,
        // Boxed: it is the rare case.
        Err(behind) => Box::pin(behind.wait()).await?,
    };
    let routed = limit_address::run(route::run(accepted))?;
    let allowed = match preflight::run(routed) {
        Turn::Ordinary(routed) => {
            let identified = identify::run(routed).await?;
            let admitted = limit_principal::run(identified)?;
            decide::run(admitted)?
        }
        Turn::Answered(preflight) => return Ok(Outcome::Preflight(preflight)),
        Turn::Undecided(allowed) => *allowed,
    };
    forward::run(allowed, body).await.map(Outcome::Forwarded)
}

/// A request's whole life, from its head to its answer's head.
pub(crate) async fn live(arrived: Box<Arrived>, body: Incoming) -> Answered {
    record::run(phases(arrived, body).await)
}
