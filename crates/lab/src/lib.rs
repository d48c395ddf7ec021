//! The incident, reproduced in network namespaces, and each remedy shown to work.
//!
//! A *run* plays one or more *arms*: the naive subsystem as it was (a new connection to the
//! center per request, no cache, no limit), each remedy alone, and all of them together, which
//! is the gate. Users ask at a fixed rate; after a while a crawler joins. What users got, what
//! the kernel counted and what `keepgate doctor` said is recorded each second.
//!
//! The real executable is center, gate and doctor; the subsystem and the callers are the *actors*
//! of this crate, each in a process and a namespace of its own. The lab deliberately knows no
//! more of the product than its command line. Units: seconds since the arm began (`t`),
//! microseconds for latencies.
//!
//! INVARIANT: no namespace has a name and every child dies with its parent, so the kernel
//! removes all of it when a run ends, however it ends.

pub mod actor;
pub mod arm;
pub mod assertion;
pub mod child;
pub mod demo;
pub mod net;
pub mod report;
pub mod run;
pub mod stage;

pub use arm::Arm;
pub use report::LabReport;
pub use run::{LabPlan, Progress, run};
