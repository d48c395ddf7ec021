//! What changes of a replica while it follows: its credentials, and whether it keeps its state on
//! disk.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::center::Center;
use super::centers::Centers;
use super::error::StartError;
use super::{FollowConfig, MAX_CENTERS, Replica};
use crate::dial::{Target, TlsSettings};

/// Where new credentials wait until the follower connects anew.
#[derive(Default)]
pub(super) struct Renewal {
    next: Mutex<Option<Centers>>,
    lets_go: AtomicBool,
    told: Notify,
}

impl Renewal {
    pub(super) fn take(&self) -> Option<Centers> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether there are other credentials, so that a refusal of the old ones is no alarm.
    pub(super) fn is_waiting(&self) -> bool {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Whether the data directory is another's now.
    pub(super) fn lets_go(&self) -> bool {
        self.lets_go.load(Ordering::Acquire)
    }

    /// Ends when something has changed.
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }
}

impl Replica {
    /// Takes the token, the roots, the client certificate and the sources of this configuration, which
    /// otherwise must be the one that the replica was made with. They are used from the next connection
    /// on; a connection that is up stays. If the center refused the old ones, the next attempt follows
    /// at once.
    ///
    /// # Errors
    /// As [`Replica::follow`]; the old credentials stay then.
    pub fn renew(&self, config: &FollowConfig) -> Result<(), StartError> {
        let centers = centers(config)?;
        let renewal = &self.shared.renewal;
        *renewal.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(centers);
        // Kept until the next pause, if there is none now.
        renewal.told.notify_one();
        Ok(())
    }
}

impl Replica {
    /// Lets go of the data directory, for another process that takes it. From now on this replica keeps
    /// its state in memory alone. The directory is free soon after: within a second while the center
    /// is heard.
    pub fn let_go_of_data_dir(&self) {
        self.shared.renewal.lets_go.store(true, Ordering::Release);
        self.shared.renewal.told.notify_one();
    }
}

/// The centers of a configuration, not connected yet.
pub(super) fn centers(config: &FollowConfig) -> Result<Centers, StartError> {
    if config.centers.len() > MAX_CENTERS {
        return Err(StartError::TooManyCenters(config.centers.len()));
    }
    let mut tls: Option<Arc<TlsSettings>> = None;
    let mut centers: Vec<Center> = Vec::with_capacity(config.centers.len());
    for url in &config.centers {
        let mut target = Target::from_url(url, || {
            // Read once: all of them share it.
            if let Some(read) = &tls {
                return Ok(Arc::clone(read));
            }
            let read = TlsSettings::new(&config.roots, config.identity.as_ref(), &["h2"])?;
            Ok(Arc::clone(tls.insert(Arc::new(read))))
        })
        .map_err(StartError::Center)?;
        if !config.allow_plain && !target.is_private() {
            return Err(StartError::Plain { url: url.clone() });
        }
        target.sources.clone_from(&config.sources);
        if let Some(other) = centers.iter().find(|other| other.target().place == target.place) {
            return Err(StartError::Twice { url: url.clone(), other: other.url().to_owned() });
        }
        let center = Center::new(url, target, config.dialer.clone(), &config.token);
        centers.push(center.map_err(|_| StartError::Token)?);
    }
    Centers::new(centers).ok_or(StartError::NoCenter)
}
