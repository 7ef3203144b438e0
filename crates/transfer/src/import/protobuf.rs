//! OTLP in protobuf: frames with a length of four bytes in front, as the Collector's file exporter writes them (also when
//! it compresses each), with a varint in front, or one message.

use std::io::{self, Read};

use super::{
    intake::{Intake, Place, Stopped},
    json,
    open::{Bytewise, ZSTD},
};
use crate::RECORD_BYTES_MAX;

/// How messages are told from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Four bytes, the highest first.
    Fixed,
    Varint,
    /// A single request, read resource by resource.
    Whole,
}

/// The first field of a request: its resources.
const RESOURCE_SPANS: u8 = 0x0a;

impl Framing {
    /// What a file that begins so has, if it is protobuf.
    pub fn of(head: &[u8]) -> Option<Self> {
        if let [a, b, c, d, first, ..] = *head {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            let known = first == RESOURCE_SPANS || first == b'{' || head[4..].starts_with(&ZSTD);
            if length > 0 && length <= RECORD_BYTES_MAX && known {
                return Some(Self::Fixed);
            }
        }
        let first = head.first()?;
        let length_bytes = head.iter().position(|byte| byte & 0x80 == 0)? + 1;
        match head.get(length_bytes) {
            Some(&RESOURCE_SPANS) if length_bytes <= 5 && *first != RESOURCE_SPANS => Some(Self::Varint),
            _ if *first == RESOURCE_SPANS => Some(Self::Whole),
            _ => None,
        }
    }
}

/// Why the rest of a source cannot be read.
#[derive(Debug)]
pub(crate) enum Ended {
    Stopped,
    Unreadable(String),
}

impl From<Stopped> for Ended {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error.to_string())
    }
}

pub(crate) fn read(framing: Framing, bytes: Bytewise, intake: &mut Intake<'_>) -> Result<(), Ended> {
    let mut input = Input { bytes: io::BufReader::with_capacity(256 << 10, bytes), offset: 0 };
    loop {
        let at = input.offset;
        let Some(length) = input.length(framing)? else { return Ok(()) };
        if length > RECORD_BYTES_MAX as u64 {
            if framing == Framing::Whole {
                input.pass_over(length)?;
                intake.bad(Place::Byte(at), format!("it has {length} bytes; {RECORD_BYTES_MAX} are the most"))?;
                continue;
            }
            return Err(Ended::Unreadable(format!("at byte {at} stands no length of a message")));
        }
        let mut message = vec![];
        input.exactly(length, &mut message)?;
        if framing == Framing::Whole {
            let mut field = vec![RESOURCE_SPANS];
            put_varint(&mut field, length);
            field.append(&mut message);
            message = field;
        }
        intake.record(Place::Byte(at), || message_of(message))?;
    }
}

/// A frame may be compressed, and hold JSON.
fn message_of(frame: Vec<u8>) -> Result<Vec<u8>, String> {
    let message = if frame.starts_with(&ZSTD) {
        let mut out = vec![];
        let decoder = zstd::Decoder::new(frame.as_slice()).map_err(|error| error.to_string())?;
        let most = RECORD_BYTES_MAX as u64 + 1;
        decoder.take(most).read_to_end(&mut out).map_err(|error| error.to_string())?;
        if out.len() > RECORD_BYTES_MAX {
            return Err(format!("it has more than {RECORD_BYTES_MAX} bytes"));
        }
        out
    } else {
        frame
    };
    if message.first() == Some(&b'{') { json::request(&message, json::Around::Nothing, 0) } else { Ok(message) }
}

struct Input {
    bytes: io::BufReader<Bytewise>,
    offset: u64,
}

impl Input {
    fn byte(&mut self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        loop {
            match self.bytes.read(&mut byte) {
                Ok(0) => return Ok(None),
                Ok(_) => {
                    self.offset += 1;
                    return Ok(Some(byte[0]));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The length of the next message; `None` at the end of the file.
    fn length(&mut self, framing: Framing) -> Result<Option<u64>, Ended> {
        let at = self.offset;
        let Some(first) = self.byte()? else { return Ok(None) };
        let ends = || Ended::Unreadable(format!("the file ends inside what begins at byte {at}"));
        match framing {
            Framing::Fixed => {
                let mut length = u64::from(first);
                for _ in 0..3 {
                    length = length << 8 | u64::from(self.byte()?.ok_or_else(ends)?);
                }
                Ok(Some(length))
            }
            Framing::Varint => self.varint(first, at).map(Some),
            Framing::Whole if first == RESOURCE_SPANS => {
                let first = self.byte()?.ok_or_else(ends)?;
                self.varint(first, at).map(Some)
            }
            Framing::Whole => Err(Ended::Unreadable(format!("at byte {at} begins no resource of an OTLP request"))),
        }
    }

    fn varint(&mut self, first: u8, at: u64) -> Result<u64, Ended> {
        let mut value = u64::from(first & 0x7f);
        let mut byte = first;
        let mut shift = 7;
        while byte & 0x80 != 0 {
            let next = self.byte()?.filter(|_| shift < 63);
            byte = next.ok_or_else(|| Ended::Unreadable(format!("at byte {at} stands no length of a message")))?;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
        }
        Ok(value)
    }

    fn exactly(&mut self, length: u64, out: &mut Vec<u8>) -> Result<(), Ended> {
        let at = self.offset;
        let read = self.bytes.by_ref().take(length).read_to_end(out)? as u64;
        self.offset += read;
        match read == length {
            true => Ok(()),
            false => Err(Ended::Unreadable(format!("the file ends inside the message at byte {at}"))),
        }
    }

    fn pass_over(&mut self, length: u64) -> Result<(), Ended> {
        self.offset += io::copy(&mut self.bytes.by_ref().take(length), &mut io::sink())?;
        Ok(())
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
