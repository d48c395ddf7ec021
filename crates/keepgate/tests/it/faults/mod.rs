//! What was acknowledged stays, what was revoked stays revoked, and age never flatters: real center
//! and gate processes under faults and their mixtures, and a checker of their history.
//!
//! Written down are every edit with the times it was sent and acknowledged, every request that
//! reached the upstream, and every answer of the gate. From that alone it is judged:
//!
//! - a request reaches the upstream at most [`MAX_AGE`] after its revocation was acknowledged;
//! - no acknowledged edit disappears, unless the center said before that it is lost;
//! - no revision of one history is acknowledged for two edits;
//! - a center that refuses to start or to serve names a command that leads out;
//! - a gate answers 200, 403 or 503, and nothing else.
//!
//! Not bounded, and counted apart: a gate that is frozen between its last check and the write to
//! the upstream's socket (docs/reliability.md).
//!
//! `KEEPGATE_FAULTS_SECONDS` and `KEEPGATE_FAULTS_SEED` make it longer and different:
//! `scripts/long history-faults`, and `scripts/long history-faults-postgresql` for a store on PostgreSQL.

mod check;
mod relay;
mod system;

use std::time::{Duration, Instant};

use crate::harness::skipped;
use crate::postgres::Pair;
use check::Ledger;
use system::{System, Whose};

/// The service's `max_age`: the bound.
pub(super) const MAX_AGE: Duration = Duration::from_secs(5);
const USERS: usize = 4;

/// What is done to the system.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// SIGSTOP to the gate while the network is cut.
    FreezeGate,
    /// SIGSTOP to the center.
    FreezeCenter,
    /// A middlebox that takes what the center says and delivers it later.
    HoldDownlink,
    /// SIGKILL to the center.
    KillCenter,
    /// SIGKILL to the gate; it starts again with what it kept.
    KillGate,
    /// A bit of the WAL flips while the center is down.
    FlipWal,
    /// The WAL ends early.
    TruncateWal,
    /// The WAL is gone.
    DeleteWal,
    /// The end of the WAL is zeros.
    ZeroWal,
    /// An older copy of all files, in the same place.
    RestoreOlder,
    /// An older copy of the database file alone.
    RestoreDatabase,
    /// A copied directory behind the same address, and then the right one again.
    CopiedDirectory,
    /// A bit of the database flips while the center is down, and back after it was refused.
    FlipDatabase,
    /// A slot of the high-water mark is torn, or both are.
    TearHigh,
    /// The database and its log are removed beneath the running center.
    RemoveDatabase,
    /// The wall clock of the gate jumps, forward or back.
    JumpGate,
    /// The wall clock of the center jumps.
    JumpCenter,
    /// SIGKILL to the center right after a gate has shown a loss.
    KillLosing,
    /// A server of the database ends at once, and starts again.
    KillDatabase,
    /// SIGSTOP to a server of the database.
    FreezeDatabase,
    /// The primary ends, and the synchronous standby takes over: nothing is lost.
    FailOver,
    /// The primary ends, and a standby takes over that lacks what was acknowledged last.
    FailOverLosing,
}

const FAULTS: &[Fault] = &[
    Fault::FreezeGate,
    Fault::HoldDownlink,
    Fault::FlipWal,
    Fault::RestoreOlder,
    Fault::KillGate,
    Fault::CopiedDirectory,
    Fault::FreezeCenter,
    Fault::TruncateWal,
    Fault::KillCenter,
    Fault::RestoreDatabase,
    Fault::JumpGate,
    Fault::DeleteWal,
    Fault::FlipDatabase,
    Fault::JumpCenter,
    Fault::ZeroWal,
    Fault::KillLosing,
    Fault::TearHigh,
    Fault::RemoveDatabase,
];

/// Of a center whose store is on PostgreSQL.
const POSTGRESQL_FAULTS: &[Fault] = &[
    Fault::KillDatabase,
    Fault::FreezeGate,
    Fault::FailOverLosing,
    Fault::FreezeDatabase,
    Fault::FailOver,
    Fault::KillCenter,
    Fault::HoldDownlink,
    Fault::JumpGate,
    Fault::KillGate,
    Fault::FreezeCenter,
    Fault::JumpCenter,
];

/// Numbers that look random and are the same for the same seed.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn revoked_stays_revoked_under_faults() {
    if !cfg!(target_os = "linux") {
        return skipped("signals and files as on Linux");
    }
    run(None, FAULTS, 60);
}

/// The same with a primary and its standby in place of files: what damages files is theirs to bear,
/// and what they lose is lost.
#[test]
fn revoked_stays_revoked_under_faults_on_postgresql() {
    if !cfg!(target_os = "linux") {
        return skipped("signals and files as on Linux");
    }
    let Some(database) = Pair::start() else { return };
    run(Some(database), POSTGRESQL_FAULTS, 35);
}

fn run(database: Option<Pair>, faults: &[Fault], seconds: u64) {
    let seconds = setting("KEEPGATE_FAULTS_SECONDS", seconds);
    let seed = setting("KEEPGATE_FAULTS_SEED", 1).max(1);
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut ledger = Ledger::new(USERS);
    let mut system = System::start(database, USERS, &mut ledger);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut done = Vec::new();
    // Each once in order, then as they fall; of a mixture, both.
    for turn in 0.. {
        if Instant::now() >= until {
            break;
        }
        let pick =
            |dice: &mut Dice| faults[usize::try_from(dice.below(faults.len() as u64)).unwrap()];
        let fault = faults.get(turn).copied().unwrap_or_else(|| pick(&mut dice));
        done.push(fault);
        system.toggle(&mut dice, &mut ledger);
        strike(&mut system, fault, &mut dice, &mut ledger);
        if dice.below(3) == 0 {
            let second = pick(&mut dice);
            done.push(second);
            system.toggle(&mut dice, &mut ledger);
            strike(&mut system, second, &mut dice, &mut ledger);
        }
        system.settle(&mut ledger);
    }
    let seen = system.stop();
    eprintln!("seed {seed}: {} faults: {done:?}", done.len());
    ledger.judge(&seen);
}

fn strike(system: &mut System, fault: Fault, dice: &mut Dice, ledger: &mut Ledger) {
    let pause = Duration::from_millis(2000 + dice.below(2000));
    match fault {
        Fault::FreezeGate => {
            system.relay.cut(true);
            system.freeze_gate();
            system.toggle(dice, ledger);
            std::thread::sleep(pause);
            system.thaw_gate();
            system.relay.cut(false);
        }
        Fault::FreezeCenter => {
            system.toggle(dice, ledger);
            system.signal_center(libc::SIGSTOP);
            std::thread::sleep(pause);
            system.signal_center(libc::SIGCONT);
        }
        Fault::HoldDownlink => {
            system.relay.hold(true);
            system.toggle(dice, ledger);
            std::thread::sleep(Duration::from_millis(3200));
            system.toggle(dice, ledger);
            system.relay.hold(false);
        }
        Fault::KillCenter => {
            system.kill_center();
            system.start_center(ledger);
        }
        Fault::KillGate => system.restart_gate(),
        Fault::FlipWal | Fault::TruncateWal | Fault::DeleteWal | Fault::ZeroWal => {
            system.kill_center();
            let wal = system.data.join("center.db-wal");
            if let Ok(mut bytes) = std::fs::read(&wal)
                && !bytes.is_empty()
            {
                let at = usize::try_from(dice.below(bytes.len() as u64)).unwrap();
                match fault {
                    Fault::FlipWal => bytes[at] ^= 1 << dice.below(8),
                    Fault::TruncateWal => bytes.truncate(at),
                    Fault::ZeroWal => {
                        let from = bytes.len().saturating_sub(8192);
                        bytes[from..].fill(0);
                    }
                    _ => {}
                }
                if matches!(fault, Fault::DeleteWal) {
                    std::fs::remove_file(&wal).unwrap();
                } else {
                    // In place: the same file, with other bytes.
                    std::fs::write(&wal, bytes).unwrap();
                }
            }
            system.start_center(ledger);
        }
        Fault::RestoreOlder => {
            // No file shows this one: a gate does, if it has seen what is lost.
            system.await_gate();
            system.kill_center();
            system.restore_copy(&["center.db", "center.db-wal", "center.db-shm", "center.high"]);
            system.start_center(ledger);
        }
        Fault::RestoreDatabase => {
            system.kill_center();
            system.restore_copy(&["center.db", "center.db-wal", "center.db-shm"]);
            system.start_center(ledger);
        }
        Fault::CopiedDirectory => {
            system.kill_center();
            system.try_copied_directory();
            system.start_center(ledger);
        }
        Fault::FlipDatabase => {
            system.stop_center();
            system.try_flipped_database(dice, ledger);
            system.start_center(ledger);
        }
        Fault::TearHigh => {
            system.kill_center();
            system.tear_high(dice);
            system.start_center(ledger);
        }
        Fault::RemoveDatabase => {
            system.remove_database(dice, ledger);
            system.start_center(ledger);
        }
        Fault::JumpGate => system.jump(Whose::Gate, jump(dice)),
        Fault::JumpCenter => system.jump(Whose::Center, jump(dice)),
        Fault::KillLosing => {
            system.await_gate();
            system.kill_center();
            system.restore_copy(&["center.db", "center.db-wal", "center.db-shm", "center.high"]);
            system.kill_when_lost();
            system.start_center(ledger);
        }
        Fault::KillDatabase => system.kill_database(dice, ledger),
        Fault::FreezeDatabase => system.freeze_database(pause, dice, ledger),
        Fault::FailOver => system.fail_over(dice, ledger),
        Fault::FailOverLosing => system.fail_over_losing(dice, ledger),
    }
}

/// Up to two hours forward or back, in milliseconds.
fn jump(dice: &mut Dice) -> i64 {
    let size = i64::try_from(1 + dice.below(7_200_000)).unwrap();
    if dice.below(2) == 0 { size } else { -size }
}
