//! The body of an `apply`, `{"files": {NAME: TEXT, ..}}`, read as it comes: `entities.json` goes
//! straight to its reader and is never in memory as a text.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use bytes::{Buf as _, Bytes};
use http_body_util::BodyExt as _;
use keepgate_policy::bundle::{Packed, Packer, is_entities_file};
use tokio::sync::mpsc;

use super::fair::{Crowded, Fair, Seat};
use super::problem::Problem;
use super::{Answer, App, input};
use crate::access::Caller;
use crate::desk::{Stage, Work};

/// Pieces of a body on their way to its reader.
const PIECES: usize = 8;

/// Files in one body.
const MAX_FILES: usize = 10_000;

/// Bytes of a file's name.
const NAME_BYTES: usize = 1_024;

/// Bodies of up to this many bytes are small.
const SMALL: u64 = 8 << 20;

/// How long a body may take beyond the bound of every body: this, for each MiB of it.
const SECOND_PER: u64 = 1 << 20;

/// Edits of one token that may wait for a place.
const WAITING: usize = 64;

/// Who may bring what takes a while to check, at the same time: one large body, and a few small ones,
/// half of them of one token. Where several tokens wait, they take turns.
#[derive(Debug)]
pub(crate) struct FileSeats {
    large: Arc<Fair>,
    small: Arc<Fair>,
    reading: Arc<Fair>,
}

impl Default for FileSeats {
    fn default() -> FileSeats {
        let of = |places, of_one| Arc::new(Fair::of(places, of_one, WAITING));
        FileSeats { large: of(1, 1), small: of(4, 2), reading: of(2, 1) }
    }
}

impl FileSeats {
    /// Waits for a place.
    pub(crate) async fn enter(&self, caller: &Caller, is_small: bool) -> Answer<Seat> {
        let places = if is_small { &self.small } else { &self.large };
        places.seat(caller.token_id()).await.map_err(|Crowded| {
            Problem::too_many("too many changes of this token wait for their turn; try again")
        })
    }

    /// Waits for a place to read everything of a service.
    pub(crate) async fn read(&self, caller: &Caller) -> Answer<Seat> {
        self.reading.seat(caller.token_id()).await.map_err(|Crowded| {
            Problem::too_many("too many exports of this token wait for their turn; try again")
        })
    }
}

/// Whether a request has a small body; one without a length may be large.
pub(crate) fn is_small(request: &Request) -> bool {
    request.body().size_hint().upper().is_some_and(|bytes| bytes <= SMALL)
}

/// Reads the files of a request and what they say.
pub(crate) async fn packed(
    app: &App,
    request: Request,
    service: &str,
    work: &Arc<Work>,
) -> Answer<Packed> {
    if !input::is_json(request.headers()) {
        return Err(Problem::media_type("send it with `Content-Type: application/json`"));
    }
    let most = app.bounds.apply_bytes;
    if request.body().size_hint().lower() > most {
        return Err(Problem::too_large(most));
    }
    work.begin(Stage::Read, 0);
    let (to, pieces) = mpsc::channel(PIECES);
    let reader = {
        let (service, work) = (service.to_owned(), Arc::clone(work));
        // A million entities take a while to read: not on the runtime's threads.
        tokio::task::spawn_blocking(move || read(Pieces::of(pieces), &service, &work))
    };
    let sent = send(request.into_body(), to, most, app.bounds.body).await;
    let read = reader.await.map_err(|_| Problem::internal())?;
    sent?;
    match read {
        Ok(packed) => Ok(packed),
        Err(e) => Err(Problem::bad_request(format!("the body does not parse: {e}"))),
    }
}

/// Passes a body on, within its bounds of size and time. Only the time counts in which the client
/// is waited for, not that in which its body waits to be read.
async fn send(
    mut body: Body,
    to: mpsc::Sender<Piece>,
    most: u64,
    patience: Duration,
) -> Answer<()> {
    let mut bytes: u64 = 0;
    let mut waited = Duration::ZERO;
    loop {
        let began = tokio::time::Instant::now();
        let left = (patience + Duration::from_secs(bytes / SECOND_PER)).saturating_sub(waited);
        let frame = tokio::time::timeout(left, body.frame());
        let piece = match frame.await.map_err(|_| Problem::too_slow())? {
            None => Piece::End,
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Piece::Data(data),
                Err(_) => continue,
            },
            Some(Err(_)) => return Err(Problem::bad_request("the body ended early")),
        };
        waited += began.elapsed();
        let is_last = matches!(piece, Piece::End);
        if let Piece::Data(data) = &piece {
            bytes += data.len() as u64;
            if bytes > most {
                return Err(Problem::too_large(most));
            }
        }
        // A reader that has seen enough says itself what is wrong.
        if to.send(piece).await.is_err() || is_last {
            return Ok(());
        }
    }
}

enum Piece {
    Data(Bytes),
    /// It is complete.
    End,
}

/// A body as a reader, on a thread that may block.
struct Pieces {
    from: mpsc::Receiver<Piece>,
    piece: Bytes,
    ended: bool,
}

impl Pieces {
    fn of(from: mpsc::Receiver<Piece>) -> Pieces {
        Pieces { from, piece: Bytes::new(), ended: false }
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.is_empty() && !self.ended {
            match self.from.blocking_recv() {
                Some(Piece::Data(data)) => self.piece = data,
                Some(Piece::End) => self.ended = true,
                None => return Err(wrong("it ended early")),
            }
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, amount: usize) {
        self.piece.advance(amount.min(self.piece.len()));
    }
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let held = self.fill_buf()?;
        let count = held.len().min(into.len());
        for (to, from) in into.iter_mut().zip(held) {
            *to = *from;
        }
        self.consume(count);
        Ok(count)
    }
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Reads the whole body. Blocks.
fn read(from: impl BufRead, service: &str, work: &Work) -> io::Result<Packed> {
    let mut json = Json { from };
    let mut packer = Packer::new(service);
    let mut names = BTreeSet::new();
    let mut has_files = false;
    json.object(|json, member| {
        if member != "files" {
            return Err(wrong(format!("unknown field `{member}`, expected `files`")));
        }
        if std::mem::replace(&mut has_files, true) {
            return Err(wrong("duplicate field `files`"));
        }
        json.object(|json, name| {
            if names.len() == MAX_FILES {
                return Err(wrong(format!("more than {MAX_FILES} files")));
            }
            let mut text = json.text()?;
            if is_entities_file(&name) {
                packer.entities(&name, &mut text, |count| {
                    work.at(count);
                    !work.is_given_up()
                })?;
                // What is behind an error is not looked at.
                io::copy(&mut text, &mut io::sink())?;
            } else {
                let mut file = String::new();
                text.read_to_string(&mut file)?;
                packer.file(name.clone(), file);
            }
            if names.contains(&name) {
                return Err(wrong(format!("the file `{name}` occurs twice")));
            }
            names.insert(name);
            Ok(())
        })
    })?;
    if json.next_byte()?.is_some() {
        return Err(wrong("expected nothing after the object"));
    }
    if !has_files {
        return Err(wrong("missing field `files`"));
    }
    if work.is_given_up() {
        return Err(wrong("nobody waits for it"));
    }
    Ok(packer.finish())
}

/// JSON objects of texts, as they come.
struct Json<R> {
    from: R,
}

impl<R: BufRead> Json<R> {
    /// The next byte that is not white space, not taken.
    fn next_byte(&mut self) -> io::Result<Option<u8>> {
        loop {
            let Some(byte) = self.from.fill_buf()?.first().copied() else { return Ok(None) };
            if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                return Ok(Some(byte));
            }
            self.from.consume(1);
        }
    }

    fn take(&mut self, byte: u8) -> io::Result<bool> {
        let found = self.next_byte()? == Some(byte);
        self.from.consume(usize::from(found));
        Ok(found)
    }

    fn must(&mut self, byte: u8) -> io::Result<()> {
        if self.take(byte)? {
            return Ok(());
        }
        let found = match self.next_byte()? {
            Some(found) => format!("`{}`", char::from(found).escape_default()),
            None => "the end".to_owned(),
        };
        Err(wrong(format!("expected `{}`, found {found}", char::from(byte))))
    }

    /// Each member's name; the visitor takes its value.
    fn object(
        &mut self,
        mut visit: impl FnMut(&mut Json<R>, String) -> io::Result<()>,
    ) -> io::Result<()> {
        self.must(b'{')?;
        if self.take(b'}')? {
            return Ok(());
        }
        loop {
            let mut name = String::new();
            let read = self.text()?.take(NAME_BYTES as u64 + 1).read_to_string(&mut name)?;
            if read > NAME_BYTES {
                return Err(wrong(format!("a name of more than {NAME_BYTES} bytes")));
            }
            self.must(b':')?;
            visit(self, name)?;
            if self.take(b'}')? {
                return Ok(());
            }
            self.must(b',')?;
        }
    }

    fn text(&mut self) -> io::Result<Text<'_, R>> {
        self.must(b'"')?;
        Ok(Text { from: &mut self.from, pending: Vec::new(), ended: false })
    }
}

/// A JSON text without its quotes and escapes.
struct Text<'a, R> {
    from: &'a mut R,
    /// Of a character that was escaped.
    pending: Vec<u8>,
    ended: bool,
}

impl<R: BufRead> Read for Text<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.pending.is_empty() {
                let count = self.pending.len().min(into.len());
                for (to, from) in into.iter_mut().zip(self.pending.drain(..count)) {
                    *to = from;
                }
                return Ok(count);
            }
            if self.ended || into.is_empty() {
                return Ok(0);
            }
            let held = self.from.fill_buf()?;
            let Some(first) = held.first().copied() else {
                return Err(wrong("it ended within a string"));
            };
            let is_special = |byte: &u8| matches!(*byte, b'"' | b'\\' | 0..0x20);
            let most = held.len().min(into.len());
            let plain = held.iter().take(most).position(is_special).unwrap_or(most);
            if plain > 0 {
                for (to, from) in into.iter_mut().zip(held.iter().take(plain)) {
                    *to = *from;
                }
                self.from.consume(plain);
                return Ok(plain);
            }
            self.from.consume(1);
            match first {
                b'"' => self.ended = true,
                b'\\' => self.escape()?,
                _ => return Err(wrong("a control character within a string")),
            }
        }
    }
}

impl<R: BufRead> Text<'_, R> {
    fn byte(&mut self) -> io::Result<u8> {
        let byte = self.from.fill_buf()?.first().copied();
        self.from.consume(1);
        byte.ok_or_else(|| wrong("it ended within a string"))
    }

    fn escape(&mut self) -> io::Result<()> {
        let plain = match self.byte()? {
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            byte @ (b'"' | b'\\' | b'/') => char::from(byte),
            b'u' => self.unicode()?,
            other => {
                let other = char::from(other).escape_default();
                return Err(wrong(format!("`\\{other}` is not an escape of JSON")));
            }
        };
        let mut buffer = [0; 4];
        self.pending.extend_from_slice(plain.encode_utf8(&mut buffer).as_bytes());
        Ok(())
    }

    /// What follows `\u`: one code unit of UTF-16, or two of them.
    fn unicode(&mut self) -> io::Result<char> {
        let lone = || wrong("a lone surrogate within a string");
        let first = self.unit()?;
        if let Some(plain) = char::from_u32(first) {
            return Ok(plain);
        }
        if first >= 0xDC00 || self.byte()? != b'\\' || self.byte()? != b'u' {
            return Err(lone());
        }
        let second = self.unit()?;
        if !(0xDC00..0xE000).contains(&second) {
            return Err(lone());
        }
        char::from_u32(0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00)).ok_or_else(lone)
    }

    fn unit(&mut self) -> io::Result<u32> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = char::from(self.byte()?).to_digit(16);
            unit = unit << 4 | digit.ok_or_else(|| wrong("`\\u` needs four hexadecimal digits"))?;
        }
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(json: &str, piece: usize) -> io::Result<String> {
        let from = io::BufReader::with_capacity(piece, json.as_bytes());
        let mut text = String::new();
        Json { from }.text()?.read_to_string(&mut text)?;
        Ok(text)
    }

    /// As `serde_json` reads it, in pieces of any size.
    #[test]
    fn texts_are_read_as_json_says() {
        for json in [
            r#""""#,
            r#""plain""#,
            r#""a\"b\\c\/d\n\t\r\b\f""#,
            r#""\u0041\u00e9\u20ac\ud83d\ude00 \u0000""#,
            "\"caf\u{e9} \u{1f600}\"",
        ] {
            let wanted: String = serde_json::from_str(json).unwrap();
            for piece in [1, 2, 3, 7, 4096] {
                assert_eq!(text_of(json, piece).unwrap(), wanted, "{json} by {piece}");
            }
        }
        for json in [
            r#""open"#,
            r#""\x""#,
            r#""\ud83d""#,
            r#""\ud83d\u0041""#,
            r#""\ude00""#,
            r#""\u12g4""#,
            "\"a\nb\"",
            r#""\"#,
            "text",
        ] {
            assert!(serde_json::from_str::<String>(json).is_err(), "{json}");
            assert!(text_of(json, 4096).is_err(), "{json}");
        }
        assert!(text_of("\"\u{e9}", 1).is_err());
    }

    fn body(json: &str) -> Result<usize, String> {
        match read(json.as_bytes(), "s", &Work::default()) {
            Ok(packed) if packed.errors().is_empty() => Ok(packed.len()),
            Ok(packed) => Err(packed.errors().first().map(ToString::to_string).unwrap_or_default()),
            Err(e) => Err(e.to_string()),
        }
    }

    #[test]
    fn bodies_are_one_object_of_files() {
        let toml = r#""service.toml":"name = \"s\"""#;
        assert_eq!(body(&format!("{{\"files\":{{{toml}}}}}")), Ok(1));
        let entities = r#""entities.json":"[\n {\"uid\":{\"type\":\"user\",\"id\":\"a\"}}, ]""#;
        let wrong = body(&format!("{{\"files\":{{{toml},{entities}}}}}"));
        assert_eq!(wrong, Err("entities.json:2: expected value".to_owned()));
        for (json, message) in [
            ("{}", "missing field `files`"),
            ("[]", "expected `{`, found `[`"),
            ("{\"file\":{}}", "unknown field `file`, expected `files`"),
            ("{\"files\":{},\"files\":{}}", "duplicate field `files`"),
            ("{\"files\":{\"a\":1}}", "expected `\"`, found `1`"),
            ("{\"files\":{\"a\":\"\",\"a\":\"\"}}", "the file `a` occurs twice"),
            ("{\"files\":{}} x", "expected nothing after the object"),
            ("{\"files\":{", "expected `\"`, found the end"),
        ] {
            assert_eq!(body(json), Err(message.to_owned()), "{json}");
        }
    }
}
