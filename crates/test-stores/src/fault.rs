//! What can happen to a request.

use crate::{
    asked::{Asked, Kind},
    dice::Dice,
};

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// It is not carried out, and fails.
    Before,
    /// It is carried out and its answer is lost. A listing breaks off in the middle.
    After,
    /// It is carried out, and a create is told that the key was there already: a client's own repeat.
    Exists,
    /// A create overwrites.
    Overwrite,
    /// One bit in the middle of what is read is wrong.
    Flip,
    /// The second half of what is read is missing.
    Short,
    /// What is asked for is not there.
    Hidden,
    /// It is said to be carried out, and is not: a write or a deletion that gets lost.
    Lost,
    /// It waits until the test lets it go on.
    Stall,
}

/// How a store goes down at one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// The request is not carried out, nor are later ones.
    Before,
    /// The request is carried out and its answer is lost. Later ones are not carried out.
    After,
    /// The request alone is not carried out.
    Once,
    /// The request alone is carried out with its answer lost.
    OnceAfter,
}

impl Outage {
    pub const ALL: [Self; 4] = [Self::Before, Self::After, Self::Once, Self::OnceAfter];

    /// What this outage at the `at`th request means for the `number`th.
    pub fn fault(self, number: usize, at: usize) -> Fault {
        match (number.cmp(&at), self) {
            (std::cmp::Ordering::Less, _) => Fault::None,
            (std::cmp::Ordering::Equal, Self::After | Self::OnceAfter) => Fault::After,
            (std::cmp::Ordering::Equal, _) => Fault::Before,
            (std::cmp::Ordering::Greater, Self::Once | Self::OnceAfter) => Fault::None,
            (std::cmp::Ordering::Greater, _) => Fault::Before,
        }
    }
}

/// How listings are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listing {
    /// Each key once, in order.
    #[default]
    Ordered,
    /// Backwards, with every other key twice.
    Disordered,
}

/// A rule that fails a share of all requests, as a store that throttles does: with the same seed the same ones.
pub(crate) fn storm(seed: u64, percent: u64) -> impl FnMut(&Asked) -> Fault + Send {
    let mut dice = Dice::new(seed | 1);
    move |asked| {
        let rolled = dice.roll();
        match rolled % 100 < percent {
            false => Fault::None,
            // Every third loses its answer only.
            true if asked.kind == Kind::Put && rolled % 3 == 0 => Fault::After,
            true => Fault::Before,
        }
    }
}
