//! The bytes of a segment: one header, then records. Normative text: `docs/wal-format.md`.
//!
//! Every checksum that says "a record begins here" covers the ingester id, the segment number and the offset, so bytes
//! that belong elsewhere (a reused disk block, a duplicated tail, a request that imitates a record) never look valid.

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use model::TenantId;
use ulid::Ulid;

pub const MAGIC: [u8; 8] = *b"SOSTWAL\0";
pub const VERSION: u32 = 1;
pub const SEGMENT_HEADER_BYTES: usize = 64;
pub const RECORD_HEADER_BYTES: usize = 24;
/// The largest payload of one record. Larger than any request the receivers let in by default, small enough that replay
/// may hold one in memory.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;
/// `TenantId` allows no longer name.
pub const TENANT_BYTES_MAX: usize = 150;

pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Where a segment stands: whose it is and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub ingester: Ulid,
    pub segment: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub place: Place,
    /// The segment written before this one, and the offset where its acknowledged records end. Zero: there was none.
    pub previous: u64,
    pub previous_end: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// Too short, wrong magic, wrong checksum, or the header of another segment.
    Broken,
    /// Intact, but written by a newer program.
    Version(u32),
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[16..32].copy_from_slice(&self.place.ingester.to_bytes());
        out[32..40].copy_from_slice(&self.place.segment.to_le_bytes());
        out[40..48].copy_from_slice(&self.previous.to_le_bytes());
        out[48..56].copy_from_slice(&self.previous_end.to_le_bytes());
        let crc = crc32c(&out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header of the segment that its file name says it is.
    pub fn decode(bytes: &[u8], place: Place) -> Result<Self, HeaderFault> {
        let bytes: &[u8; SEGMENT_HEADER_BYTES] =
            bytes.get(..SEGMENT_HEADER_BYTES).and_then(|b| b.try_into().ok()).ok_or(HeaderFault::Broken)?;
        if bytes[0..8] != MAGIC || crc32c(&bytes[..60]) != u32_at(bytes, 60) {
            return Err(HeaderFault::Broken);
        }
        match u32_at(bytes, 8) {
            VERSION => {}
            0 => return Err(HeaderFault::Broken),
            newer => return Err(HeaderFault::Version(newer)),
        }
        let found = Place { ingester: Ulid::from_bytes(array_at(bytes, 16)), segment: u64_at(bytes, 32) };
        let previous = u64_at(bytes, 40);
        if found != place || previous >= place.segment {
            return Err(HeaderFault::Broken);
        }
        Ok(Self { place, previous, previous_end: u64_at(bytes, 48) })
    }
}

/// One request as it was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub tenant: TenantId,
    /// When the request was received, nanoseconds since 1970.
    pub received_unix_nano: i64,
    pub payload: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    pub payload_bytes: u32,
    pub tenant_bytes: u8,
    pub received_unix_nano: i64,
    pub body_crc: u32,
}

impl RecordHeader {
    /// Length of the tenant name and the payload after the header.
    pub fn body_bytes(&self) -> usize {
        usize::from(self.tenant_bytes) + self.payload_bytes as usize
    }

    pub fn encode(&self, place: Place, offset: u64) -> [u8; RECORD_HEADER_BYTES] {
        let mut out = [0; RECORD_HEADER_BYTES];
        out[0..4].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[4] = self.tenant_bytes;
        out[8..16].copy_from_slice(&self.received_unix_nano.to_le_bytes());
        out[16..20].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = header_crc(place, offset, &out[..20]);
        out[20..24].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `None` unless an intact record header of this segment stands at this offset.
    pub fn decode(bytes: &[u8], place: Place, offset: u64) -> Option<Self> {
        let bytes: &[u8; RECORD_HEADER_BYTES] = bytes.get(..RECORD_HEADER_BYTES)?.try_into().ok()?;
        let header = Self {
            payload_bytes: u32_at(bytes, 0),
            tenant_bytes: bytes[4],
            received_unix_nano: i64::from_le_bytes(array_at(bytes, 8)),
            body_crc: u32_at(bytes, 16),
        };
        // Cheap tests first: a search for the next record calls this once per byte.
        let plausible = bytes[5..8] == [0; 3]
            && header.payload_bytes as usize <= PAYLOAD_BYTES_MAX
            && (1..=TENANT_BYTES_MAX).contains(&usize::from(header.tenant_bytes));
        (plausible && header_crc(place, offset, &bytes[..20]) == u32_at(bytes, 20)).then_some(header)
    }
}

/// Checksum of what follows the record header.
pub fn body_crc(tenant: &TenantId, payload: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(tenant.as_str().as_bytes());
    digest.update(payload);
    digest.finalize() as u32
}

fn header_crc(place: Place, offset: u64, fields: &[u8]) -> u32 {
    let mut covered = [0; 52];
    covered[0..16].copy_from_slice(&place.ingester.to_bytes());
    covered[16..24].copy_from_slice(&place.segment.to_le_bytes());
    covered[24..32].copy_from_slice(&offset.to_le_bytes());
    covered[32..52].copy_from_slice(fields);
    crc32c(&covered)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the range has N bytes")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { ingester: Ulid::from_bytes([7; 16]), segment: 3 }
    }

    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    /// The first version's bytes, for ever.
    #[test]
    fn headers_have_golden_bytes() {
        let header = SegmentHeader { place: place(), previous: 2, previous_end: 0x1234 };
        let golden = "534f535457414c000100000000000000070707070707070707070707070707070300000000000000\
                      0200000000000000341200000000000000000000";
        let hex: String = header.encode()[..60].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, golden);
        assert_eq!(SegmentHeader::decode(&header.encode(), place()), Ok(header));
    }

    #[test]
    fn a_record_header_is_bound_to_its_place_and_offset() {
        let header = RecordHeader { payload_bytes: 5, tenant_bytes: 1, received_unix_nano: -9, body_crc: 77 };
        let bytes = header.encode(place(), 64);
        assert_eq!(RecordHeader::decode(&bytes, place(), 64), Some(header));
        assert_eq!(RecordHeader::decode(&bytes, place(), 65), None);
        assert_eq!(RecordHeader::decode(&bytes, Place { segment: 4, ..place() }, 64), None);
        assert_eq!(RecordHeader::decode(&bytes, Place { ingester: Ulid::nil(), ..place() }, 64), None);
        assert_eq!(RecordHeader::decode(&bytes[..23], place(), 64), None);
    }

    #[test]
    fn a_newer_version_is_told_apart_from_damage() {
        let mut bytes = SegmentHeader { place: place(), previous: 0, previous_end: 0 }.encode();
        bytes[8] = 2;
        assert_eq!(SegmentHeader::decode(&bytes, place()), Err(HeaderFault::Broken));
        let crc = crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes, place()), Err(HeaderFault::Version(2)));
    }
}
