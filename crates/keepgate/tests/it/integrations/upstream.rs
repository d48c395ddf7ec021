//! An application that answers 200 to everything and remembers what it was asked, by `X-Case`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) target: String,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Seen {
    /// The values of a header, joined as HTTP joins them.
    pub(super) fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> =
            self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }
}

pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Upstream {
    /// Answers until the process ends.
    pub(super) fn start() -> Upstream {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let into = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let into = Arc::clone(&into);
                std::thread::spawn(move || {
                    let _ = serve(stream, &into);
                });
            }
        });
        Upstream { address, seen }
    }

    /// What arrived with this `X-Case`; more than once is a failure of the test.
    pub(super) fn saw(&self, case: &str) -> Option<Seen> {
        let seen = self.seen.lock().unwrap();
        let mut found =
            seen.iter().filter(|seen| seen.header("x-case").is_some_and(|value| value == case));
        let first = found.next().cloned();
        assert!(found.next().is_none(), "{case} arrived twice");
        first
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Seen>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream, &mut out)? {
        let head = request.method == "HEAD";
        seen.lock().unwrap().push(request);
        let body = if head { "" } else { "reached" };
        write!(out, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{body}")?;
    }
    Ok(())
}

fn line(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<String>> {
    let mut bytes = Vec::new();
    if stream.read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&bytes).trim_end().to_owned()))
}

fn read(stream: &mut BufReader<TcpStream>, out: &mut TcpStream) -> std::io::Result<Option<Seen>> {
    let Some(first) = line(stream)? else { return Ok(None) };
    let mut words = first.splitn(3, ' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let mut seen = Seen { method: word(), target: word(), ..Seen::default() };
    while let Some(line) = line(stream)?.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        seen.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    if seen.header("expect").is_some() {
        out.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if let Some(length) = seen.header("content-length") {
        seen.body.resize(length.parse().unwrap_or(0), 0);
        stream.read_exact(&mut seen.body)?;
    } else if seen.header("transfer-encoding").is_some() {
        loop {
            let size = line(stream)?.unwrap_or_default();
            let size = usize::from_str_radix(&size, 16).map_err(std::io::Error::other)?;
            let mut chunk = vec![0; size];
            stream.read_exact(&mut chunk)?;
            seen.body.extend(chunk);
            line(stream)?;
            if size == 0 {
                break;
            }
        }
    }
    Ok(Some(seen))
}
