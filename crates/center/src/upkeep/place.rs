//! Where a store is, for commands that work on either engine.

use std::path::{Path, PathBuf};

use super::{UpkeepError, of_store};
use crate::store::{Address, PostgresStore, Reading, SqliteStore, Store, StoreError};

/// Where a store is.
#[derive(Clone, Debug)]
pub enum Place {
    /// SQLite, in a data directory.
    Dir(PathBuf),
    /// PostgreSQL.
    Database {
        /// The database and its schema.
        address: Box<Address>,
        /// Where `admin.token` is written to, where a new one is needed.
        data: PathBuf,
    },
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Dir(dir) => dir.display().fmt(f),
            Place::Database { address, .. } => address.fmt(f),
        }
    }
}

impl From<&Path> for Place {
    fn from(dir: &Path) -> Place {
        Place::Dir(dir.to_owned())
    }
}

impl Place {
    /// What starts a center on it.
    pub fn start_command(&self) -> String {
        match self {
            Place::Dir(dir) => format!("keepgate center --data {}", dir.display()),
            Place::Database { .. } => "keepgate center --database URL".to_owned(),
        }
    }

    /// Reads what is there at one revision, while centers may serve it.
    pub(super) fn peek(
        &self,
        work: &mut dyn FnMut(&dyn Reading) -> Result<(), StoreError>,
    ) -> Result<(), UpkeepError> {
        match self {
            Place::Dir(dir) => SqliteStore::peek(dir, work).map_err(of_store(self)),
            Place::Database { address, .. } => {
                let store = self.attach(address)?.ok_or_else(|| self.no_store())?;
                store.read().and_then(|reading| work(reading.as_ref())).map_err(of_store(self))
            }
        }
    }

    /// The store in a database; none: there is none.
    pub(super) fn attach(&self, address: &Address) -> Result<Option<PostgresStore>, UpkeepError> {
        PostgresStore::attach(address).map_err(of_store(self))
    }

    /// The store in a database that no center runs on.
    pub(super) fn alone(&self, address: &Address) -> Result<PostgresStore, UpkeepError> {
        let store = self.attach(address)?.ok_or_else(|| self.no_store())?;
        // This one counts as well.
        let running = store.centers().map_err(of_store(self))?.saturating_sub(1);
        if running > 0 {
            return Err(UpkeepError::Unfit(format!(
                "expected no center that runs on {self}, found {running}: stop them, wait ten seconds, \
                 and try again"
            )));
        }
        Ok(store)
    }

    pub(super) fn no_store(&self) -> UpkeepError {
        UpkeepError::Unfit(format!(
            "expected a store, found none in {self}: `{}` makes a new one",
            self.start_command()
        ))
    }
}
