//! Cuts a large answer of the streaming API into messages that every client takes.

/// Bytes of one message. Grafana refuses messages above 4 MiB.
pub const PACKET_BYTES_MAX: usize = 1 << 20;

/// Groups the items, in their order, so that the sizes of each group add up to at most `bytes_max`. An item that
/// is larger goes alone. No items give one empty group, because a stream has at least one message.
pub fn cut<T>(items: Vec<T>, bytes_max: usize, size: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut groups = vec![Vec::new()];
    let mut bytes = 0;
    for item in items {
        let item_bytes = size(&item);
        let group = groups.last_mut().expect("there is always one");
        if bytes + item_bytes > bytes_max && !group.is_empty() {
            bytes = 0;
            groups.push(vec![item]);
        } else {
            group.push(item);
        }
        bytes += item_bytes;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn groups_keep_order_and_size(items in proptest::collection::vec(0usize..20, 0..50), max in 1usize..40) {
            let groups = cut(items.clone(), max, |n| *n);
            prop_assert_eq!(groups.concat(), items);
            for group in &groups {
                prop_assert!(group.len() <= 1 || group.iter().sum::<usize>() <= max);
            }
            prop_assert!(groups.len() == 1 || groups.iter().all(|group| !group.is_empty()));
        }
    }
}
