//! What is kept of ACME: the account, and each certificate with its key in one file, so that both are of
//! one moment. Nobody else may read them.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use instant_acme::AccountCredentials;
use keepgate_serve::{TlsError, TlsFiles};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

/// The account's file.
const ACCOUNT: &str = "account.json";
/// Bytes of the account's file at most.
const MAX_ACCOUNT: u64 = 64 * 1024;

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be made, or a file in it cannot be read or written.
    #[error("cannot use `{path}` for certificates by ACME")]
    Io {
        /// The file or directory.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The account's file does not hold one.
    #[error("`{path}` holds no account; remove it, and a new account is made")]
    Account {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// What the authority has sent cannot be used.
    #[error(transparent)]
    Certificate(#[from] TlsError),
}

/// See the module.
pub(super) struct Directory {
    path: PathBuf,
}

/// An account with the authority that it is known to.
#[derive(Deserialize)]
struct Held {
    directory: String,
    account: AccountCredentials,
}

/// As [`Held`].
#[derive(Serialize)]
struct Kept<'a> {
    directory: &'a str,
    account: &'a AccountCredentials,
}

impl Directory {
    pub(super) fn open(path: &Path) -> Result<Directory, DirectoryError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| io(path, source))?;
        Ok(Directory { path: path.to_owned() })
    }

    /// The account with an authority; none: there is none yet.
    pub(super) fn account(&self, url: &str) -> Result<Option<AccountCredentials>, DirectoryError> {
        use std::io::Read as _;
        let path = self.path.join(ACCOUNT);
        let mut text = Vec::new();
        let read = std::fs::File::open(&path)
            .and_then(|file| file.take(MAX_ACCOUNT).read_to_end(&mut text));
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io(&path, source)),
            Ok(_) => {}
        }
        let held: Held = serde_json::from_slice(&text).map_err(|source| {
            DirectoryError::Account { path: path.display().to_string(), source }
        })?;
        // Another authority does not know it.
        Ok((held.directory == url).then_some(held.account))
    }

    pub(super) fn keep_account(
        &self,
        url: &str,
        account: &AccountCredentials,
    ) -> Result<(), DirectoryError> {
        let path = self.path.join(ACCOUNT);
        let text = serde_json::to_vec(&Kept { directory: url, account }).map_err(|source| {
            DirectoryError::Account { path: path.display().to_string(), source }
        })?;
        let new = write(&path, &text)?;
        take(&new, &path)
    }

    /// The certificate that is kept for a name; none: there is no file.
    pub(super) fn certificate(&self, host: &str) -> Option<Result<CertifiedKey, TlsError>> {
        let path = self.path(host);
        path.exists().then(|| files(&path).certified_key())
    }

    /// Keeps a certificate and its key, and gives them as they are read again.
    pub(super) fn keep(
        &self,
        host: &str,
        certificates: &str,
        key: &str,
    ) -> Result<CertifiedKey, DirectoryError> {
        let path = self.path(host);
        let new = write(&path, format!("{certificates}\n{key}").as_bytes())?;
        // What cannot be used does not take the place of what can.
        let certified = files(&new).certified_key()?;
        take(&new, &path)?;
        Ok(certified)
    }

    fn path(&self, host: &str) -> PathBuf {
        self.path.join(format!("{host}.pem"))
    }
}

/// Certificate and key are in one file.
fn files(path: &Path) -> TlsFiles {
    TlsFiles { cert: path.to_owned(), key: path.to_owned() }
}

fn io(path: &Path, source: std::io::Error) -> DirectoryError {
    DirectoryError::Io { path: path.display().to_string(), source }
}

/// Writes what is to take the place of a file beside it, with mode 0600.
fn write(path: &Path, content: &[u8]) -> Result<PathBuf, DirectoryError> {
    let new = path.with_extension("new");
    let written = || {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        file.sync_all()
    };
    written().map_err(|source| io(&new, source))?;
    Ok(new)
}

/// Puts a new file in the place of the old one, if there is one.
fn take(new: &Path, path: &Path) -> Result<(), DirectoryError> {
    let taken = || {
        std::fs::rename(new, path)?;
        std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    taken().map_err(|source| io(path, source))
}
