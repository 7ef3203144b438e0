//! What is under way: of each assigned partition, the messages that were taken and are not durable yet, in their order.
//!
//! - An offset is offered for commit only when every message before it is done.
//! - A message of an assignment that was taken away changes nothing any more, but for the memory that it gives back.
//!
//! No I/O and no clock: the thread that reads and the tasks that store share it behind a lock.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

/// Messages that may be under way at the same time, over all partitions.
pub const MESSAGES_MAX: usize = 1024;

/// Topic and number of a partition.
pub(crate) type Place = (Arc<str>, i32);

/// A commit to ask for: the offset behind the last message that is done.
pub(crate) type Commit = (Place, i64);

#[derive(Debug)]
pub(crate) struct Ledger {
    windows: BTreeMap<Place, Window>,
    bytes: usize,
    bytes_max: usize,
    messages: usize,
    assignments: u64,
}

/// One assignment of a partition to us.
#[derive(Debug)]
struct Window {
    assignment: u64,
    /// From the first that is not done.
    taken: VecDeque<Taken>,
    /// The number of the first of `taken`.
    first: u64,
    /// Messages of `taken` that are not done.
    open: usize,
    /// Those of them that the store refused for now.
    refused: usize,
    /// Behind the last message that was taken.
    expected: Option<i64>,
    /// Behind the last message that is done, with all before it.
    durable: Option<i64>,
    /// What was asked to be committed last, until it failed.
    asked: Option<i64>,
    /// Those of them that stay, because they cannot be stored and are not given up.
    stuck: usize,
    /// librdkafka was told not to hand over more of it.
    held: bool,
    again: Again,
}

#[derive(Debug)]
struct Taken {
    offset: i64,
    done: bool,
}

/// How the messages of a partition that were refused come again: one at a time, and none after the assignment ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Again {
    /// Whose turn it is holds this; it is the wait before the next attempt.
    pub(crate) turn: Arc<tokio::sync::Mutex<Duration>>,
    pub(crate) ended: CancellationToken,
}

/// A message that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) place: Place,
    pub(crate) offset: i64,
    assignment: u64,
    number: u64,
    bytes: usize,
}

/// How a partition is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doing {
    Reading,
    /// The store refuses its spans for now.
    Waiting,
    /// It holds a message that cannot be stored ([`crate::OnError::Stop`]).
    Stopped,
}

impl Doing {
    pub const ALL: [Self; 3] = [Self::Reading, Self::Waiting, Self::Stopped];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Waiting => "waiting",
            Self::Stopped => "stopped",
        }
    }
}

impl Ledger {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { windows: BTreeMap::new(), bytes: 0, bytes_max, messages: 0, assignments: 0 }
    }

    pub(crate) fn assign(&mut self, place: Place) {
        self.assignments += 1;
        let window = Window {
            assignment: self.assignments,
            taken: VecDeque::new(),
            first: 0,
            open: 0,
            refused: 0,
            expected: None,
            durable: None,
            asked: None,
            stuck: 0,
            held: false,
            again: Again::default(),
        };
        if let Some(before) = self.windows.insert(place, window) {
            before.again.ended.cancel();
        }
    }

    /// Ends an assignment: what of it waits to be tried again is left to whoever gets the partition.
    pub(crate) fn revoke(&mut self, place: &Place) {
        if let Some(window) = self.windows.remove(place) {
            window.again.ended.cancel();
        }
    }

    pub(crate) fn places(&self) -> Vec<Place> {
        self.windows.keys().cloned().collect()
    }

    /// Begins a message, and says how many offsets before it nobody saw. `None` if its partition is not assigned to us.
    pub(crate) fn take(&mut self, place: Place, offset: i64, bytes: usize) -> Option<(Ticket, u64)> {
        let window = self.windows.get_mut(&place)?;
        let skipped = window.expected.map_or(0, |expected| offset.saturating_sub(expected).max(0)).unsigned_abs();
        window.expected = Some(offset + 1);
        let number = window.first + window.taken.len() as u64;
        window.taken.push_back(Taken { offset, done: false });
        window.open += 1;
        self.bytes += bytes;
        self.messages += 1;
        Some((Ticket { place, offset, assignment: window.assignment, number, bytes }, skipped))
    }

    /// The message is durable, or given up.
    pub(crate) fn done(&mut self, ticket: &Ticket) {
        let Some(window) = self.window(ticket) else { return };
        let at = usize::try_from(ticket.number - window.first).expect("a window has fewer messages than fit in memory");
        assert!(!window.taken[at].done, "a message is done once");
        window.taken[at].done = true;
        window.open -= 1;
        while window.taken.front().is_some_and(|taken| taken.done) {
            let taken = window.taken.pop_front().expect("it was looked at");
            window.first += 1;
            window.durable = Some(taken.offset + 1);
        }
    }

    /// The store refused the message for now. `None` if that is no longer our concern.
    pub(crate) fn refused(&mut self, ticket: &Ticket) -> Option<Again> {
        let window = self.window(ticket)?;
        window.refused += 1;
        Some(window.again.clone())
    }

    /// ... and then took it, or gave it up.
    pub(crate) fn decided(&mut self, ticket: &Ticket) {
        if let Some(window) = self.window(ticket) {
            window.refused -= 1;
        }
    }

    /// The message stays where it is, and all behind it.
    pub(crate) fn stop(&mut self, ticket: &Ticket) {
        if let Some(window) = self.window(ticket) {
            window.stuck += 1;
        }
    }

    /// Gives back the memory of a message, whoever has its partition now.
    pub(crate) fn release(&mut self, ticket: &Ticket) {
        self.bytes -= ticket.bytes;
        self.messages -= 1;
    }

    fn window(&mut self, ticket: &Ticket) -> Option<&mut Window> {
        self.windows.get_mut(&ticket.place).filter(|window| window.assignment == ticket.assignment)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max || self.messages >= MESSAGES_MAX
    }

    /// There is room for a while.
    pub(crate) fn is_half_empty(&self) -> bool {
        self.bytes <= self.bytes_max / 2 && self.messages <= MESSAGES_MAX / 2
    }

    /// Nothing of these partitions is on its way to the store: every message is done, waits to be tried again, or stays.
    pub(crate) fn is_settled(&self, places: &[Place]) -> bool {
        places
            .iter()
            .filter_map(|place| self.windows.get(place))
            .all(|window| window.open == window.refused + window.stuck)
    }

    /// Which partitions librdkafka must be told to hold, and which to go on with: those that changed since the last call.
    pub(crate) fn holds(&mut self, all: bool) -> (Vec<Place>, Vec<Place>) {
        let (mut hold, mut go_on) = (vec![], vec![]);
        for (place, window) in &mut self.windows {
            let wanted = all || window.stuck > 0 || window.refused > 0;
            if wanted != window.held {
                window.held = wanted;
                if wanted { hold.push(place.clone()) } else { go_on.push(place.clone()) }
            }
        }
        (hold, go_on)
    }

    /// What can be committed and was not asked for yet; of these partitions, or of all.
    pub(crate) fn commits(&mut self, of: Option<&[Place]>) -> Vec<Commit> {
        let windows = self.windows.iter_mut().filter(|(place, _)| of.is_none_or(|of| of.contains(place)));
        let commit = |(place, window): (&Place, &mut Window)| {
            let offset = window.durable.filter(|_| window.durable != window.asked)?;
            window.asked = window.durable;
            Some((place.clone(), offset))
        };
        windows.filter_map(commit).collect()
    }

    /// The commit did not succeed: it is offered again.
    pub(crate) fn not_committed(&mut self, place: &Place) {
        if let Some(window) = self.windows.get_mut(place) {
            window.asked = None;
        }
    }

    /// Behind the last message that is done, of each partition.
    pub(crate) fn durable(&self, place: &Place) -> Option<i64> {
        self.windows.get(place)?.durable
    }

    pub(crate) fn doing(&self) -> impl Iterator<Item = (&Place, Doing)> {
        self.windows.iter().map(|(place, window)| {
            let doing = match window {
                Window { stuck: 1.., .. } => Doing::Stopped,
                Window { refused: 1.., .. } => Doing::Waiting,
                _ => Doing::Reading,
            };
            (place, doing)
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(number: i32) -> Place {
        ("spans".into(), number)
    }

    fn with(partitions: i32) -> Ledger {
        let mut ledger = Ledger::new(1000);
        (0..partitions).for_each(|number| ledger.assign(place(number)));
        ledger
    }

    fn take(ledger: &mut Ledger, partition: i32, offset: i64) -> Ticket {
        ledger.take(place(partition), offset, 10).unwrap().0
    }

    #[test]
    fn an_offset_is_committed_when_all_before_it_are_done() {
        let mut ledger = with(2);
        let tickets: Vec<Ticket> = (5..9).map(|offset| take(&mut ledger, 0, offset)).collect();
        let other = take(&mut ledger, 1, 100);
        ledger.done(&tickets[1]);
        ledger.done(&tickets[2]);
        assert_eq!(ledger.commits(None), []);
        ledger.done(&tickets[0]);
        assert_eq!(ledger.commits(None), [(place(0), 8)]);
        assert_eq!(ledger.commits(None), [], "it was asked for");
        ledger.not_committed(&place(0));
        ledger.done(&other);
        assert_eq!(ledger.commits(Some(&[place(0)])), [(place(0), 8)]);
        assert_eq!(ledger.commits(None), [(place(1), 101)]);
        ledger.done(&tickets[3]);
        assert_eq!((ledger.durable(&place(0)), ledger.commits(None)), (Some(9), vec![(place(0), 9)]));
    }

    #[test]
    fn what_was_revoked_changes_nothing_but_memory() {
        let mut ledger = with(1);
        let before = take(&mut ledger, 0, 5);
        let again = ledger.refused(&before).unwrap();
        ledger.revoke(&place(0));
        assert!(again.ended.is_cancelled());
        ledger.assign(place(0));
        let after = take(&mut ledger, 0, 5);
        ledger.done(&before);
        ledger.decided(&before);
        ledger.stop(&before);
        assert!(ledger.refused(&before).is_none());
        assert_eq!(ledger.commits(None), []);
        assert_eq!(ledger.bytes(), 20);
        ledger.release(&before);
        ledger.done(&after);
        ledger.release(&after);
        assert_eq!((ledger.bytes(), ledger.commits(None)), (0, vec![(place(0), 6)]));
        assert!(ledger.take(place(7), 1, 10).is_none());
    }

    #[test]
    fn a_partition_is_held_while_it_is_refused_or_stopped() {
        let mut ledger = with(2);
        let (first, second) = (take(&mut ledger, 0, 1), take(&mut ledger, 0, 2));
        assert!(!ledger.is_settled(&[place(0)]) && ledger.is_settled(&[place(1)]));
        ledger.refused(&first).unwrap();
        assert_eq!(ledger.holds(false), (vec![place(0)], vec![]));
        assert_eq!(ledger.holds(false), (vec![], vec![]));
        ledger.done(&second);
        assert!(ledger.is_settled(&[place(0)]));
        assert_eq!(ledger.holds(true), (vec![place(1)], vec![]));
        ledger.decided(&first);
        ledger.done(&first);
        assert_eq!(ledger.holds(false), (vec![], vec![place(0), place(1)]));
        assert_eq!(ledger.commits(None), [(place(0), 3)]);
        let bad = take(&mut ledger, 0, 3);
        let behind = take(&mut ledger, 0, 4);
        ledger.stop(&bad);
        ledger.done(&behind);
        assert_eq!(ledger.holds(false).0, [place(0)]);
        assert_eq!(ledger.commits(None), []);
        assert_eq!(ledger.doing().map(|(_, doing)| doing).collect::<Vec<_>>(), [Doing::Stopped, Doing::Reading]);
    }

    #[test]
    fn room_is_bounded_in_bytes_and_messages() {
        let mut ledger = with(1);
        let large = ledger.take(place(0), 1, 5000).unwrap().0;
        assert!(ledger.is_full());
        ledger.release(&large);
        assert!(ledger.is_half_empty());
        let tickets: Vec<Ticket> =
            (0..MESSAGES_MAX as i64).map(|n| ledger.take(place(0), 2 + n, 0).unwrap().0).collect();
        assert!(ledger.is_full());
        tickets.iter().for_each(|ticket| ledger.release(ticket));
        assert!(!ledger.is_full());
    }

    #[test]
    fn offsets_that_nobody_saw_are_counted() {
        let mut ledger = with(1);
        assert_eq!(ledger.take(place(0), 10, 0).unwrap().1, 0);
        assert_eq!(ledger.take(place(0), 11, 0).unwrap().1, 0);
        assert_eq!(ledger.take(place(0), 15, 0).unwrap().1, 3);
        assert_eq!(ledger.take(place(0), 3, 0).unwrap().1, 0, "from an earlier offset again");
    }
}
