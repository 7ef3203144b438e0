//! From live spans to blocks: one for each window in which traces begin, so late spans go to a block of their own time.

use block::{
    BlockError,
    batch::SpanBatch,
    merge::{merge, window_partition},
    promotion::PromotionPolicy,
    writer::{EncodedBlock, WriterOptions, encode},
};


/// Bytes of live spans merged at once: bounds memory, and what one column may address.
const MERGE_BYTES_MAX: usize = 512 << 20;

/// Makes the blocks of one tenant's part of a generation. Takes long: not for an async thread.
pub fn blocks(batches: Vec<SpanBatch>) -> Result<Vec<EncodedBlock>, BlockError> {
    let options = WriterOptions::default();
    let mut blocks = Vec::new();
    for group in groups(batches) {
        let merged = merge(&group, &PromotionPolicy::default())?;
        drop(group);
        for (_, window) in window_partition(&merged, options.window_nano)? {
            blocks.push(encode(&window, &options)?);
        }
    }
    Ok(blocks)
}

fn groups(batches: Vec<SpanBatch>) -> Vec<Vec<SpanBatch>> {
    let mut groups: Vec<Vec<SpanBatch>> = Vec::new();
    let mut bytes = 0;
    for batch in batches {
        let size = batch.records.get_array_memory_size();
        bytes += size;
        match groups.last_mut() {
            Some(group) if bytes <= MERGE_BYTES_MAX => group.push(batch),
            _ => {
                bytes = size;
                groups.push(vec![batch]);
            }
        }
    }
    groups
}
