//! A backup: one JSON object a line, so that any engine can restore it and a person can read it.
//!
//! The first line says what it is, the last one how many rows came and the SHA-256 of every byte
//! before it. Bodies are the canonical JSON texts, so that digests can be computed again.
//! It holds token and key hashes, and the private keys with which access logs are signed: the file is
//! made with mode 0600.
//!
//! INVARIANT: [`read`] returns rows only if the checksum, the numbers, and the digests of all
//! scopes, tokens and tombstones are those announced.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use keepgate_policy::{Digest, HistoryId, Item, ItemKey, Kind, Revision};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::desk::verify::State;
use crate::store::{
    APPLY, AuditRow, AuditState, Brought, LogHeadRow, LogKeyRow, Origin, Reading, Row, StoreError,
    SumRow, TokenRow, Tombstone, unsaid,
};
use crate::token::{Role, hex};

/// What the first line says.
const NAME: &str = "keepgate-backup";
const VERSION: u32 = 1;
/// The longest line: the largest item, each byte of it escaped, and room for the rest.
const LINE_BYTES: u64 = 6 * keepgate_policy::wire::MAX_ITEM_BYTES as u64 + (1 << 20);
/// Audit rows read at once.
const AUDIT_ROWS: usize = 1000;

/// A file that is no backup, or could not be made one.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Reading or writing failed.
    #[error("cannot {what} it")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store failed meanwhile.
    #[error("cannot read the store")]
    Store(#[from] StoreError),
    /// It is not what a backup is.
    #[error("line {line}: expected {expected}, found {found}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What should be there.
        expected: String,
        /// What is.
        found: String,
    },
    /// Bytes were altered or are missing.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> BackupError {
    move |source| BackupError::Io { what, source }
}

/// How many rows of each sort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    /// Items.
    pub items: u64,
    /// Tokens, revoked ones included.
    pub tokens: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Rows of the audit log.
    pub audit: u64,
    /// Whether it says which audit log it is: 1. 0: it is of an earlier release.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub audit_logs: u64,
    /// Keys with which access logs are signed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub log_keys: u64,
    /// Access logs of which something was signed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub log_heads: u64,
}

/// What a backup says and holds.
#[derive(Clone, Debug)]
pub(crate) struct Backup {
    pub(crate) history: HistoryId,
    pub(crate) ancestors: Vec<HistoryId>,
    pub(crate) revision: Revision,
    pub(crate) items: Vec<Row>,
    pub(crate) tokens: Vec<TokenRow>,
    pub(crate) tombstones: Vec<Tombstone>,
    pub(crate) audit: Vec<AuditRow>,
    /// Where the audit log stood; none: in an earlier release it has no chain.
    pub(crate) audit_log: Option<AuditLog>,
    pub(crate) log_keys: Vec<LogKeyRow>,
    pub(crate) log_heads: Vec<LogHeadRow>,
    /// See [`crate::store::Meta::authzen_together`].
    pub(crate) authzen_together: bool,
}

/// Which audit log a store has, without its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuditLog {
    pub(crate) log: [u8; 16],
    pub(crate) removed_through: u64,
    pub(crate) removed_chain: [u8; 32],
    /// The last row, and the chain there.
    pub(crate) seq: u64,
    pub(crate) chain: [u8; 32],
}

impl From<AuditState> for AuditLog {
    fn from(state: AuditState) -> AuditLog {
        let AuditState { log, removed_through, removed_chain, seq, chain, .. } = state;
        AuditLog { log, removed_through, removed_chain, seq, chain }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: String,
    version: u32,
    release: String,
    unix_ms: u64,
    history: String,
    ancestors: Vec<String>,
    revision: u64,
    chain: String,
    /// None in backups of earlier releases, where all services decide together.
    #[serde(default)]
    authzen_together: Option<bool>,
    /// Whether items say who brought them; those of earlier releases do not.
    #[serde(default)]
    origins: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Item {
        service: String,
        kind: Kind,
        id: String,
        body: String,
        revision: u64,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        source: String,
        #[serde(default = "one", skip_serializing_if = "is_one")]
        needs: u32,
        #[serde(default = "files", skip_serializing_if = "is_files")]
        brought: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base: Option<String>,
    },
    Token {
        id: String,
        role: String,
        service: String,
        sha256: String,
        note: String,
        created_unix_s: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_used_unix_s: Option<u64>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        last_used_from: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        revoked_unix_s: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_unix_s: Option<u64>,
    },
    Tombstone {
        service: String,
        kind: Kind,
        id: String,
        revision: u64,
        unix_ms: u64,
        actor: String,
        action: String,
        was: String,
    },
    Audit {
        revision: u64,
        unix_ms: u64,
        actor: String,
        action: String,
        service: String,
        kind: String,
        id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    AuditLog {
        log: String,
        removed_through: u64,
        removed_chain: String,
        seq: u64,
        chain: String,
    },
    /// With the private key: who has it signs in the center's name.
    LogKey {
        id: String,
        seed: String,
        public: String,
        unix_ms: u64,
    },
    LogHead {
        log: String,
        token: String,
        gate: String,
        seq: u64,
        chain: String,
        unix_ms: u64,
    },
    End {
        contents: Contents,
        /// Of all items, tokens and tombstones.
        items_digest: String,
        tokens_digest: String,
        tombstones_digest: String,
        sha256: String,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_one(n: &u32) -> bool {
    *n == 1
}

fn files() -> String {
    Brought::Files.name().to_owned()
}

fn is_files(name: &String) -> bool {
    name == Brought::Files.name()
}

/// Writes with a running checksum.
struct Summed<W> {
    out: W,
    sum: Sha256,
}

impl<W: Write> Summed<W> {
    fn line(&mut self, line: &impl Serialize) -> Result<(), BackupError> {
        let mut text =
            serde_json::to_vec(line).map_err(std::io::Error::from).map_err(io("write"))?;
        text.push(b'\n');
        self.sum.update(&text);
        self.out.write_all(&text).map_err(io("write"))
    }
}

/// Writes a store to a new file, whole or not at all.
pub(super) fn write(
    file: &Path,
    reading: &dyn Reading,
    state: &State,
    unix_ms: u64,
) -> Result<Contents, BackupError> {
    if file.symlink_metadata().is_ok() {
        let source = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
        return Err(BackupError::Io { what: "create", source });
    }
    let draft = file.with_extension("kgbackup.new");
    let _ = std::fs::remove_file(&draft);
    let made = write_draft(&draft, reading, state, unix_ms).and_then(|contents| {
        std::fs::rename(&draft, file).map_err(io("rename"))?;
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = File::open(dir.unwrap_or(Path::new("."))).map_err(io("sync"))?;
        dir.sync_all().map_err(io("sync"))?;
        Ok(contents)
    });
    if made.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    made
}

fn write_draft(
    draft: &Path,
    reading: &dyn Reading,
    state: &State,
    unix_ms: u64,
) -> Result<Contents, BackupError> {
    let out = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(draft)
        .map_err(io("create"))?;
    let mut to = Summed { out: BufWriter::new(out), sum: Sha256::new() };
    to.line(&Head {
        format: NAME.to_owned(),
        version: VERSION,
        release: env!("CARGO_PKG_VERSION").to_owned(),
        unix_ms,
        history: state.meta.history.to_string(),
        ancestors: state.meta.ancestors.iter().map(ToString::to_string).collect(),
        revision: state.head.revision.0,
        chain: hex(&state.head.chain),
        authzen_together: Some(state.meta.authzen_together),
        origins: true,
    })?;
    let mut contents = Contents::default();
    let mut failed = None;
    for scope in state.scopes.keys() {
        reading.each(scope, &mut |row| {
            contents.items += 1;
            keep_first(&mut failed, to.line(&item_line(row)));
            Ok(())
        })?;
    }
    for token in reading.tokens()? {
        contents.tokens += 1;
        to.line(&token_line(token))?;
    }
    reading.tombstones(&mut |tombstone| {
        contents.tombstones += 1;
        keep_first(&mut failed, to.line(&tombstone_line(tombstone)));
        Ok(())
    })?;
    contents.audit_logs = 1;
    to.line(&audit_log_line(reading.audit_state()?.into()))?;
    let mut after = 0;
    loop {
        let rows = reading.audit_after(after, AUDIT_ROWS)?;
        let Some(last) = rows.last() else { break };
        after = last.seq;
        for row in rows {
            contents.audit += 1;
            to.line(&audit_line(row))?;
        }
    }
    for key in reading.log_keys()? {
        contents.log_keys += 1;
        to.line(&log_key_line(key))?;
    }
    for head in reading.log_heads(None, usize::MAX)? {
        contents.log_heads += 1;
        to.line(&log_head_line(head))?;
    }
    if let Some(e) = failed {
        return Err(e);
    }
    let sha256 = hex(&to.sum.clone().finalize());
    to.line(&Line::End {
        contents,
        items_digest: state.digest.to_string(),
        tokens_digest: state.sums.tokens.digest.to_string(),
        tombstones_digest: state.sums.tombstones.digest.to_string(),
        sha256,
    })?;
    let out = to.out.into_inner().map_err(|e| io("write")(e.into_error()))?;
    out.sync_all().map_err(io("sync"))?;
    Ok(contents)
}

fn keep_first(kept: &mut Option<BackupError>, result: Result<(), BackupError>) {
    if let Err(e) = result {
        kept.get_or_insert(e);
    }
}

fn item_line(row: Row) -> Line {
    Line::Item {
        service: row.key.service,
        kind: row.key.kind,
        id: row.key.id,
        body: String::from_utf8_lossy(&row.body).into_owned(),
        revision: row.revision.0,
        source: row.source,
        needs: row.needs,
        brought: row.origin.brought.name().to_owned(),
        base: row.origin.base.map(|base| base.to_string()),
    }
}

fn token_line(row: TokenRow) -> Line {
    Line::Token {
        id: row.id,
        role: row.role.name().to_owned(),
        service: row.service,
        sha256: hex(&row.sha256),
        note: row.note,
        created_unix_s: row.created_unix_s,
        last_used_unix_s: row.last_used_unix_s,
        last_used_from: row.last_used_from,
        revoked_unix_s: row.revoked_unix_s,
        expires_unix_s: row.expires_unix_s,
    }
}

fn tombstone_line(row: Tombstone) -> Line {
    Line::Tombstone {
        service: row.key.service,
        kind: row.key.kind,
        id: row.key.id,
        revision: row.revision.0,
        unix_ms: row.unix_ms,
        actor: row.actor,
        action: row.action,
        was: row.was.to_string(),
    }
}

fn audit_line(row: AuditRow) -> Line {
    Line::Audit {
        revision: row.revision.0,
        unix_ms: row.unix_ms,
        actor: row.actor,
        action: row.action,
        service: row.service,
        kind: row.kind,
        id: row.id,
        before: row.before,
        after: row.after,
    }
}

fn audit_log_line(log: AuditLog) -> Line {
    let (removed_chain, chain) = (hex(&log.removed_chain), hex(&log.chain));
    let AuditLog { log, removed_through, seq, .. } = log;
    Line::AuditLog { log: hex(&log), removed_through, removed_chain, seq, chain }
}

fn log_key_line(row: LogKeyRow) -> Line {
    let (seed, public) = (hex(&row.seed), hex(&row.public));
    Line::LogKey { id: row.id, seed, public, unix_ms: row.unix_ms }
}

fn log_head_line(row: LogHeadRow) -> Line {
    Line::LogHead {
        log: hex(&row.log),
        token: row.token,
        gate: row.gate,
        seq: row.seq,
        chain: hex(&row.chain),
        unix_ms: row.unix_ms,
    }
}

/// Reads a backup to its end and checks all that it says of itself.
pub(crate) fn read(file: &Path) -> Result<Backup, BackupError> {
    let mut from = Lines::open(file)?;
    let text = from.next()?.ok_or_else(|| BackupError::Damaged("it is empty".to_owned()))?;
    let head: Head = from.parse(&text, "the first line of a Keepgate backup")?;
    if head.format != NAME || head.version != VERSION {
        return Err(from.wrong(
            format!("format {NAME}, version {VERSION}"),
            format!("format {}, version {}", head.format, head.version),
        ));
    }
    let mut backup = Backup {
        history: from.history(&head.history)?,
        ancestors: head.ancestors.iter().map(|id| from.history(id)).collect::<Result<_, _>>()?,
        revision: Revision(head.revision),
        items: Vec::new(),
        tokens: Vec::new(),
        tombstones: Vec::new(),
        audit: Vec::new(),
        audit_log: None,
        log_keys: Vec::new(),
        log_heads: Vec::new(),
        authzen_together: head.authzen_together.unwrap_or(false),
    };
    let (is_earlier, mut deciding) = (head.authzen_together.is_none(), 0);
    let (mut items, mut sums) = (Digest::default(), (SumRow::default(), SumRow::default()));
    let mut seen: BTreeMap<ItemKey, ()> = BTreeMap::new();
    loop {
        // What the last line says is over all lines before it.
        let sum = from.sum.clone();
        let Some(text) = from.next()? else {
            return Err(BackupError::Damaged(
                "its last line is missing: it was cut off".to_owned(),
            ));
        };
        match from.parse::<Line>(&text, "a row of a Keepgate backup")? {
            Line::Item { service, kind, id, body, revision, source, needs, brought, base } => {
                let key = ItemKey { service, kind, id };
                let (body, revision) = (body.into_bytes(), Revision(revision));
                let digest = Digest::of_encoded(&key, &body);
                if is_earlier && key.kind == Kind::Service {
                    let takes = crate::store::decides_authzen(&body);
                    deciding +=
                        usize::from(takes.map_err(|e| from.wrong("a service", e.to_string()))?);
                    backup.authzen_together = deciding > 1;
                }
                if seen.insert(key.clone(), ()).is_some() {
                    return Err(BackupError::Damaged(format!("{key} occurs twice")));
                }
                items = items.plus(digest);
                let Some(brought) = Brought::from_name(&brought) else {
                    return Err(from.wrong("who brought an item", format!("`{brought}`")));
                };
                let base = base.map(|base| from.bytes32(&base)).transpose()?;
                let base = base.and_then(|base| Digest::from_bytes(&base));
                let origin = Origin { brought, base };
                backup.items.push(Row { key, body, revision, digest, source, needs, origin });
            }
            Line::Token {
                id,
                role,
                service,
                sha256,
                note,
                created_unix_s,
                last_used_unix_s,
                last_used_from,
                revoked_unix_s,
                expires_unix_s,
            } => {
                let Some(known) = Role::from_name(&role) else {
                    return Err(from.wrong("a role", format!("`{role}`")));
                };
                let sha256 = from.bytes32(&sha256)?;
                let token = TokenRow {
                    id,
                    role: known,
                    service,
                    sha256,
                    note,
                    created_unix_s,
                    last_used_unix_s,
                    last_used_from,
                    revoked_unix_s,
                    expires_unix_s,
                };
                sums.0.add(token.digest());
                backup.tokens.push(token);
            }
            Line::Tombstone { service, kind, id, revision, unix_ms, actor, action, was } => {
                let was = Digest::from_bytes(&from.bytes32(&was)?).unwrap_or_default();
                let key = ItemKey { service, kind, id };
                let revision = Revision(revision);
                let tombstone = Tombstone { key, revision, unix_ms, actor, action, was };
                sums.1.add(tombstone.digest());
                backup.tombstones.push(tombstone);
            }
            Line::Audit { revision, unix_ms, actor, action, service, kind, id, before, after } => {
                backup.audit.push(AuditRow {
                    seq: 0,
                    revision: Revision(revision),
                    unix_ms,
                    actor,
                    action,
                    service,
                    kind,
                    id,
                    before,
                    after,
                })
            }
            Line::AuditLog { log, removed_through, removed_chain, seq, chain } => {
                let log = from.log(&log)?;
                let (removed_chain, chain) = (from.bytes32(&removed_chain)?, from.bytes32(&chain)?);
                let said = AuditLog { log, removed_through, removed_chain, seq, chain };
                if backup.audit_log.replace(said).is_some() {
                    return Err(from.wrong("one audit log", "another one"));
                }
            }
            Line::LogKey { id, seed, public, unix_ms } => {
                let (seed, public) = (from.bytes32(&seed)?, from.bytes32(&public)?);
                // One that cannot sign would keep all others from it.
                let pair =
                    ring::signature::Ed25519KeyPair::from_seed_and_public_key(&seed, &public);
                if pair.is_err() || keepgate_record::PublicKey::new(public).id != id {
                    return Err(from.wrong("a private key with its public one", format!("`{id}`")));
                }
                backup.log_keys.push(LogKeyRow { id, seed, public, unix_ms });
            }
            Line::LogHead { log, token, gate, seq, chain, unix_ms } => {
                let log = from.log(&log)?;
                let chain = from.bytes32(&chain)?;
                backup.log_heads.push(LogHeadRow { log, token, gate, seq, chain, unix_ms });
            }
            Line::End { contents, items_digest, tokens_digest, tombstones_digest, sha256 } => {
                let damaged = |what: &str| Err(BackupError::Damaged(what.to_owned()));
                if hex(&sum.finalize()) != sha256 {
                    return damaged("its bytes do not have the checksum of its last line");
                }
                let found = Contents {
                    items: backup.items.len() as u64,
                    tokens: backup.tokens.len() as u64,
                    tombstones: backup.tombstones.len() as u64,
                    audit: backup.audit.len() as u64,
                    audit_logs: u64::from(backup.audit_log.is_some()),
                    log_keys: backup.log_keys.len() as u64,
                    log_heads: backup.log_heads.len() as u64,
                };
                if found != contents {
                    return damaged("it does not have as many rows as its last line says");
                }
                if items.to_string() != items_digest
                    || sums.0.digest.to_string() != tokens_digest
                    || sums.1.digest.to_string() != tombstones_digest
                {
                    return damaged("its rows do not sum up to the digests of its last line");
                }
                if from.next()?.is_some() {
                    return damaged("something follows its last line");
                }
                if !head.origins {
                    say_origins(&mut backup);
                }
                return Ok(backup);
            }
        }
    }
}

/// Who brought the items of a backup of an earlier release: as in the migration of a store.
fn say_origins(backup: &mut Backup) {
    let mut by_command: BTreeMap<(&str, &str, &str), bool> = BTreeMap::new();
    for row in &backup.audit {
        let key = (row.service.as_str(), row.kind.as_str(), row.id.as_str());
        by_command.insert(key, row.action != APPLY);
    }
    for row in &mut backup.items {
        let key = (row.key.service.as_str(), row.key.kind.as_str(), row.key.id.as_str());
        let otherwise = match by_command.get(&key) {
            Some(true) => Brought::Command,
            _ => Brought::Files,
        };
        if let Ok(item) = Item::decode(row.key.clone(), &row.body) {
            row.origin = unsaid(&item.body, otherwise);
        }
    }
}

struct Lines {
    from: BufReader<File>,
    sum: Sha256,
    line: u64,
}

impl Lines {
    fn open(file: &Path) -> Result<Lines, BackupError> {
        let file = File::open(file).map_err(io("open"))?;
        Ok(Lines { from: BufReader::new(file), sum: Sha256::new(), line: 0 })
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, BackupError> {
        let mut text = Vec::new();
        let mut bounded = std::io::Read::by_ref(&mut self.from).take(LINE_BYTES);
        bounded.read_until(b'\n', &mut text).map_err(io("read"))?;
        if text.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        self.sum.update(&text);
        if text.pop() != Some(b'\n') {
            return Err(self
                .wrong(format!("a line of at most {LINE_BYTES} bytes"), "a line without an end"));
        }
        Ok(Some(text))
    }

    fn parse<'a, T: Deserialize<'a>>(
        &self,
        text: &'a [u8],
        expected: &str,
    ) -> Result<T, BackupError> {
        serde_json::from_slice(text).map_err(|e| self.wrong(expected, e.to_string()))
    }

    fn wrong(&self, expected: impl Into<String>, found: impl Into<String>) -> BackupError {
        BackupError::Line { line: self.line, expected: expected.into(), found: found.into() }
    }

    fn history(&self, text: &str) -> Result<HistoryId, BackupError> {
        HistoryId::from_hex(text)
            .ok_or_else(|| self.wrong("a history of 32 hexadecimal digits", format!("`{text}`")))
    }

    fn log(&self, text: &str) -> Result<[u8; 16], BackupError> {
        keepgate_record::hex::bytes(text)
            .ok_or_else(|| self.wrong("32 hexadecimal digits", format!("`{text}`")))
    }

    fn bytes32(&self, text: &str) -> Result<[u8; 32], BackupError> {
        let wrong = || self.wrong("64 hexadecimal digits", format!("`{text}`"));
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (to, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *to = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(bytes)
    }
}
