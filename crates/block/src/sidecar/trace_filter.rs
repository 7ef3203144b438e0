//! Tells for most trace ids that a block does not hold them.
//!
//! Never wrong when it says no. A few hashes are kept as they are; more of them in a binary fuse filter of 8-bit
//! fingerprints: 9 bits per trace, one false yes in 256.

use model::TraceId;
use xorf::{BinaryFuse8, Descriptor, Filter};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::BlockError;

/// Up to this many traces the exact list is smaller than a filter's fixed part and slack.
const EXACT_MAX: usize = 32;

const EXACT: u8 = 0;
const BINARY_FUSE_8: u8 = 1;

#[derive(Clone, Debug)]
pub struct TraceFilter(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// Sorted hashes.
    Exact(Vec<u64>),
    BinaryFuse8(BinaryFuse8),
}

/// The hash that the filter is over: XXH3-64 of the 16 bytes, without a seed.
pub(super) fn hash(id: &[u8]) -> u64 {
    xxh3_64(id)
}

impl TraceFilter {
    /// Over the hashes of a block's trace ids.
    pub(super) fn build(mut hashes: Vec<u64>) -> Self {
        hashes.sort_unstable();
        hashes.dedup();
        if hashes.len() <= EXACT_MAX {
            return Self(Kind::Exact(hashes));
        }
        // Construction can only fail by an extreme accident; the list is larger, but right.
        Self(BinaryFuse8::try_from(&hashes).map_or(Kind::Exact(hashes), Kind::BinaryFuse8))
    }

    /// False: the block does not hold the trace. True: it most likely does.
    pub fn contains(&self, id: &TraceId) -> bool {
        let hash = hash(&id.0);
        match &self.0 {
            Kind::Exact(hashes) => hashes.binary_search(&hash).is_ok(),
            Kind::BinaryFuse8(filter) => filter.contains(&hash),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        match &self.0 {
            Kind::Exact(hashes) => hashes.len() * size_of::<u64>(),
            Kind::BinaryFuse8(filter) => filter.fingerprints.len(),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        match &self.0 {
            Kind::Exact(hashes) => {
                let mut out = vec![EXACT];
                out.extend(hashes.iter().flat_map(|hash| hash.to_le_bytes()));
                out
            }
            Kind::BinaryFuse8(filter) => {
                let mut out = vec![BINARY_FUSE_8];
                out.extend(filter.descriptor.seed.to_le_bytes());
                out.extend(filter.descriptor.segment_length.to_le_bytes());
                out.extend(filter.descriptor.segment_count_length.to_le_bytes());
                out.extend_from_slice(&filter.fingerprints);
                out
            }
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BlockError> {
        let damaged = || BlockError::Sidecar("its trace filter is not well formed");
        let (kind, rest) = bytes.split_first().ok_or_else(damaged)?;
        match *kind {
            EXACT => {
                let (hashes, rest) = rest.as_chunks::<8>();
                let hashes: Vec<u64> = hashes.iter().map(|hash| u64::from_le_bytes(*hash)).collect();
                (rest.is_empty() && hashes.is_sorted()).then_some(Self(Kind::Exact(hashes))).ok_or_else(damaged)
            }
            BINARY_FUSE_8 => {
                let (head, fingerprints) = rest.split_first_chunk::<16>().ok_or_else(damaged)?;
                let seed = u64::from_le_bytes(head[..8].try_into().expect("8 bytes"));
                let segment_length = super::sections::u32_at(head, 8);
                let segment_count_length = super::sections::u32_at(head, 12);
                // What a lookup's three positions rely on to stay inside the fingerprints.
                let well_formed = segment_length.is_power_of_two()
                    && segment_count_length > 0
                    && segment_count_length % segment_length == 0
                    && fingerprints.len() as u64 == u64::from(segment_count_length) + 2 * u64::from(segment_length);
                if !well_formed {
                    return Err(damaged());
                }
                let segment_length_mask = segment_length - 1;
                let descriptor = Descriptor { seed, segment_length, segment_length_mask, segment_count_length };
                Ok(Self(Kind::BinaryFuse8(BinaryFuse8 { descriptor, fingerprints: fingerprints.into() })))
            }
            _ => Err(BlockError::Sidecar("its trace filter is of an unknown kind")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(count: u128) -> impl Iterator<Item = TraceId> {
        (0..count).map(|n| TraceId::from(n * 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835 + 1))
    }

    fn filter(count: u128) -> TraceFilter {
        let built = TraceFilter::build(ids(count).map(|id| hash(&id.0)).collect());
        TraceFilter::decode(&built.encode()).unwrap()
    }

    #[test]
    fn every_trace_is_found_at_every_size() {
        for count in (0..200).chain([1000, 4096, 65_537]) {
            let filter = filter(count);
            assert!(ids(count).all(|id| filter.contains(&id)), "{count} traces");
        }
    }

    #[test]
    fn few_strangers_pass() {
        let filter = filter(50_000);
        let passed = ids(250_000).skip(50_000).filter(|id| filter.contains(id)).count();
        assert!(passed <= 1000, "{passed} of 200,000 strangers passed: more than 0.5 %");
        assert!(filter.encode().len() < 50_000 * 10 / 8);
    }

    #[test]
    fn a_filter_that_would_be_read_out_of_bounds_is_refused() {
        let good = filter(1000).encode();
        for at in 9..17 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(TraceFilter::decode(&bad).is_err(), "byte {at}");
        }
        assert!(TraceFilter::decode(&good[..good.len() - 1]).is_err());
        assert!(TraceFilter::decode(&[]).is_err());
        assert!(TraceFilter::decode(&[7]).is_err());
    }
}
