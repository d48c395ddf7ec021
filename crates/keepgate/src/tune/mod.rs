//! Changes host settings so that it cannot hurt: a journal before the first write, a watcher
//! that takes everything back unless somebody confirms, and an undo that restores bytes.
//!
//! What to change is decided by `keepgate_ports::tune`, which writes nothing.

pub(crate) mod apply;
pub(crate) mod folder;
pub(crate) mod journal;
pub(crate) mod lasting;
pub(crate) mod settings;
pub(crate) mod watch;
