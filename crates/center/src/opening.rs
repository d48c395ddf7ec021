//! Which store a center opens: that of its data directory, or that of a database.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::store::{Address, Fault, PostgresStore, SqliteStore, Standing, Store, StoreError};

/// Opens the store of a data directory, or of a database; true: this made it. Blocks.
pub(crate) fn open_store(
    dir: &Path,
    database: Option<&Address>,
) -> Result<(Arc<dyn Store>, bool), StoreError> {
    let Some(address) = database else {
        let store = SqliteStore::open(dir)?;
        let first = store.is_first();
        return Ok((Arc::new(store), first));
    };
    let file = dir.join("center.db");
    if file.exists() {
        // Whoever means to move it must not begin with nothing.
        return Err(refused(
            Fault::Mixed,
            file.display().to_string(),
            "a data directory without a store, beside a database",
            "a store".to_owned(),
            format!(
                "move it (`keepgate center move --from {} --to URL`), or name another directory with \
                 --data",
                dir.display()
            ),
        ));
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| {
        StoreError::Io { what: "create", path: dir.display().to_string(), source }
    })?;
    let store = PostgresStore::open(address)?;
    let standing = store.read()?.meta()?.standing;
    if let Standing::Retired { to } = standing {
        return Err(refused(
            Fault::Retired,
            address.to_string(),
            "a store that serves",
            format!("one that was moved to {to}"),
            "start the center there; this one must not serve again".to_owned(),
        ));
    }
    let first = store.is_first();
    Ok((Arc::new(store), first))
}

fn refused(
    fault: Fault,
    file: String,
    expected: &str,
    found: String,
    way_out: String,
) -> StoreError {
    StoreError::Refused { fault, file, expected: expected.to_owned(), found, way_out }
}
