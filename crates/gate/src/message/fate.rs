//! What becomes of a caller's body, told to those who answer its request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::uploads::Upload;
use crate::exchange::cut::Cut;

/// What became of a caller's body; tells the caller's faults from the upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub(crate) enum BodyFault {
    /// Badly framed, or broken off.
    #[error("the request body could not be read")]
    Broken = 1,
    /// Over the bound.
    #[error("the request body is over the gate's bound")]
    TooLarge = 2,
    /// Nothing came.
    #[error("nothing of the request body arrived for too long")]
    Idle = 3,
    /// Under the least rate.
    #[error("the request body arrives too slowly")]
    TooSlow = 4,
    /// Others wait for the connection that it holds.
    #[error("the request body was the slowest while others waited for a connection")]
    Pressure = 5,
}

impl BodyFault {
    /// The bound that cut it, if one did.
    pub(crate) fn cut(self) -> Option<Cut> {
        match self {
            BodyFault::Broken | BodyFault::TooLarge => None,
            BodyFault::Idle => Some(Cut::BodyIdle),
            BodyFault::TooSlow => Some(Cut::BodyRate),
            BodyFault::Pressure => Some(Cut::BodyPressure),
        }
    }
}

/// Where a body says what became of it, and hears that its answer has begun.
#[derive(Debug)]
pub(crate) struct BodyFate {
    fault: AtomicU8,
    /// Bytes that came.
    got: AtomicU64,
    upload: Arc<Upload>,
}

impl BodyFate {
    pub(super) fn new(upload: Arc<Upload>) -> BodyFate {
        BodyFate { fault: AtomicU8::new(0), got: AtomicU64::new(0), upload }
    }

    /// So many bytes came so far.
    pub(super) fn took(&self, bytes: u64) {
        self.got.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn fail(&self, fault: BodyFault) -> BodyFault {
        self.fault.store(fault as u8, Ordering::Release);
        fault
    }

    /// The fault, if there was one.
    pub(crate) fn fault(&self) -> Option<BodyFault> {
        use BodyFault::{Broken, Idle, Pressure, TooLarge, TooSlow};
        let code = self.fault.load(Ordering::Acquire);
        [Broken, TooLarge, Idle, TooSlow, Pressure].into_iter().find(|f| *f as u8 == code)
    }

    /// Bytes of it that came so far.
    pub(crate) fn got(&self) -> u64 {
        self.got.load(Ordering::Relaxed)
    }

    /// Whether it may not take its time: its answer has not begun.
    pub(super) fn is_bounded(&self) -> bool {
        self.upload.is_bounded()
    }

    /// The answer has begun: from now on the body may take its time.
    pub(crate) fn answered(&self) {
        self.upload.unbind();
    }
}
