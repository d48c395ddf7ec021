//! `--serve`: a look every some seconds, served as metrics.
//!
//! A minimal HTTP/1.1 server, one connection at a time, one request per connection: a scraper
//! every few seconds is all it is for. A scrape never looks at the host itself, so it cannot be
//! used to load it.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::read::{self, ReadOptions};
use crate::report::Report;
use crate::rules;

use super::args::Args;
use super::metrics::{self, Looks};
use super::{many, pipe::Pipe};

const MAX_REQUEST: usize = 8 * 1024;
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Default)]
struct State {
    reports: Vec<Report>,
    looks: Looks,
}

/// Listens, looks and answers; `rounds` bounds the number of requests.
pub(super) fn serve(
    addr: SocketAddr,
    options: &ReadOptions,
    args: &Args,
    out: &mut Pipe<'_>,
) -> io::Result<()> {
    let listener = TcpListener::bind(addr)?;
    let _ = writeln!(out, "metrics at http://{}/metrics", listener.local_addr()?);
    let _ = out.flush();
    let state = Arc::new(Mutex::new(State::default()));
    let mut before = Before::default();
    let (everywhere, every) = (args.all_namespaces, args.every);
    look(options, everywhere, &mut before, &state);
    let (background, options) = (Arc::clone(&state), options.clone());
    // The thread ends with the process: there is nothing to tidy up.
    std::thread::Builder::new().name("look".to_owned()).spawn(move || {
        loop {
            std::thread::sleep(every);
            look(&options, everywhere, &mut before, &background);
        }
    })?;
    let mut left = args.rounds.unwrap_or(u32::MAX);
    for connection in listener.incoming() {
        // A client that breaks off harms nobody but itself.
        let _ = connection.and_then(|stream| answer(stream, &state));
        if args.rounds.is_some() {
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    Ok(())
}

fn look(options: &ReadOptions, everywhere: bool, before: &mut Before, state: &Mutex<State>) {
    let reports = if everywhere {
        // Namespaces come and go between listing and look; none at all is a failure.
        let (reports, _) = many::look(options);
        (!reports.is_empty()).then_some(reports)
    } else {
        read::host(options).ok().map(|snapshot| vec![rules::judge(&snapshot)])
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.looks.taken += 1;
    match reports {
        Some(mut reports) => {
            before.carry(&mut reports);
            state.looks.last_unix_s = now;
            state.reports = reports;
        }
        None => state.looks.failed += 1,
    }
}

/// What a bucket looked like before it ran out.
///
/// Once no port is left, opens fail, so their rate falls to what the TIME_WAITs that end let
/// through, or to 0: the worst state would read as the best. So a bucket that is out keeps the
/// rate that took it there. It counts as out until more than one in a hundred of its ports is
/// left: a port that a TIME_WAIT lets go of is taken again at once.
#[derive(Default)]
pub(super) struct Before {
    buckets: HashMap<(String, IpAddr, IpAddr, u16, u32), Past>,
}

#[derive(Clone, Copy)]
struct Past {
    opens_per_s: f64,
    out: bool,
}

impl Before {
    /// Puts the past into reports of the present, and remembers these.
    pub(super) fn carry(&mut self, reports: &mut [Report]) {
        // Only what is in the reports is kept, so the reports' bound is this one's.
        let mut now = HashMap::new();
        for report in reports {
            for bucket in &mut report.buckets {
                let netns = report.netns.clone();
                let key = (netns, bucket.src, bucket.dst, bucket.dport, bucket.interface);
                let past = self.buckets.get(&key).copied();
                let was_out = past.is_some_and(|past| past.out);
                let few = bucket.remaining.max <= bucket.usable / 100;
                let out = bucket.remaining.max == 0 || (was_out && few);
                let seen = bucket.opens_per_s.unwrap_or(0.0);
                let opens_per_s =
                    if out { past.map_or(seen, |past| past.opens_per_s.max(seen)) } else { seen };
                if out {
                    bucket.exhausted_in_s = Some(0);
                    bucket.opens_per_s = bucket.opens_per_s.map(|_| opens_per_s);
                }
                now.insert(key, Past { opens_per_s, out });
            }
        }
        self.buckets = now;
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut buffer = [0u8; 1024];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        let length = stream.read(&mut buffer)?;
        if length == 0 || request.len() + length > MAX_REQUEST {
            return respond(&mut stream, "400 Bad Request", "not a request\n");
        }
        request.extend_from_slice(buffer.get(..length).unwrap_or(&[]));
    }
    let line = String::from_utf8_lossy(request.split(|b| *b == b'\r').next().unwrap_or(&[]));
    let mut words = line.split(' ');
    match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics")) => {
            let body = {
                let state = state.lock().unwrap_or_else(PoisonError::into_inner);
                metrics::render(&state.reports, state.looks)
            };
            respond(&mut stream, "200 OK", &body)
        }
        (Some("GET"), Some("/" | "/healthz")) => {
            respond(&mut stream, "200 OK", "keepgate doctor: see /metrics\n")
        }
        (Some("GET"), _) => respond(&mut stream, "404 Not Found", "see /metrics\n"),
        _ => respond(&mut stream, "405 Method Not Allowed", "GET only\n"),
    }
}

fn respond(stream: &mut TcpStream, status: &str, body: &str) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(remaining: u32, opens: f64) -> Report {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/golden/close-wait.json");
        let snapshot = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let mut report = rules::judge(&snapshot);
        report.buckets.truncate(1);
        let bucket = report.buckets.first_mut().unwrap();
        bucket.usable = 2000;
        bucket.used = 2000 - remaining;
        bucket.remaining = crate::budget::Interval { min: remaining, max: remaining };
        bucket.opens_per_s = Some(opens);
        bucket.exhausted_in_s = (remaining == 0).then_some(0);
        report
    }

    #[test]
    fn a_bucket_that_is_out_keeps_the_rate_that_took_it_there() {
        let mut before = Before::default();
        let mut look = |remaining, opens| {
            let mut reports = vec![report(remaining, opens)];
            before.carry(&mut reports);
            let bucket = reports.first().unwrap().buckets.first().unwrap();
            (bucket.opens_per_s.unwrap(), bucket.exhausted_in_s)
        };
        assert_eq!(look(500, 60.0), (60.0, None));
        assert_eq!(look(0, 60.0), (60.0, Some(0)));
        assert_eq!(look(0, 0.0), (60.0, Some(0)));
        // A TIME_WAIT has just let go of a port.
        assert_eq!(look(20, 3.0), (60.0, Some(0)));
        assert_eq!(look(0, 33.0), (60.0, Some(0)));
        // Over: more than one in a hundred is left.
        assert_eq!(look(21, 3.0), (3.0, None));
        assert_eq!(look(20, 3.0), (3.0, None));
    }
}
