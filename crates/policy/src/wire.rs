//! The bytes of snapshots and deltas, and their JSON bodies.
