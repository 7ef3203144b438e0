//! Reads one segment from front to back: records, and the stretches between them that are damaged.
//!
//! Invariants: every byte between the segment header and the end is in exactly one step; a record that checks is never
//! lost to damage before it; memory is one window and one record.

use std::{fs::File, io, os::unix::fs::FileExt};

use bytes::Bytes;
use model::TenantId;

use crate::format::{Place, RECORD_HEADER_BYTES, Record, RecordHeader, SEGMENT_HEADER_BYTES, crc32c};

/// Bytes read ahead at once.
const WINDOW_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub enum Step {
    Record { offset: u64, end: u64, record: Record },
    Damage { offset: u64, end: u64, reason: &'static str },
}

pub struct Scan {
    pub file: File,
    place: Place,
    offset: u64,
    end: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl Scan {
    /// Reads records up to `end`, which must not lie behind the end of the file.
    pub fn new(file: File, place: Place, end: u64) -> Self {
        Self { file, place, offset: SEGMENT_HEADER_BYTES as u64, end, window: Vec::new(), window_start: 0 }
    }

    pub fn place(&self) -> Place {
        self.place
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn next(&mut self) -> io::Result<Option<Step>> {
        let offset = self.offset;
        if offset >= self.end {
            return Ok(None);
        }
        let step = match self.header_at(offset)? {
            None => {
                let end = self.find_header(offset + 1)?.unwrap_or(self.end);
                Step::Damage { offset, end, reason: "the record header does not check" }
            }
            Some(header) => {
                let end = offset + (RECORD_HEADER_BYTES + header.body_bytes()) as u64;
                if end > self.end {
                    Step::Damage { offset, end: self.end, reason: "the record is cut off" }
                } else {
                    match self.record(offset, header)? {
                        Ok(record) => Step::Record { offset, end, record },
                        Err(reason) => Step::Damage { offset, end, reason },
                    }
                }
            }
        };
        self.offset = match &step {
            Step::Record { end, .. } | Step::Damage { end, .. } => *end,
        };
        assert!(self.offset > offset, "a step moves forward");
        Ok(Some(step))
    }

    fn record(&mut self, offset: u64, header: RecordHeader) -> io::Result<Result<Record, &'static str>> {
        let (start, bytes) = (offset + RECORD_HEADER_BYTES as u64, header.body_bytes());
        let body = if bytes <= WINDOW_BYTES {
            self.window(start, bytes)?.to_vec()
        } else {
            let mut body = vec![0; bytes];
            self.file.read_exact_at(&mut body, start)?;
            body
        };
        if crc32c(&body) != header.body_crc {
            return Ok(Err("the record body does not check"));
        }
        let body = Bytes::from(body);
        let name = &body[..usize::from(header.tenant_bytes)];
        let Some(tenant) = std::str::from_utf8(name).ok().and_then(|name| TenantId::parse(name).ok()) else {
            return Ok(Err("the record's tenant name is not allowed"));
        };
        let payload = body.slice(usize::from(header.tenant_bytes)..);
        Ok(Ok(Record { tenant, received_unix_nano: header.received_unix_nano, payload }))
    }

    fn header_at(&mut self, offset: u64) -> io::Result<Option<RecordHeader>> {
        let place = self.place;
        Ok(RecordHeader::decode(self.window(offset, RECORD_HEADER_BYTES)?, place, offset))
    }

    /// The next offset at or after `from` where a record header checks.
    fn find_header(&mut self, from: u64) -> io::Result<Option<u64>> {
        for offset in from..self.end {
            if self.header_at(offset)?.is_some() {
                return Ok(Some(offset));
            }
        }
        Ok(None)
    }

    /// Up to `bytes` bytes from `offset`: fewer at the end.
    fn window(&mut self, offset: u64, bytes: usize) -> io::Result<&[u8]> {
        let wanted_end = (offset + bytes as u64).min(self.end);
        let have_end = self.window_start + self.window.len() as u64;
        if offset < self.window_start || wanted_end > have_end {
            let length = (self.end - offset).min(WINDOW_BYTES as u64) as usize;
            self.window.resize(length, 0);
            self.window_start = offset;
            self.file.read_exact_at(&mut self.window, offset)?;
        }
        let at = (offset - self.window_start) as usize;
        Ok(&self.window[at..at + (wanted_end - offset) as usize])
    }
}
