//! Data directories that are full, read-only, linked or open to others.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use keepgate_client::replica::{Replica, StartError, read_kept};
use keepgate_policy::Change;

use crate::center::{FakeCenter, entity};
use crate::replica::{
    HOUR, LONG, Scratch, config, decide, following, on_disk, reopened, run, until,
};

#[test]
fn a_disk_that_fails_costs_only_the_cache() {
    let scratch = Scratch::new("fails");
    let center = FakeCenter::with_orders();
    run(async {
        std::fs::create_dir_all(scratch.0.join("replica.tmp")).unwrap();
        let replica = Replica::follow(on_disk(&center, &scratch)).unwrap();
        replica.wait_for(center.head(), LONG).await.unwrap();
        until("failed", || replica.metrics().disk_failures >= 1).await;
        replica.wait_for(center.put("a", 2), LONG).await.unwrap();
        assert!(Path::new(&scratch.0.join("replica.tmp")).exists());
    });
}

/// A file system of its own, gone at the end.
struct Mounted<'a>(&'a Path);

impl Mounted<'_> {
    fn new<'a>(path: &'a Path, options: &str) -> Option<Mounted<'a>> {
        std::fs::create_dir_all(path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path);
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Mounted(path));
        }
        let required = std::env::var_os("KEEPGATE_REQUIRE_ALL").is_some_and(|v| v == "1");
        assert!(!required, "must not skip: mounting is not possible");
        eprintln!("SKIPPED: mounting is not possible");
        None
    }

    fn remount(&self, options: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{options}")]).arg(self.0);
        assert!(mount.output().unwrap().status.success());
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).output();
    }
}

#[test]
fn a_full_disk_does_not_stop_the_replica_and_costs_no_snapshots() {
    let scratch = Scratch::new("full");
    let Some(disk) = Mounted::new(&scratch.0, "size=64k,mode=700") else { return };
    std::fs::write(scratch.0.join("ballast"), vec![0; 128 << 10]).unwrap_err();
    let center = FakeCenter::with_orders();
    run(async {
        let replica = following(&center, on_disk(&center, &scratch)).await;
        until("failed", || replica.metrics().disk_failures >= 1).await;
        for n in 0..50 {
            replica.wait_for(center.put("a", n), LONG).await.unwrap();
        }
        assert_eq!(decide(&replica, "orders", "alice", HOUR), Ok(true));
        assert_eq!(replica.metrics().snapshots, 1);
        assert!(!scratch.0.join("replica.tmp").exists(), "no half of a snapshot stays");
    });
    drop(disk);
}

#[test]
fn a_read_only_directory_is_used_and_not_written() {
    let scratch = Scratch::new("readonly");
    let Some(disk) = Mounted::new(&scratch.0, "size=8m,mode=700") else { return };
    let center = FakeCenter::with_orders();
    run(async {
        let config = on_disk(&center, &scratch);
        let replica = Replica::follow(config.clone()).unwrap();
        replica.wait_for(center.head(), LONG).await.unwrap();
        let kept = scratch.0.join("replica.seen");
        until("kept", || std::fs::metadata(&kept).is_ok_and(|kept| kept.len() > 0)).await;
        drop(replica);
        drop(reopened(&config).await);
        center.set_down(true);
        // What was open is closed by now.
        until("closed", || {
            let mut mount = Command::new("mount");
            mount.args(["-o", "remount,ro"]).arg(&scratch.0);
            mount.output().unwrap().status.success()
        })
        .await;
        let replica = reopened(&config).await;
        assert_eq!(decide(&replica, "orders", "alice", HOUR), Ok(true), "what it has is used");
        assert!(matches!(Replica::follow(config.clone()), Err(StartError::Locked { .. })));
        center.set_down(false);
        for n in 0..20 {
            replica.wait_for(center.put("a", n), LONG).await.unwrap();
        }
        assert_eq!(replica.metrics().snapshots, 0);
        assert!(replica.metrics().disk_failures >= 1);
        // A directory that cannot be made.
        let mut below = config.clone();
        below.data_dir = Some(scratch.0.join("below"));
        let memory = Replica::follow(below).unwrap();
        memory.wait_for(center.head(), LONG).await.unwrap();
        assert!(memory.metrics().disk_failures >= 1);
        drop((replica, memory));
        disk.remount("rw");
    });
    drop(disk);
}

#[test]
fn links_are_not_followed_and_open_directories_refused() {
    let center = FakeCenter::with_orders();
    run(async {
        let scratch = Scratch::new("links");
        std::fs::create_dir_all(&scratch.0).unwrap();
        std::fs::set_permissions(&scratch.0, std::fs::Permissions::from_mode(0o777)).unwrap();
        let error = Replica::follow(on_disk(&center, &scratch)).unwrap_err();
        let text = std::error::Error::source(&error).unwrap().to_string();
        assert!(text.contains("chmod go-w"), "{text}");
        std::fs::set_permissions(&scratch.0, std::fs::Permissions::from_mode(0o755)).unwrap();
        // Each of its files is a link to a file elsewhere, which stays as it is.
        let elsewhere = Scratch::new("elsewhere");
        std::fs::create_dir_all(&elsewhere.0).unwrap();
        for name in ["replica.snapshot", "replica.log", "replica.seen", "replica.tmp"] {
            let target = elsewhere.0.join(name);
            std::fs::write(&target, "precious").unwrap();
            std::os::unix::fs::symlink(&target, scratch.0.join(name)).unwrap();
        }
        let replica = Replica::follow(on_disk(&center, &scratch)).unwrap();
        replica.wait_for(center.head(), LONG).await.unwrap();
        for n in 0..20 {
            replica.wait_for(center.put("a", n), LONG).await.unwrap();
        }
        let base = scratch.0.join("replica.snapshot");
        until("kept", || std::fs::symlink_metadata(&base).is_ok_and(|kept| kept.is_file())).await;
        until("failed", || replica.metrics().disk_failures >= 1).await;
        drop(replica);
        drop(reopened(&on_disk(&center, &scratch)).await);
        for name in ["replica.snapshot", "replica.log", "replica.seen", "replica.tmp"] {
            let bytes = std::fs::read(elsewhere.0.join(name)).unwrap();
            assert_eq!(bytes, b"precious", "{name}");
        }
    });
}

/// The file that `keepgate center recover` reads.
#[test]
fn a_kept_state_can_be_read_back() {
    let scratch = Scratch::new("kept");
    let center = FakeCenter::with_orders();
    run(async {
        let replica = Replica::follow(on_disk(&center, &scratch)).unwrap();
        replica.wait_for(center.head(), LONG).await.unwrap();
        for n in 0..5 {
            replica.wait_for(center.put("a", n), LONG).await.unwrap();
        }
        let key = entity("a", 0).key;
        replica.wait_for(center.commit(vec![Change::Delete(key)]), LONG).await.unwrap();
        let path = scratch.0.join("replica.snapshot");
        let deadline = std::time::Instant::now() + LONG;
        let kept = loop {
            match read_kept(&path) {
                Ok(kept) if kept.snapshot.revision == center.head() => break kept,
                other => assert!(std::time::Instant::now() < deadline, "{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!(kept.mark.unwrap().revision, center.head());
        assert_eq!(Some(kept.snapshot.digest), center.digest_at(center.head()));
        assert_eq!(kept.snapshot.items.len(), 2);
        assert!(read_kept(&scratch.0.join("absent")).is_err());
        assert!(read_kept(&scratch.0.join("replica.log")).is_err());
        drop(replica);
        let _ = config(&center);
    });
}
