//! Which indexes of a table are needed no more.

use std::collections::HashMap;

use ulid::Ulid;

use super::format::IndexHead;

/// The indexes that nobody needs: of every block that the table still has and that they cover, a newer index speaks that is
/// itself older than `before_unix_ms`. `indexes` come with when they were written; the youngest are never needless. `blocks` are
/// those of the table, with their checksums.
pub(crate) fn needless(indexes: &[(IndexHead, i64)], blocks: &HashMap<Ulid, u32>, before_unix_ms: i64) -> Vec<Ulid> {
    let mut newest: HashMap<Ulid, Ulid> = HashMap::new();
    let settled = || indexes.iter().filter(|(_, written)| *written < before_unix_ms).map(|(head, _)| head);
    let covered = |head: &IndexHead| {
        let alive = head.blocks.iter().filter(|block| blocks.get(&block.id) == Some(&block.chunks_crc32c));
        alive.map(|block| block.id).collect::<Vec<_>>()
    };
    for head in settled() {
        for block in covered(head) {
            let known = newest.entry(block).or_insert(head.id);
            *known = head.id.max(*known);
        }
    }
    settled().filter(|head| covered(head).iter().all(|block| newest[block] > head.id)).map(|head| head.id).collect()
}
