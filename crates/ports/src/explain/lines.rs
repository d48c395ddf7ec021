//! A log as lines of one language: which line is the failing one, what a JSON line says, and what
//! a stack of calls says about the call.

use serde_json::Value;

use super::words::{Errno, certain, errno};

/// How much of a text is looked at, in bytes, around the line that fails.
pub(super) const MAX_WINDOW: usize = 16 * 1024;
/// Lines before the failing one that belong to it, such as the head of a stack.
const BEFORE: usize = 40;
/// Deepest JSON that is read, and most strings of one line.
const MAX_STRINGS: usize = 256;

/// The part of a text that matters.
#[derive(Debug)]
pub(super) struct Window {
    /// The failing line, or its part about the error; the first line where none fails.
    pub(super) line: String,
    /// The lines around it, itself included.
    pub(super) around: String,
    /// Where in `around` each line up to the failing one begins, the nearest first.
    pub(super) starts: Vec<usize>,
    /// The lines from the failing one on: a stack, or a second line of the message.
    pub(super) after: String,
    /// What it names.
    pub(super) errno: Option<Errno>,
}

/// Finds the line that fails. One that names EADDRNOTAVAIL is preferred to one that names another
/// error: the question is about ports.
pub(super) fn window(text: &str) -> Window {
    let mut plain: Vec<String> = text.lines().map(plain).collect();
    let errors: Vec<Option<Errno>> = plain.iter().map(|line| errno(&line.to_lowercase())).collect();
    let of = |wanted: fn(Errno) -> bool| errors.iter().position(|e| e.is_some_and(wanted));
    let calls =
        || plain.iter().position(|line| super::template::position(line, "connect").is_some());
    let at = of(|e| e == Errno::AddrNotAvail).or_else(|| of(|_| true)).or_else(calls).unwrap_or(0);
    if let (Some(line), Some(Some(wanted))) = (plain.get_mut(at), errors.get(at)) {
        *line = clause(line, *wanted);
    }
    let mut around = String::new();
    let mut after = String::new();
    let mut starts = Vec::new();
    for (index, line) in plain.iter().enumerate().skip(at.saturating_sub(BEFORE)) {
        if around.len() + line.len() > MAX_WINDOW {
            break;
        }
        if index <= at {
            starts.insert(0, around.len());
        }
        for to in [Some(&mut around), (index >= at).then_some(&mut after)].into_iter().flatten() {
            to.push_str(line);
            to.push('\n');
        }
    }
    Window {
        line: plain.get(at).cloned().unwrap_or_default(),
        around,
        starts,
        after,
        errno: errors.get(at).copied().flatten(),
    }
}

/// Of a line that tells of several errors the part about this one: `[Errno 111] Connect call failed
/// ('127.0.0.1', 5432), [Errno 99] Cannot assign requested address` says nothing about toward where
/// the second came. What comes before the first error belongs to each.
fn clause(line: &str, wanted: Errno) -> String {
    let mut head = String::new();
    let mut parts: Vec<(Errno, String)> = Vec::new();
    for piece in pieces(line) {
        match (certain(&piece.to_lowercase()), parts.last_mut()) {
            (None, None) => head.push_str(piece),
            (None, Some((_, part))) => part.push_str(piece),
            (Some(found), Some((of, part))) if *of == found => part.push_str(piece),
            (Some(found), _) => parts.push((found, piece.to_owned())),
        }
    }
    let several = parts.iter().any(|(of, _)| *of != wanted);
    match parts.iter().find(|(of, _)| *of == wanted).filter(|_| several) {
        Some((_, part)) => head + part,
        None => line.to_owned(),
    }
}

/// A line cut behind each comma and semicolon, and before each `[Errno`.
fn pieces(line: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    for piece in line.split_inclusive([',', ';']) {
        let mut rest = piece;
        while let Some(at) = rest
            .char_indices()
            .skip(1)
            .map(|(at, _)| at)
            .find(|at| rest.as_bytes().get(*at..at + 7).is_some_and(is_errno))
        {
            let (front, back) = rest.split_at(at);
            pieces.push(front);
            rest = back;
        }
        pieces.push(rest);
    }
    pieces
}

fn is_errno(bytes: &[u8]) -> bool {
    bytes.eq_ignore_ascii_case(b"[errno ")
}

/// A line without colors, escapes, a container's log format and JSON around it.
fn plain(line: &str) -> String {
    let mut bounded: String = line.chars().take(MAX_WINDOW).collect();
    if let Some(logged) = of_container(&bounded) {
        bounded = logged;
    }
    if bounded.contains('\u{1b}') {
        bounded = without_colors(&bounded);
    }
    if let Some(message) = json(&bounded) {
        bounded = message;
    }
    if bounded.contains('\\') {
        bounded = bounded.replace("\\\"", "\"").replace("\\n", " ").replace("\\t", " ");
    }
    if bounded.contains('%') {
        // gRPC writes its targets as parts of a URL: `ipv6:%5B::1%5D:50051`.
        for (code, c) in
            [("%5B", "["), ("%5D", "]"), ("%3A", ":"), ("%5b", "["), ("%5d", "]"), ("%3a", ":")]
        {
            bounded = bounded.replace(code, c);
        }
    }
    bounded
}

/// What a program wrote, in a line that a container runtime keeps: Docker's JSON file
/// (`{"log":"..\n","stream":"stderr","time":".."}`), or CRI's (`TIME stderr F ..`).
fn of_container(line: &str) -> Option<String> {
    if line.starts_with("{\"log\":") {
        let value: Value = serde_json::from_str(line.trim()).ok()?;
        return Some(value.get("log")?.as_str()?.trim_end().to_owned());
    }
    let mut words = line.splitn(4, ' ');
    let (time, stream, tag) = (words.next()?, words.next()?, words.next()?);
    let cri =
        time.contains('T') && matches!(stream, "stdout" | "stderr") && matches!(tag, "F" | "P");
    cri.then(|| words.next().map(str::to_owned)).flatten()
}

fn without_colors(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // A control sequence ends with a letter.
            let _ = chars.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(c);
        }
    }
    plain
}

/// The strings of a JSON line that name an error; nothing where it is no JSON, or names none.
///
/// What else such a line has (the request's host, its headers) is not about the failing call.
fn json(line: &str) -> Option<String> {
    let start = line.find('{')?;
    let value: Value = serde_json::from_str(line.get(start..)?.trim()).ok()?;
    let mut strings = Vec::new();
    let mut left = MAX_STRINGS;
    collect(&value, &mut strings, &mut left);
    let mut said: Vec<String> = Vec::new();
    for text in strings {
        if errno(&text.to_lowercase()).is_some() && !said.contains(&text) {
            said.push(text);
        }
    }
    if said.is_empty() {
        return None;
    }
    // An access log has the failing call's destination in a member of its own.
    let upstream = UPSTREAM.iter().find_map(|name| value.get(*name)).and_then(Value::as_str);
    said.extend(upstream.map(|address| format!("upstream {address}")));
    // What comes before the JSON may name the program.
    Some(format!("{}{}", line.get(..start)?, said.join(" ; ").replace(['\n', '\r'], " ")))
        .map(|text| if is_caddy(&value) { format!("caddy: {text}") } else { text })
}

/// Members that name the destination.
const UPSTREAM: &[&str] = &["upstream_host", "upstream_address", "upstream_addr"];

fn is_caddy(value: &Value) -> bool {
    let logger = value.get("logger").and_then(Value::as_str).unwrap_or("");
    logger.starts_with("http.log") || logger.starts_with("http.handlers")
}

/// All strings of a value; an object that is a failed call becomes one, as Node writes it.
fn collect(value: &Value, strings: &mut Vec<String>, left: &mut usize) {
    if *left == 0 {
        return;
    }
    *left -= 1;
    match value {
        Value::String(text) => strings.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| collect(item, strings, left)),
        Value::Object(members) => {
            if let Some(call) = failed_call(value) {
                strings.push(call);
            }
            members.values().for_each(|member| collect(member, strings, left));
        }
        _ => {}
    }
}

/// `{"code":"EADDRNOTAVAIL","syscall":"connect","address":"10.0.0.2","port":8443}`.
fn failed_call(value: &Value) -> Option<String> {
    let text = |names: &[&str]| {
        names.iter().find_map(|name| value.get(*name)).and_then(Value::as_str).map(str::to_owned)
    };
    let code = text(&["code", "errno", "error", "name"])?;
    let address = text(&["address", "host", "hostname", "ip", "addr"])?;
    let port = value.get("port").and_then(|port| {
        port.as_u64().or_else(|| port.as_str().and_then(|text| text.parse().ok()))
    })?;
    errno(&code.to_lowercase())?;
    let call = text(&["syscall", "call", "op"]).unwrap_or_else(|| "connect".to_owned());
    Some(format!("{call} {code} {address}:{port}"))
}

/// Frames of the Java library, and the call that each stands for.
const FRAMES: &[(&str, &str)] = &[
    ("nio.ch.net.connect", "connect"),
    ("nio.ch.net.pollconnect", "connect"),
    ("socketconnect(", "connect"),
    ("socketimpl.connect", "connect"),
    ("socketimpl.doconnect", "connect"),
    ("socket.connect", "connect"),
    ("socketchannelimpl.connect", "connect"),
    ("finishconnect", "connect"),
    ("nio.ch.net.bind", "bind"),
    ("socketbind(", "bind"),
    ("socketimpl.bind", "bind"),
    ("serversocket.bind", "bind"),
    ("socket.bind", "bind"),
    ("socketchannelimpl.bind", "bind"),
    ("serversocketchannelimpl.bind", "bind"),
    ("netbind", "bind"),
];

/// The call that a stack of Java frames names: that of the innermost frame, which comes first.
pub(super) fn java_call(after: &str) -> Option<&'static str> {
    after.lines().skip(1).find_map(|line| {
        let lower = line.to_lowercase();
        let frame = frame(&lower)?;
        FRAMES.iter().find(|(name, _)| frame.contains(name)).map(|(_, call)| *call)
    })
}

/// The frame of a line, `java.base/sun.nio.ch.net.connect0(native method)`, also behind what a
/// journal writes before it.
fn frame(line: &str) -> Option<&str> {
    line.match_indices("at ").find_map(|(at, _)| {
        let begins = line.get(..at)?.chars().next_back().is_none_or(char::is_whitespace);
        let frame = line.get(at + 3..)?;
        let name = frame.split('(').next()?;
        let named = frame.len() > name.len() && name.contains('.') && !name.contains(' ');
        (begins && named).then_some(frame)
    })
}

/// The call in the source line of a Python traceback, right above the error.
pub(super) fn python_call(around: &str) -> Option<&'static str> {
    let mut call = None;
    let mut in_frame = false;
    for line in around.lines() {
        let text = line.trim_start();
        if text.starts_with("File \"") {
            in_frame = true;
        } else if in_frame {
            in_frame = false;
            call = if text.contains(".bind(") || text.contains("listen(") {
                Some("bind")
            } else if text.contains("connect") {
                Some("connect")
            } else {
                None
            };
        } else if !text.starts_with(['^', '~']) && errno(&line.to_lowercase()).is_some() {
            return call;
        }
    }
    None
}
