//! Where readers put what they read: counts records, leaves out those of an earlier run, and says which are bad.

use std::fmt;

use crate::batches::{Batch, Batches};

/// A place in a source, for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// From 0, after decompression.
    Byte(u64),
    /// From 1.
    Line(u64),
    /// From 1.
    Trace(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Byte(at) => write!(f, "byte {at}"),
            Self::Line(at) => write!(f, "line {at}"),
            Self::Trace(at) => write!(f, "trace {at}"),
        }
    }
}

/// What comes out of a source, in its order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Batch {
        batch: Batch,
        /// All records up to this number are in this batch or earlier ones, or were bad.
        records: u64,
    },
    Bad {
        at: Place,
        reason: String,
    },
}

/// Nobody wants more.
#[derive(Debug)]
pub(crate) struct Stopped;

pub(crate) struct Intake<'a> {
    batches: Batches,
    /// Records so far.
    records: u64,
    /// Records of an earlier run.
    skip: u64,
    out: &'a mut dyn FnMut(Found) -> Result<(), Stopped>,
}

impl<'a> Intake<'a> {
    pub fn new(skip: u64, out: &'a mut dyn FnMut(Found) -> Result<(), Stopped>) -> Self {
        Self { batches: Batches::default(), records: 0, skip, out }
    }

    /// Takes the next record, which `make` turns into an OTLP request or says why it cannot.
    pub fn record(&mut self, at: Place, make: impl FnOnce() -> Result<Vec<u8>, String>) -> Result<(), Stopped> {
        if self.records < self.skip {
            self.records += 1;
            return Ok(());
        }
        let added = make().and_then(|request| self.batches.add(request));
        self.records += 1;
        match added {
            Ok(ready) => self.hand_over(ready),
            Err(reason) => (self.out)(Found::Bad { at, reason }),
        }
    }

    pub fn bad(&mut self, at: Place, reason: impl Into<String>) -> Result<(), Stopped> {
        self.record(at, || Err(reason.into()))
    }

    /// Only the last of several batches has the whole record.
    fn hand_over(&mut self, ready: Vec<Batch>) -> Result<(), Stopped> {
        let waiting = !self.batches.is_empty();
        let last = ready.len().wrapping_sub(1);
        for (at, batch) in ready.into_iter().enumerate() {
            let records = if at == last && !waiting { self.records } else { self.records - 1 };
            (self.out)(Found::Batch { batch, records })?;
        }
        Ok(())
    }

    /// Records that a reader can leave out by itself.
    pub fn skip(&self) -> u64 {
        self.skip
    }

    /// Says that the records of an earlier run were left out.
    pub fn skipped(&mut self) {
        self.records = self.skip;
    }

    /// Hands over what waits. Returns the number of records.
    pub fn finish(mut self) -> Result<u64, Stopped> {
        if let Some(batch) = self.batches.take() {
            (self.out)(Found::Batch { batch, records: self.records })?;
        }
        Ok(self.records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::tests::request_of;

    #[test]
    fn a_position_names_only_what_was_handed_over() {
        let mut found = vec![];
        let mut out = |item| {
            found.push(item);
            Ok(())
        };
        let mut intake = Intake::new(1, &mut out);
        intake.record(Place::Line(1), || panic!("it is of an earlier run")).unwrap();
        intake.record(Place::Line(2), || Ok(request_of(1, 700_000))).unwrap();
        intake.bad(Place::Line(3), "broken").unwrap();
        // With the one that waits it is more than one request should have; cutting takes it apart.
        intake.record(Place::Line(4), || Ok(request_of(9, 700_000))).unwrap();
        intake.record(Place::Line(5), || Ok(request_of(1, 10))).unwrap();
        assert_eq!(intake.finish().unwrap(), 5);
        let mut through = vec![];
        let mut spans = 0;
        for item in found {
            match item {
                Found::Batch { batch, records } => {
                    through.push(records);
                    spans += batch.spans;
                }
                Found::Bad { at, reason } => assert_eq!((at, reason.as_str()), (Place::Line(3), "broken")),
            }
        }
        assert_eq!(spans, 11);
        assert!(through.is_sorted() && through.last() == Some(&5), "{through:?}");
        // Not before the last part of the fourth record is it behind us.
        let whole = through.iter().position(|records| *records >= 4).unwrap();
        assert!(whole >= 3, "{through:?}");
    }
}
