//! An output whose reader may go away (`doctor | head`): what is left is dropped, and the answer,
//! which is the exit code, stays what it is.

use std::io::{self, Write};

/// Writes to `inner` until that is a broken pipe, then to nowhere.
pub struct Pipe<'w> {
    inner: &'w mut dyn Write,
    gone: bool,
}

impl<'w> Pipe<'w> {
    /// A pipe around an output.
    pub fn new(inner: &'w mut dyn Write) -> Self {
        Self { inner, gone: false }
    }

    /// Whether nobody reads any more.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    fn or_gone<T>(&mut self, result: io::Result<T>, instead: T) -> io::Result<T> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.gone = true;
                Ok(instead)
            }
            other => other,
        }
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.gone {
            return Ok(bytes.len());
        }
        let result = self.inner.write(bytes);
        self.or_gone(result, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gone {
            return Ok(());
        }
        let result = self.inner.flush();
        self.or_gone(result, ())
    }
}
