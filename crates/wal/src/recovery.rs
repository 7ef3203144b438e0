//! What the log held when it was opened, record by record, with a report of what could not be read.
//!
//! The last segment with records may end in a torn commit: it is cut there at opening. Damage anywhere else is copied to
//! the quarantine and skipped; records behind it are found again because their headers check only at their own offset.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    os::unix::fs::FileExt,
    path::PathBuf,
};

use crate::{
    Disk, WalConfig, WalError,
    attempt::Attempts,
    directory::{Listing, segment_path},
    format::{HeaderFault, Place, Record, SEGMENT_HEADER_BYTES, SegmentHeader, VERSION},
    quarantine::{Kind, Quarantine},
    scan::{Scan, Step},
};

/// A record that ended this many processes is set aside.
const DEATHS_MAX: u32 = 2;
/// The report names this much damage one by one and only counts the rest.
const DAMAGE_LISTED_MAX: usize = 100;

/// One record of the log and where it stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    pub segment: u64,
    /// Where the record begins in its segment, bytes.
    pub offset: u64,
    pub tenant: model::TenantId,
    pub received_unix_nano: i64,
    pub payload: bytes::Bytes,
}

/// The torn tail that opening cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub segment: u64,
    /// Where the segment ends now.
    pub offset: u64,
    pub bytes: u64,
    pub reason: &'static str,
}

/// A stretch of a segment that was not replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub segment: u64,
    pub offset: u64,
    pub bytes: u64,
    pub reason: &'static str,
    /// Where the bytes are kept, if that was possible.
    pub kept: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    pub segments: usize,
    pub records: u64,
    /// Payload bytes handed out.
    pub bytes: u64,
    pub cut: Option<Cut>,
    /// At most 100 entries; `damaged_count` counts all.
    pub damaged: Vec<Damage>,
    pub damaged_count: u64,
    pub damaged_bytes: u64,
    /// Records set aside because replaying them ended the process twice.
    pub set_aside: u64,
}

/// Hands out the records of the log in order.
///
/// A record counts as replayed when the next one is asked for: take it completely in before calling [`Recovery::next`]
/// again. A process that ends in between is remembered, and after the second time the record is set aside.
pub struct Recovery {
    dir: PathBuf,
    waiting: VecDeque<(Place, u64)>,
    current: Option<Scan>,
    attempts: Attempts,
    quarantine: Quarantine,
    report: RecoveryReport,
}

impl Recovery {
    /// Reads the headers, cuts the torn tail. Returns also the newest segment that can hold records, where it ends, and
    /// the size of every segment.
    pub(crate) fn begin(
        config: &WalConfig,
        disk: &dyn Disk,
        listing: Listing,
    ) -> Result<(Self, u64, u64, BTreeMap<u64, u64>), WalError> {
        let Listing { ingester, mut segments } = listing;
        let mut report = RecoveryReport { segments: segments.len(), ..Default::default() };
        let mut quarantine = Quarantine::new(&config.dir, config.quarantine_bytes_max);
        let mut intact: BTreeMap<u64, SegmentHeader> = BTreeMap::new();
        for (&segment, &bytes) in &segments {
            let place = Place { ingester, segment };
            let path = segment_path(&config.dir, place);
            let mut header = [0; SEGMENT_HEADER_BYTES];
            let read = File::open(&path).and_then(|file| file.read_exact_at(&mut header, 0).map(|()| file));
            match SegmentHeader::decode(&header, place) {
                Ok(header) => drop(intact.insert(segment, header)),
                Err(HeaderFault::Version(found)) => {
                    return Err(WalError::Version { path, found, known: VERSION });
                }
                Err(HeaderFault::Broken) if bytes > SEGMENT_HEADER_BYTES as u64 => {
                    let kept = read
                        .ok()
                        .and_then(|file| quarantine.keep(place, 0, SEGMENT_HEADER_BYTES as u64, Kind::Damaged, &file));
                    let bytes = SEGMENT_HEADER_BYTES as u64;
                    note(&mut report, Damage { segment, offset: 0, bytes, reason: "the segment header does not check", kept });
                }
                Err(HeaderFault::Broken) => {}
            }
        }

        // A header says which segment was written before and where its acknowledged records end; what lies between the two
        // was never acknowledged.
        let mut ends = segments.clone();
        for header in intact.values() {
            for (segment, end) in ends.range_mut(header.previous..header.place.segment) {
                *end = if *segment == header.previous { (*end).min(header.previous_end) } else { 0 };
            }
        }
        for header in intact.values().filter(|h| segments.get(&h.previous).is_some_and(|len| *len < h.previous_end)) {
            let (segment, offset) = (header.previous, segments[&header.previous]);
            let bytes = header.previous_end - offset;
            note(&mut report, Damage { segment, offset, bytes, reason: "the segment is shorter than acknowledged", kept: None });
        }

        // Only the newest segment has no successor to say where it ends.
        let newest = segments.last_key_value().map(|(segment, bytes)| (*segment, *bytes));
        if let Some((segment, bytes)) = newest {
            let place = Place { ingester, segment };
            let path = segment_path(&config.dir, place);
            let headed = intact.contains_key(&segment);
            match valid_end(&config.dir, place, bytes) {
                Ok((end, reason)) => {
                    let end = if end <= SEGMENT_HEADER_BYTES as u64 && !headed { 0 } else { end };
                    if end < bytes {
                        disk.truncate(&path, end).map_err(|e| WalError::io("cut the torn tail of", &path, e))?;
                        report.cut = Some(Cut { segment, offset: end, bytes: bytes - end, reason });
                    }
                    segments.insert(segment, end);
                    ends.insert(segment, end);
                }
                // Left as it is; replay meets the error again and keeps the segment.
                Err(error) => tracing::error!(?path, %error, "cannot read the newest segment"),
            }
        }
        if let Some(cut) = &report.cut {
            tracing::warn!(
                segment = cut.segment,
                offset = cut.offset,
                bytes = cut.bytes,
                reason = cut.reason,
                "cut the end of the log: a write that was not finished, so not acknowledged"
            );
        }
        let (last, last_end) = ends
            .iter()
            .rev()
            .find(|(_, end)| **end > 0)
            .map_or((0, 0), |(segment, end)| (*segment, *end));
        let recovery = Self {
            dir: config.dir.clone(),
            waiting: ends
                .iter()
                .filter(|(_, end)| **end > SEGMENT_HEADER_BYTES as u64)
                .map(|(segment, end)| (Place { ingester, segment: *segment }, *end))
                .collect(),
            current: None,
            attempts: Attempts::open(&config.dir),
            quarantine,
            report,
        };
        Ok((recovery, last, last_end, segments))
    }

    /// What was found so far.
    pub fn report(&self) -> &RecoveryReport {
        &self.report
    }

    /// The next record, or `None` when all were handed out.
    #[expect(clippy::should_implement_trait, reason = "the caller's promise between two calls is more than an iterator's")]
    pub fn next(&mut self) -> Option<Replayed> {
        loop {
            let Some(scan) = &mut self.current else {
                if !self.open_next() {
                    self.attempts.end();
                    return None;
                }
                continue;
            };
            let place = scan.place();
            match scan.next() {
                Ok(None) => self.current = None,
                Ok(Some(Step::Damage { offset, end, reason })) => {
                    let kept = self.quarantine.keep(place, offset, end, Kind::Damaged, &scan.file);
                    note(&mut self.report, Damage { segment: place.segment, offset, bytes: end - offset, reason, kept });
                }
                Ok(Some(Step::Record { offset, end, record })) => {
                    if self.attempts.deaths(place.segment, offset) >= DEATHS_MAX
                        || self.quarantine.holds(place, offset, Kind::Poison)
                    {
                        let kept = self.quarantine.keep(place, offset, end, Kind::Poison, &scan.file);
                        self.report.set_aside += 1;
                        tracing::error!(
                            segment = place.segment,
                            offset,
                            bytes = end - offset,
                            tenant = %record.tenant,
                            ?kept,
                            "set aside a record whose replay ended the process twice"
                        );
                        continue;
                    }
                    self.attempts.begin(place.segment, offset);
                    self.report.records += 1;
                    self.report.bytes += record.payload.len() as u64;
                    let Record { tenant, received_unix_nano, payload } = record;
                    return Some(Replayed { segment: place.segment, offset, tenant, received_unix_nano, payload });
                }
                Err(error) => {
                    let (offset, end) = (scan.offset(), scan.end());
                    self.current = None;
                    self.unreadable(place, offset, end, &error);
                }
            }
        }
    }

    /// Waits for something outside, in the midst of taking a record in. A process that is killed meanwhile, perhaps because
    /// it waits for long, says nothing about the record.
    pub fn while_waiting<T>(&mut self, wait: impl FnOnce() -> T) -> T {
        self.attempts.pause();
        let result = wait();
        self.attempts.resume();
        result
    }

    /// Ends the replay: the last record was taken in. What was not handed out yet comes again at the next start.
    pub fn finish(mut self) -> RecoveryReport {
        self.attempts.end();
        self.report
    }

    fn open_next(&mut self) -> bool {
        let Some((place, end)) = self.waiting.pop_front() else { return false };
        match File::open(segment_path(&self.dir, place)) {
            Ok(file) => self.current = Some(Scan::new(file, place, end)),
            Err(error) => self.unreadable(place, 0, end, &error),
        }
        true
    }

    fn unreadable(&mut self, place: Place, offset: u64, end: u64, error: &std::io::Error) {
        tracing::error!(segment = place.segment, offset, %error, "cannot read a segment of the log");
        let kept = self.quarantine.link(place, &segment_path(&self.dir, place));
        let reason = "the file system does not read it";
        note(&mut self.report, Damage { segment: place.segment, offset, bytes: end - offset, reason, kept });
    }
}

fn note(report: &mut RecoveryReport, damage: Damage) {
    tracing::error!(
        segment = damage.segment,
        offset = damage.offset,
        bytes = damage.bytes,
        reason = damage.reason,
        kept = ?damage.kept,
        "damage in the log; going on behind it"
    );
    report.damaged_count += 1;
    report.damaged_bytes += damage.bytes;
    if report.damaged.len() < DAMAGE_LISTED_MAX {
        report.damaged.push(damage);
    }
}

/// Where the last record of a segment that checks ends, and what is wrong behind it.
fn valid_end(dir: &std::path::Path, place: Place, bytes: u64) -> std::io::Result<(u64, &'static str)> {
    let mut scan = Scan::new(File::open(segment_path(dir, place))?, place, bytes);
    let mut found = (bytes.min(SEGMENT_HEADER_BYTES as u64), "the segment header does not check");
    let mut torn = false;
    while let Some(step) = scan.next()? {
        match step {
            Step::Record { end, .. } => {
                found.0 = end;
                torn = false;
            }
            Step::Damage { reason, .. } if !torn => {
                found.1 = reason;
                torn = true;
            }
            Step::Damage { .. } => {}
        }
    }
    Ok(found)
}
