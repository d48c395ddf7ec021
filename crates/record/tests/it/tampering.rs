//! The ways to tamper with a log, each found at its place.

use std::path::{Path, PathBuf};
use std::time::Duration;

use keepgate_record::{
    Anchor, Destination, FindingKind, Head, Link, Log, LogConfig, Mark, Position, PublicKey,
    Report, Sealed, Shape, Witness, files, verify,
};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::{Dir, ENDED, draft, eventually};

/// A center that signs, as the real one does: never back, and each time naming what it had signed.
struct Center {
    pair: Ed25519KeyPair,
    signed: Vec<Head>,
}

impl Center {
    fn new() -> Center {
        Center { pair: Ed25519KeyPair::from_seed_unchecked(&[5; 32]).unwrap(), signed: Vec::new() }
    }

    fn key(&self) -> PublicKey {
        PublicKey::new(self.pair.public_key().as_ref().try_into().unwrap())
    }

    fn sign(&mut self, at: Position) -> Option<Anchor> {
        let gate = "token/gate-1".to_owned();
        let before = self.signed.iter().find(|head| head.log == at.log).cloned();
        if before.as_ref().is_some_and(|before| before.seq >= at.seq) {
            return None;
        }
        let (previous_seq, previous_chain) =
            before.map_or((0, [0; 32]), |head| (head.seq, head.chain));
        let mut anchor = Anchor {
            log: at.log,
            gate: gate.clone(),
            seq: at.seq,
            chain: at.chain,
            previous_seq,
            previous_chain,
            unix_ms: 1_795_757_400_000 + at.seq,
            key: self.key().id,
            signature: [0; 64],
        };
        anchor.signature = self.pair.sign(&anchor.signed()).as_ref().try_into().unwrap();
        self.signed.retain(|head| head.log != at.log);
        let Position { log, seq, chain } = at;
        self.signed.push(Head { log, gate, seq, chain, unix_ms: anchor.unix_ms });
        Some(anchor)
    }

    fn witness(&self, is_online: bool) -> Witness {
        Witness { keys: vec![self.key()], heads: is_online.then(|| self.signed.clone()) }
    }
}

/// Writes so many records, has them signed now and then, and ends the log.
fn write(path: &Path, center: &mut Center, rounds: usize, each: usize) {
    let config =
        LogConfig { file_bytes: 8_000, ..LogConfig::new(Destination::File(path.into()), "gate-1") };
    let log = Log::start(config, 1).unwrap();
    let queue = log.queue(0).unwrap();
    for round in 0..rounds {
        for n in 0..each {
            queue.offer(&draft(&format!("r{round}-{n}")).begin(&Shape::default()), &ENDED);
        }
        eventually("a position to sign", || log.position().is_some());
        // The rest of the round may still come.
        std::thread::sleep(Duration::from_millis(1_200));
        if let Some(anchor) = log.position().and_then(|at| center.sign(at)) {
            let before = log.stats().anchors;
            log.anchored(anchor);
            eventually("the anchor", || log.stats().anchors > before);
        }
    }
    // What no anchor is about yet.
    queue.offer(&draft("last").begin(&Shape::default()), &ENDED);
    assert!(log.close(Duration::from_secs(60)));
}

fn checked(path: &Path, witness: &Witness) -> Report {
    verify(&files::list(path).unwrap(), Some(witness))
}

/// A copy of a log, for each way to tamper with it.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn edit(path: &Path, edit: impl FnOnce(&mut Vec<String>)) {
    let text = std::io::read_to_string(files::open(path).unwrap()).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    edit(&mut lines);
    let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    if path.extension().is_some_and(|extension| extension == "zst") {
        std::fs::write(path, zstd_of(text.as_bytes())).unwrap();
    } else {
        std::fs::write(path, text).unwrap();
    }
}

fn zstd_of(text: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(text, 1).unwrap()
}

/// The log as its owner would write it anew: without the lines that name one request, and with a chain
/// that is right; with or without the anchors.
fn forge(path: &Path, without: &str, keeps_anchors: bool) -> Option<Position> {
    let mut link: Option<Link> = None;
    let mut log = None;
    for file in files::list(path).unwrap() {
        edit(&file.path, |lines| {
            let mut out = Vec::new();
            for line in lines.iter() {
                let sealed = Sealed::of(line.as_bytes()).unwrap();
                let mark = Mark::of(sealed.open);
                let mut open = [sealed.open, b"}"].concat();
                if let Some(Mark::Begins(begins)) = &mark {
                    log = Some(begins.log);
                    let link = *link.get_or_insert_with(|| Link::first(&begins.log));
                    let mut begins = begins.clone();
                    begins.previous = link.chain;
                    let json = serde_json::to_string(&Mark::Begins(begins)).unwrap();
                    let time = String::from_utf8_lossy(&open[..34]).into_owned();
                    open = format!("{time},{}", &json[1..]).into_bytes();
                }
                let is_anchor = matches!(mark, Some(Mark::Anchor(_)));
                if line.contains(&format!("\"{without}\"")) || is_anchor && !keeps_anchors {
                    continue;
                }
                link.as_mut().unwrap().seal(&open, &mut out);
            }
            let text = String::from_utf8(out).unwrap();
            *lines = text.lines().map(str::to_owned).collect();
        });
    }
    let link = link?;
    Some(Position { log: log?, seq: link.next - 1, chain: link.chain })
}

type Tamper = fn(&[PathBuf]);

/// What is done, what is found, and in which file (by place) and line; 0: none in particular.
const TABLE: &[(&str, Tamper, FindingKind, usize, u64)] = &[
    (
        "a record changed",
        |paths| edit(&paths[1], |lines| lines[3] = lines[3].replace("alice", "mallo")),
        FindingKind::Changed,
        1,
        4,
    ),
    (
        "a record changed, and its own hash made right",
        |paths| {
            edit(&paths[1], |lines| {
                let before = Sealed::of(lines[2].as_bytes()).unwrap();
                let own = Sealed::of(lines[3].as_bytes()).unwrap();
                let open = String::from_utf8_lossy(own.open).replace("alice", "mallo");
                let mut link = Link { next: own.seq, chain: before.chain };
                let mut out = Vec::new();
                link.seal(format!("{open}}}").as_bytes(), &mut out);
                lines[3] = String::from_utf8(out).unwrap().trim_end().to_owned();
            });
        },
        FindingKind::Changed,
        1,
        5,
    ),
    (
        "a record's number changed",
        |paths| edit(&paths[1], |lines| lines[3] = lines[3].replace("\"seq\":", "\"seq\":1")),
        FindingKind::Removed,
        1,
        4,
    ),
    (
        "a record removed",
        |paths| edit(&paths[1], |lines| drop(lines.remove(4))),
        FindingKind::Removed,
        1,
        5,
    ),
    (
        "a count of lost records removed",
        |paths| edit(&paths[0], |lines| drop(lines.remove(1))),
        FindingKind::Removed,
        0,
        2,
    ),
    (
        "two records exchanged",
        |paths| edit(&paths[1], |lines| lines.swap(4, 5)),
        FindingKind::Reordered,
        1,
        6,
    ),
    (
        "a record repeated",
        |paths| {
            edit(&paths[1], |lines| {
                let again = lines[4].clone();
                lines.insert(5, again);
            });
        },
        FindingKind::Reordered,
        1,
        6,
    ),
    (
        "a line put in",
        |paths| edit(&paths[1], |lines| lines.insert(4, "{\"status\":200}".to_owned())),
        FindingKind::Changed,
        1,
        5,
    ),
    (
        "the end of a full file cut off",
        |paths| edit(&paths[1], |lines| lines.truncate(4)),
        FindingKind::Removed,
        2,
        1,
    ),
    (
        "a file removed",
        |paths| std::fs::remove_file(&paths[1]).unwrap(),
        FindingKind::FileMissing,
        2,
        1,
    ),
    (
        "the first file removed",
        |paths| std::fs::remove_file(&paths[0]).unwrap(),
        FindingKind::FileMissing,
        usize::MAX,
        0,
    ),
    (
        "two files exchanged",
        |paths| {
            let texts = [&paths[0], &paths[1]].map(|path| std::fs::read(path).unwrap());
            std::fs::write(&paths[0], &texts[1]).unwrap();
            std::fs::write(&paths[1], &texts[0]).unwrap();
        },
        FindingKind::Reordered,
        1,
        1,
    ),
    (
        "a file's beginning cut off",
        |paths| edit(&paths[1], |lines| drop(lines.remove(0))),
        FindingKind::Changed,
        1,
        1,
    ),
    (
        "written anew with a new chain, anchors kept",
        |paths| {
            forge(&log_of(paths), "r0-3", true);
        },
        FindingKind::Rewritten,
        usize::MAX,
        u64::MAX,
    ),
    (
        "an anchor changed",
        |paths| {
            let (path, line) = place_of(paths, "\"anchor\"");
            edit(&path, |lines| {
                lines[line] = lines[line].replace("token/gate-1", "token/gate-2");
            });
        },
        FindingKind::BadAnchor,
        usize::MAX,
        u64::MAX,
    ),
];

fn log_of(paths: &[PathBuf]) -> PathBuf {
    paths.last().unwrap().with_file_name("access.log")
}

fn place_of(paths: &[PathBuf], text: &str) -> (PathBuf, usize) {
    for path in paths {
        let lines = std::io::read_to_string(files::open(path).unwrap()).unwrap();
        if let Some(line) = lines.lines().position(|line| line.contains(text)) {
            return (path.clone(), line);
        }
    }
    panic!("no line with {text}");
}

#[test]
fn each_way_to_tamper_is_found() {
    let (dir, mut center) = (Dir::new(), Center::new());
    write(&dir.log(), &mut center, 3, 24);
    let whole = checked(&dir.log(), &center.witness(true));
    assert!(whole.is_whole(), "{whole:#?}");
    assert!(whole.files >= 4 && whole.anchors == 3 && whole.records == 73, "{whole:#?}");
    // The last record comes after the last anchor.
    assert_eq!(whole.unproven, 1, "{whole:#?}");
    assert_eq!(checked(&dir.log(), &center.witness(false)).findings, []);

    for (what, tamper, kind, file, line) in TABLE {
        let copied = Dir::new();
        copy(&dir.0, &copied.0);
        let paths: Vec<PathBuf> =
            files::list(&copied.log()).unwrap().into_iter().map(|file| file.path).collect();
        let names: Vec<String> =
            files::list(&copied.log()).unwrap().iter().map(|file| file.name()).collect();
        tamper(&paths);
        // Offline: the center need not be asked for any of these.
        let report = checked(&copied.log(), &center.witness(false));
        let found = report.findings.iter().find(|finding| finding.kind == *kind);
        let found = found.unwrap_or_else(|| panic!("{what}: {report:#?}"));
        if *file < names.len() {
            assert_eq!((&found.file, found.line), (&names[*file], *line), "{what}: {report:#?}");
        }
        if *line == 0 {
            assert_eq!((found.file.as_str(), found.line), ("", 0), "{what}: {report:#?}");
        }
    }
}

/// What only the center knows: that it has signed more, or something else.
#[test]
fn the_center_knows_what_was_cut_off_and_what_was_forged() {
    let (dir, mut center) = (Dir::new(), Center::new());
    write(&dir.log(), &mut center, 2, 8);
    // The end is cut off, with the last anchor and two lines of those that it is about.
    let cut = Dir::new();
    copy(&dir.0, &cut.0);
    let signed = center.signed[0].seq;
    for file in files::list(&cut.log()).unwrap() {
        edit(&file.path, |lines| {
            lines.retain(|line| Sealed::of(line.as_bytes()).unwrap().seq < signed - 1);
        });
        if std::io::read_to_string(file.open().unwrap()).unwrap().is_empty() {
            std::fs::remove_file(&file.path).unwrap();
        }
    }
    let report = checked(&cut.log(), &center.witness(true));
    assert!(
        report.findings.iter().any(|found| found.kind == FindingKind::Truncated),
        "{report:#?}"
    );
    // Without the center the log just ends there, and what comes after its last anchor is not proven.
    let report = checked(&cut.log(), &center.witness(false));
    assert!(report.is_whole() && report.unproven > 0, "{report:#?}");

    // The owner makes the chain anew, leaves out a request and all anchors.
    let forged = Dir::new();
    copy(&dir.0, &forged.0);
    let at = forge(&forged.log(), "r0-3", false).unwrap();
    let report = checked(&forged.log(), &center.witness(false));
    assert!(report.is_whole() && report.proven.is_none(), "{report:#?}");
    let report = checked(&forged.log(), &center.witness(true));
    let is_found = |kind| report.findings.iter().any(|found| found.kind == kind);
    assert!(is_found(FindingKind::Rewritten) || is_found(FindingKind::Truncated), "{report:#?}");

    // The center signs nothing before what it has signed, and no other chain there.
    let mut asked = Center::new();
    asked.signed.clone_from(&center.signed);
    for seq in [signed - 1, signed] {
        assert_eq!(asked.sign(Position { seq, ..at }), None);
    }
    // Let it grow until the center signs: the anchor names what had been signed before.
    let later = Position { seq: at.seq + 1_000, ..at };
    let anchor = asked.sign(later).unwrap();
    assert!(anchor.previous_seq > 0);
    let current = files::list(&forged.log()).unwrap().pop().unwrap().path;
    edit(&current, |lines| {
        let last = Sealed::of(lines.last().unwrap().as_bytes()).unwrap();
        let mut link = Link { next: last.seq + 1_001, chain: last.chain };
        let mut out = Vec::new();
        let json = serde_json::to_string(&Mark::Anchor(Box::new(anchor))).unwrap();
        let line = format!("{{\"time\":\"2026-11-27T05:30:00.123Z\",{}", &json[1..]);
        link.seal(line.as_bytes(), &mut out);
        lines.push(String::from_utf8(out).unwrap().trim_end().to_owned());
    });
    let report = checked(&forged.log(), &asked.witness(false));
    let rewritten = report.findings.iter().any(|found| found.kind == FindingKind::Rewritten);
    assert!(rewritten, "{report:#?}");
}
