//! `--serve`: a look every some seconds, served as metrics.
//!
//! A minimal HTTP/1.1 server, one connection at a time, one request per connection: a scraper
//! every few seconds is all it is for. A scrape never looks at the host itself, so it cannot be
//! used to load it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::read::{self, ReadOptions};
use crate::report::Report;
use crate::rules;

use super::metrics::{self, Looks};

const MAX_REQUEST: usize = 8 * 1024;
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Default)]
struct State {
    report: Option<Report>,
    looks: Looks,
}

/// Listens, looks and answers; `rounds` bounds the number of requests.
pub(super) fn serve(
    addr: SocketAddr,
    options: &ReadOptions,
    every: Duration,
    rounds: Option<u32>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let listener = TcpListener::bind(addr)?;
    let _ = writeln!(out, "metrics at http://{}/metrics", listener.local_addr()?);
    let _ = out.flush();
    let state = Arc::new(Mutex::new(State::default()));
    look(options, &state);
    let (background, options) = (Arc::clone(&state), options.clone());
    // The thread ends with the process: there is nothing to tidy up.
    std::thread::Builder::new().name("look".to_owned()).spawn(move || {
        loop {
            std::thread::sleep(every);
            look(&options, &background);
        }
    })?;
    let mut left = rounds.unwrap_or(u32::MAX);
    for connection in listener.incoming() {
        // A client that breaks off harms nobody but itself.
        let _ = connection.and_then(|stream| answer(stream, &state));
        if rounds.is_some() {
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    Ok(())
}

fn look(options: &ReadOptions, state: &Mutex<State>) {
    let report = read::host(options).map(|snapshot| rules::judge(&snapshot));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.looks.taken += 1;
    match report {
        Ok(report) => {
            state.looks.last_unix_s = now;
            state.report = Some(report);
        }
        Err(_) => state.looks.failed += 1,
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
                metrics::render(state.report.as_ref(), state.looks)
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
