//! Takes JSON text apart without keeping it: whole values, one at a time, each bounded.
//!
//! It looks at brackets and quotes only; whether a value makes sense is for whoever reads it.

use std::io::{self, Cursor, Read};

use super::open::Bytewise;
use crate::RECORD_BYTES_MAX;

#[derive(Debug)]
pub(crate) enum Damage {
    Io(io::Error),
    At { byte: u64, reason: &'static str },
}

impl From<io::Error> for Damage {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

pub(crate) struct Scanner {
    bytes: Bytewise,
    buffer: Vec<u8>,
    /// The unread part of the buffer.
    at: usize,
    end: usize,
    /// Of `at` in the text.
    offset: u64,
}

impl Scanner {
    pub fn new(bytes: Bytewise) -> Self {
        Self { bytes, buffer: vec![0; 256 << 10], at: 0, end: 0, offset: 0 }
    }

    /// The unread bytes in the buffer; none at the end of the text.
    fn fill(&mut self) -> io::Result<&[u8]> {
        while self.at == self.end {
            match self.bytes.read(&mut self.buffer) {
                Ok(count) => {
                    (self.at, self.end) = (0, count);
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&self.buffer[self.at..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
        self.offset += count as u64;
    }

    pub fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.fill()?.first().copied())
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn damage(&self, reason: &'static str) -> Damage {
        Damage::At { byte: self.offset, reason }
    }

    /// What was not read yet.
    pub fn into_rest(self) -> impl Read + Send {
        Cursor::new(self.buffer[self.at..self.end].to_vec()).chain(self.bytes)
    }

    /// Passes over a byte order mark.
    pub fn skip_mark(&mut self) -> io::Result<()> {
        let mark = self.fill()?.starts_with(b"\xef\xbb\xbf");
        self.consume(if mark { 3 } else { 0 });
        Ok(())
    }

    /// Also the character that some put between texts.
    pub fn skip_space(&mut self) -> io::Result<()> {
        loop {
            let bytes = self.fill()?;
            let count = bytes.iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == 0x1e).count();
            let whole = count == bytes.len() && count > 0;
            self.consume(count);
            if !whole {
                return Ok(());
            }
        }
    }

    pub fn expect(&mut self, byte: u8) -> Result<(), Damage> {
        match self.peek()? {
            Some(next) if next == byte => {
                self.consume(1);
                Ok(())
            }
            _ => Err(self.damage("brackets, colons and commas do not fit together")),
        }
    }

    /// Appends a line without its end. False if it is longer than `most`; then what follows is the rest of it.
    pub fn line(&mut self, out: &mut Vec<u8>, most: usize) -> io::Result<bool> {
        loop {
            let bytes = self.fill()?;
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let count = end.unwrap_or(bytes.len());
            if out.len() + count > most {
                return Ok(false);
            }
            out.extend_from_slice(&bytes[..count]);
            let last = bytes.is_empty();
            self.consume(count + usize::from(end.is_some()));
            if end.is_some() || last {
                return Ok(true);
            }
        }
    }

    /// Passes over the rest of a line.
    pub fn pass_line(&mut self) -> io::Result<()> {
        loop {
            let bytes = self.fill()?;
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let (count, last) = (end.map_or(bytes.len(), |end| end + 1), bytes.is_empty());
            self.consume(count);
            if end.is_some() || last {
                return Ok(());
            }
        }
    }

    /// Appends the value that begins here. False if it has more than [`RECORD_BYTES_MAX`] bytes: it is passed over then.
    pub fn value(&mut self, out: &mut Vec<u8>) -> Result<bool, Damage> {
        let begin = out.len();
        let (mut depth, mut text, mut escaped, mut kept, mut first) = (0u64, false, false, true, true);
        loop {
            let bytes = self.fill()?;
            if bytes.is_empty() {
                let whole = depth == 0 && !text && !first;
                return if whole { Ok(kept) } else { Err(self.damage("the file ends inside a value")) };
            }
            let mut count = 0;
            let mut whole = false;
            for byte in bytes {
                let bare = depth == 0 && !text;
                // What ends a number or a word stands behind it.
                if bare && !first && (matches!(byte, b',' | b']' | b'}' | b':') || byte.is_ascii_whitespace()) {
                    whole = true;
                    break;
                }
                count += 1;
                first = false;
                if text {
                    (text, escaped) = (escaped || *byte != b'"', !escaped && *byte == b'\\');
                    whole = !text && depth == 0;
                } else {
                    match byte {
                        b'"' => text = true,
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => {
                            depth = depth.saturating_sub(1);
                            whole = depth == 0;
                        }
                        _ => {}
                    }
                }
                if whole {
                    break;
                }
            }
            if kept && out.len() - begin + count > RECORD_BYTES_MAX {
                kept = false;
                out.truncate(begin);
            }
            if kept {
                out.extend_from_slice(&bytes[..count]);
            }
            self.consume(count);
            if whole {
                return Ok(kept);
            }
        }
    }
}
