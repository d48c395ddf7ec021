//! The configurations of `integrations/`, each in its real proxy, before one gate: the same requests
//! have the same outcome as at the gate itself, or a difference that `table` lists.
//!
//! `cases` has the requests, `stage` the center, the gate, and the upstream that says what it saw,
//! `proxies` starts each proxy with the file of the repository, and `relay` counts the connections
//! from a proxy to the gate.

mod cases;
mod outcome;
mod proxies;
mod quota;
mod relay;
mod same;
mod stage;
mod table;
mod traefik;
mod unavailable;
mod upstream;
