//! The framing of a sidecar: a header that lists sections, and the sections, all under CRC32C.
//!
//! Little-endian. Every byte is covered by exactly one checksum, and the header says how long the whole is:
//! damage, truncation and trailing bytes are all found. The header keeps this layout in every version.

use crate::error::BlockError;

pub(super) const MAGIC: [u8; 8] = *b"SOSTSIDE";
pub(super) const VERSION: u32 = 1;

/// Magic, version, number of sections.
const PREFIX_BYTES: usize = 16;
/// Kind, CRC32C, length.
const ENTRY_BYTES: usize = 16;
const CRC_BYTES: usize = 4;
/// More sections than any version will have: bounds what a header can make us do.
const SECTIONS_MAX: usize = 64;

/// Joins sections into a sidecar.
pub(super) fn encode(sections: &[(u32, Vec<u8>)]) -> Vec<u8> {
    assert!(sections.len() <= SECTIONS_MAX);
    let payload: usize = sections.iter().map(|(_, bytes)| bytes.len()).sum();
    let mut out = Vec::with_capacity(PREFIX_BYTES + sections.len() * ENTRY_BYTES + CRC_BYTES + payload);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(sections.len() as u32).to_le_bytes());
    for (kind, bytes) in sections {
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&crc32c(bytes).to_le_bytes());
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    }
    out.extend_from_slice(&crc32c(&out).to_le_bytes());
    for (_, bytes) in sections {
        out.extend_from_slice(bytes);
    }
    out
}

/// The sections of a sidecar, checked.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<(u32, &[u8])>, BlockError> {
    let damaged = BlockError::Sidecar;
    let prefix = bytes.get(..PREFIX_BYTES).ok_or(damaged("it is cut short"))?;
    if prefix[..8] != MAGIC {
        return Err(damaged("it does not begin as a sidecar does"));
    }
    let version = u32_at(prefix, 8);
    let count = u32_at(prefix, 12) as usize;
    if count > SECTIONS_MAX {
        return Err(damaged("it has too many sections"));
    }
    let header_bytes = PREFIX_BYTES + count * ENTRY_BYTES;
    let header = bytes.get(..header_bytes).ok_or(damaged("it is cut short"))?;
    let crc = bytes.get(header_bytes..header_bytes + CRC_BYTES).ok_or(damaged("it is cut short"))?;
    if crc32c(header) != u32_at(crc, 0) {
        return Err(damaged("the checksum of its header is wrong"));
    }
    if version > VERSION {
        return Err(BlockError::SidecarVersion { found: version, known: VERSION });
    }
    let mut rest = &bytes[header_bytes + CRC_BYTES..];
    let mut sections = Vec::with_capacity(count);
    for entry in header[PREFIX_BYTES..].chunks_exact(ENTRY_BYTES) {
        let length = u64::from_le_bytes(entry[8..].try_into().expect("8 bytes"));
        let length = usize::try_from(length).ok().filter(|length| *length <= rest.len());
        let (section, following) = rest.split_at(length.ok_or(damaged("it is cut short"))?);
        if crc32c(section) != u32_at(entry, 4) {
            return Err(damaged("the checksum of a section is wrong"));
        }
        sections.push((u32_at(entry, 0), section));
        rest = following;
    }
    if !rest.is_empty() {
        return Err(damaged("bytes follow its last section"));
    }
    Ok(sections)
}

/// CRC-32C (Castagnoli).
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}
