//! What an upstream is told of a caller under a signature, so that it need not trust the network.

use http::HeaderValue;

use super::stage::Admitted;
use crate::message::problem::{Kind, Problem};

/// The assertion, where the service wants one.
pub(super) fn by(admitted: &Admitted) -> Result<Option<HeaderValue>, Problem> {
    let identity = &admitted.identified.identity;
    if !admitted.found().service.asserts || admitted.found().cross.preflight {
        return Ok(None);
    }
    let (worker, served) = (&admitted.arrived().worker, &admitted.entry().served);
    // The upstream refuses what is not signed, and what is signed with a key that it cannot find.
    let cannot = |detail| Problem::new(Kind::NoIdentity, detail).reason("assertion");
    let Some(signer) = worker.common.keyring.signer() else {
        return Err(cannot("the center has not published the key of the gate's assertions yet"));
    };
    let now = keepgate_observe::unix_s();
    let Some((value, is_new)) = served.assertion(&signer, &identity.principal, now) else {
        return Err(cannot("the gate cannot sign"));
    };
    if is_new {
        worker.metrics.assertion_signed.add(1);
    }
    Ok(Some(value))
}
