//! Why a gate does not start, or does not go on.

use keepgate_client::dial::TargetError;
use keepgate_client::pool::GroupError;
use keepgate_client::replica;
use keepgate_serve::descriptors::TooFew;

use super::listen::ListenError;
use super::takeover::TakeoverError;

/// Why a gate cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting that makes no sense.
    #[error("`{setting}`: {reason}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A table of the configuration that makes no sense.
    #[error("{table}: {reason}")]
    Named {
        /// As it is written in the file.
        table: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The limit of open descriptors is not known.
    #[error("the limit of open descriptors cannot be read")]
    Limit(#[source] std::io::Error),
    /// There are too few descriptors.
    #[error("the gate cannot serve with so few descriptors")]
    Descriptors(#[source] TooFew),
    /// The upstream's URL.
    #[error("the upstream's URL cannot be used")]
    Upstream(#[source] TargetError),
    /// Its addresses, or what is to be done with them.
    #[error("{table}: the upstream cannot be used")]
    Group {
        /// As it is written in the file, or the flag.
        table: String,
        /// What is wrong.
        #[source]
        source: GroupError,
    },
    /// The gate before this one.
    #[error("the gate cannot take another one's place")]
    Takeover(#[source] TakeoverError),
    /// A listener.
    #[error("the gate cannot listen")]
    Listen(#[source] ListenError),
    /// The certificate or key toward callers.
    #[error(transparent)]
    Tls(#[from] keepgate_serve::TlsError),
    /// The directory of certificates by ACME.
    #[error(transparent)]
    Acme(#[from] super::acme::DirectoryError),
    /// The access log.
    #[error("the access log cannot be written")]
    Records(#[source] keepgate_record::OpenError),
    /// The center cannot be followed.
    #[error("the center cannot be followed")]
    Follow(#[source] replica::StartError),
}

/// Why a gate stopped without being told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not take the place of another gate, or cannot be replaced by another.
    #[error("the gate cannot take another one's place")]
    Takeover(#[source] TakeoverError),
    /// A worker could not start, or ended.
    #[error("worker {worker} failed")]
    Worker {
        /// Its number.
        worker: usize,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
