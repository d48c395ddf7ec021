//! The wanted part of a JSON text, with lines.
//!
//! `serde_json` tells no places, so it checks the text as a whole; then a scan by brackets and quotes
//! finds the wanted members in what is known to be JSON. The scan recurses only as deep as what is
//! wanted.

use serde::de::IgnoredAny;

use super::Problem;
use super::node::{Node, Value, Want, object};

pub(super) fn read(text: &str, want: &'static Want) -> Result<Node, Problem> {
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| Problem {
        line: Some(error.line()).filter(|line| *line > 0),
        message: format!("the document does not parse as JSON: {error}"),
    })?;
    let mut scan = Scan { text, at: 0, line: 1 };
    scan.space();
    let line = scan.line;
    scan.node(line, want)
}

/// A place in a text that is JSON.
struct Scan<'t> {
    text: &'t str,
    at: usize,
    line: usize,
}

impl<'t> Scan<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        self.line += usize::from(byte == b'\n');
        Some(byte)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.take();
        }
    }

    /// The value here. `line`: of what names it.
    fn node(&mut self, line: usize, want: &'static Want) -> Result<Node, Problem> {
        let value = match (self.peek(), want) {
            (Some(b'{'), Want::Object(_) | Want::Each(_)) => self.object(want)?,
            (Some(b'['), Want::List(want)) => self.list(want)?,
            (Some(b'{'), _) => {
                self.skip();
                Value::Other("an object")
            }
            (Some(b'['), _) => {
                self.skip();
                Value::Other("a list")
            }
            (Some(b'"'), _) => Value::Text(self.string()?),
            _ => match self.skip() {
                "null" => Value::Null,
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                number => Value::Number(number.to_owned()),
            },
        };
        Ok(Node { line, value })
    }

    fn object(&mut self, want: &'static Want) -> Result<Value, Problem> {
        let mut members = Vec::new();
        self.take();
        loop {
            self.space();
            match self.peek() {
                Some(b'"') => {}
                Some(b',') => {
                    self.take();
                    continue;
                }
                _ => break,
            }
            let line = self.line;
            let name = self.string()?;
            self.space();
            // The colon.
            self.take();
            self.space();
            match want.of(&name) {
                Some(want) => members.push((name, self.node(line, want)?)),
                None => {
                    self.skip();
                }
            }
        }
        self.take();
        object(members)
    }

    fn list(&mut self, want: &'static Want) -> Result<Value, Problem> {
        let mut elements = Vec::new();
        self.take();
        loop {
            self.space();
            match self.peek() {
                Some(b',') => {
                    self.take();
                }
                None | Some(b']') => break,
                Some(_) => {
                    let line = self.line;
                    elements.push(self.node(line, want)?);
                }
            }
        }
        self.take();
        Ok(Value::List(elements))
    }

    fn string(&mut self) -> Result<String, Problem> {
        let line = self.line;
        let written = self.skip();
        serde_json::from_str(written).map_err(|error| Problem {
            line: Some(line),
            message: format!("the document does not parse as JSON: {error}"),
        })
    }

    /// Passes over one value; its text.
    fn skip(&mut self) -> &'t str {
        let from = self.at;
        let mut depth = 0_usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => self.skip_string(),
                b'{' | b'[' => {
                    depth += 1;
                    self.take();
                }
                b'}' | b']' if depth == 0 => break,
                b'}' | b']' => {
                    depth -= 1;
                    self.take();
                }
                b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => break,
                _ => {
                    self.take();
                    continue;
                }
            }
            if depth == 0 {
                break;
            }
        }
        self.text.get(from..self.at).unwrap_or_default()
    }

    fn skip_string(&mut self) {
        self.take();
        while let Some(byte) = self.take() {
            match byte {
                b'\\' => {
                    self.take();
                }
                b'"' => return,
                _ => {}
            }
        }
    }
}
