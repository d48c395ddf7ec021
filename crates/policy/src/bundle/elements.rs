//! The elements of a JSON list, one after the other, from a reader: so that each has its line,
//! and a list of a million is never in memory as a text.

use std::io::{self, Read};

/// Bytes read at once.
const CHUNK: u64 = 64 << 10;

/// What comes next in a list.
pub(super) enum Next<'a> {
    /// An element's text (or what there is of it, where the input ends within) and its line.
    Element(&'a [u8], usize),
    /// The list is closed and nothing follows it.
    End,
    /// The input is not such a list: what is expected, and the line.
    Wrong(&'static str, usize),
    /// An element has more bytes than `MAX_ELEMENT_BYTES`.
    TooLong(usize),
}

/// The longest element, in bytes: above the largest item, whose JSON may have white space.
pub(super) const MAX_ELEMENT_BYTES: usize = 4 << 20;

/// See the module.
pub(super) struct Elements<R> {
    from: R,
    buffer: Vec<u8>,
    /// What is read and not yet taken begins here.
    at: usize,
    /// The line of `at`, counted from 1.
    line: usize,
    /// Whether the reader has nothing more.
    ended: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Before,
    First,
    Between,
    After,
}

impl<R: Read> Elements<R> {
    pub(super) fn of(from: R) -> Elements<R> {
        let state = State::Before;
        Elements { from, buffer: Vec::new(), at: 0, line: 1, ended: false, state }
    }

    pub(super) fn next(&mut self) -> io::Result<Next<'_>> {
        if self.state == State::Before {
            self.skip_mark()?;
            if self.peek()? != Some(b'[') {
                return Ok(Next::Wrong("not a JSON list of entities", self.line));
            }
            self.at += 1;
            self.state = State::First;
        }
        let next = self.peek()?;
        match (self.state, next) {
            (State::First | State::Between, Some(b']')) => {
                self.at += 1;
                self.state = State::After;
            }
            (State::Between, Some(b',')) => {
                self.at += 1;
                if self.peek()?.is_none() {
                    return Ok(Next::Wrong("the list is not closed", self.line));
                }
            }
            (State::Between, _) => {
                return Ok(Next::Wrong("a comma or the list's end is expected", self.line));
            }
            (State::First, None) => {
                return Ok(Next::Wrong("the list is not closed", self.line));
            }
            _ => {}
        }
        if self.state == State::After {
            return Ok(match self.peek()? {
                None => Next::End,
                Some(_) => Next::Wrong("nothing may follow the list", self.line),
            });
        }
        self.element()
    }

    /// A byte order mark at the start says nothing.
    fn skip_mark(&mut self) -> io::Result<()> {
        const MARK: &[u8] = "\u{feff}".as_bytes();
        while self.buffer.len() < MARK.len() && self.fill()? {}
        if self.buffer.starts_with(MARK) {
            self.at = MARK.len();
        }
        Ok(())
    }

    /// The element that begins at the next byte.
    fn element(&mut self) -> io::Result<Next<'_>> {
        self.state = State::Between;
        let line = self.line;
        let mut scan = Scan::default();
        let mut end = self.at;
        loop {
            while let Some(byte) = self.buffer.get(end).copied() {
                if scan.ends_before(byte) {
                    return Ok(self.taken(end, line));
                }
                end += 1;
                if scan.ends_after(byte) {
                    return Ok(self.taken(end, line));
                }
            }
            if end - self.at > MAX_ELEMENT_BYTES {
                return Ok(Next::TooLong(line));
            }
            let length = end - self.at;
            if !self.fill()? {
                return Ok(self.taken(end, line));
            }
            end = self.at + length;
        }
    }

    fn taken(&mut self, end: usize, line: usize) -> Next<'_> {
        let text = self.buffer.get(self.at..end).unwrap_or_default();
        self.line += newlines(text);
        self.at = end;
        Next::Element(text, line)
    }

    /// The next byte that is not white space, not taken.
    fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            while let Some(byte) = self.buffer.get(self.at).copied() {
                match byte {
                    b'\n' => self.line += 1,
                    b' ' | b'\t' | b'\r' => {}
                    _ => return Ok(Some(byte)),
                }
                self.at += 1;
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Reads more; false: there is no more.
    fn fill(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        self.buffer.drain(..self.at.min(self.buffer.len()));
        self.at = 0;
        // A reader may give a few bytes at a time: as many as fit are gathered before they are scanned.
        let read = (&mut self.from).take(CHUNK).read_to_end(&mut self.buffer)?;
        self.ended = read == 0;
        Ok(!self.ended)
    }
}

/// Finds where a value ends, by brackets and quotes alone.
#[derive(Default)]
struct Scan {
    depth: usize,
    begun: bool,
    quoted: bool,
    escaped: bool,
}

impl Scan {
    /// Whether the value ended before this byte: one that is neither a list, an object nor a text.
    fn ends_before(&self, byte: u8) -> bool {
        self.begun
            && self.depth == 0
            && !self.quoted
            && matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\r' | b'\n')
    }

    /// Whether it ends with this byte.
    fn ends_after(&mut self, byte: u8) -> bool {
        self.begun = true;
        if self.quoted {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => {
                    self.quoted = false;
                    return self.depth == 0;
                }
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.quoted = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

fn newlines(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}
