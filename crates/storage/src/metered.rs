//! Counts what the store is asked for, and asks a second time where an answer is slow.
//!
//! What is counted is what a bill counts: requests by kind, and bytes both ways. Repeats by the client after an error are
//! below this and not seen.
//!
//! A read is *hedged*: if it takes longer than about 95 of 100 reads did lately, it is sent once more, and the first good
//! answer counts. Only reads are, because only they can be done twice; and only a share of them, so that a store that is
//! slow for everybody is not asked for everything twice.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    FutureExt, StreamExt, TryStreamExt,
    future::{Either, select},
    pin_mut, stream,
    stream::BoxStream,
};
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart, path::Path,
};

use crate::metrics::StorageMetrics;

/// The body of a read up to this size is part of what is hedged; of a larger one only its beginning is.
const BODY_BYTES_MAX: u64 = 16 << 20;
/// Keys in an answer to a LIST: S3's page.
const PAGE_KEYS: u64 = 1000;

pub(crate) struct Metered {
    inner: Arc<dyn ObjectStore>,
    metrics: Arc<StorageMetrics>,
    hedging: Option<Hedging>,
}

impl Metered {
    /// `hedges_percent`: of all reads. 0: none is hedged.
    pub fn new(inner: Arc<dyn ObjectStore>, metrics: Arc<StorageMetrics>, hedges_percent: u32) -> Self {
        Self { inner, metrics, hedging: (hedges_percent > 0).then(|| Hedging::new(hedges_percent)) }
    }

    /// One read, with its body if that is small.
    async fn get(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.metrics.gets.add(1);
        let small = matches!(&options.range, Some(GetRange::Bounded(range)) if range.end - range.start <= BODY_BYTES_MAX);
        let result = self.inner.get_opts(location, options).await?;
        self.metrics.received_bytes.add(result.range.end - result.range.start);
        if !small || matches!(result.payload, GetResultPayload::File(..)) {
            return Ok(result);
        }
        let (meta, range, attributes) = (result.meta.clone(), result.range.clone(), result.attributes.clone());
        let body = result.bytes().await?;
        let payload = GetResultPayload::Stream(stream::once(async { Ok(body) }).boxed());
        Ok(GetResult { payload, meta, range, attributes })
    }

    async fn hedged(&self, hedging: &Hedging, location: &Path, options: GetOptions) -> Result<GetResult> {
        hedging.earn();
        let begun = Instant::now();
        let first = self.get(location, options.clone());
        pin_mut!(first);
        let in_time = tokio::time::timeout(hedging.delay(), &mut first).await;
        let answer = match in_time {
            Ok(answer) => answer,
            Err(_) if !hedging.spend() => first.await,
            Err(_) => {
                self.metrics.hedges.add(1);
                let second = self.get(location, options);
                pin_mut!(second);
                match select(first, second).await {
                    Either::Left((Err(error), second)) if may_pass(&error) => second.await,
                    Either::Left((answer, _)) => answer,
                    Either::Right((Err(error), first)) if may_pass(&error) => first.await,
                    Either::Right((answer, _)) => {
                        self.metrics.hedges_won.add(1);
                        answer
                    }
                }
            }
        };
        hedging.observe(begun.elapsed());
        answer
    }

    fn listed<'a>(&self, listing: BoxStream<'a, Result<ObjectMeta>>) -> BoxStream<'a, Result<ObjectMeta>> {
        self.metrics.lists.add(1);
        let (metrics, mut keys) = (self.metrics.clone(), 0);
        let count = move |_: &ObjectMeta| {
            keys += 1;
            if keys % PAGE_KEYS == 0 {
                metrics.lists.add(1);
            }
        };
        listing.inspect_ok(count).boxed()
    }
}

/// Whether the other of two same reads may fare better.
fn may_pass(error: &Error) -> bool {
    !matches!(error, Error::NotFound { .. } | Error::NotModified { .. } | Error::Precondition { .. })
}

/// When a second request is worth it, and whether there is still one to spend.
struct Hedging {
    /// About the 95th percentile of how long reads take.
    slow_us: AtomicU64,
    /// Hundredths of a request.
    budget: AtomicI64,
    percent: i64,
}

/// Until enough is known.
const SLOW_US_FIRST: u64 = 500_000;
const SLOW_US_MIN: u64 = 20_000;
const SLOW_US_MAX: u64 = 10_000_000;
/// The most that is saved up: ten requests.
const BUDGET_MAX: i64 = 1_000;

impl Hedging {
    fn new(percent: u32) -> Self {
        // The first slow read may be the first of all.
        Self { slow_us: AtomicU64::new(SLOW_US_FIRST), budget: AtomicI64::new(100), percent: i64::from(percent.min(100)) }
    }

    fn delay(&self) -> Duration {
        Duration::from_micros(self.slow_us.load(Relaxed))
    }

    fn earn(&self) {
        let _ = self.budget.fetch_update(Relaxed, Relaxed, |budget| Some((budget + self.percent).min(BUDGET_MAX)));
    }

    fn spend(&self) -> bool {
        self.budget.fetch_update(Relaxed, Relaxed, |budget| (budget >= 100).then_some(budget - 100)).is_ok()
    }

    /// Moves the estimate up by 19 steps if the read was slower and down by one if it was not: so it rests where 19 of 20
    /// reads are not. A step is a 400th.
    fn observe(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let moved = |slow_us: u64| {
            let step = slow_us / 400;
            let moved = if took_us > slow_us { slow_us + 19 * step } else { slow_us - step };
            Some(moved.clamp(SLOW_US_MIN, SLOW_US_MAX))
        };
        let _ = self.slow_us.fetch_update(Relaxed, Relaxed, moved);
    }
}

impl fmt::Debug for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.inner, f)
    }
}

impl fmt::Display for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl ObjectStore for Metered {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.metrics.puts.add(1);
        self.metrics.sent_bytes.add(payload.content_length() as u64);
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.metrics.puts.add(1);
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(Upload { inner, metrics: self.metrics.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match &self.hedging {
            Some(hedging) if !options.head => self.hedged(hedging, location, options).await,
            _ if options.head => {
                self.metrics.heads.add(1);
                self.inner.get_opts(location, options).await
            }
            _ => {
                self.metrics.gets.add(1);
                let result = self.inner.get_opts(location, options).await?;
                self.metrics.received_bytes.add(result.range.end - result.range.start);
                Ok(result)
            }
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.metrics.gets.add(ranges.len() as u64);
        let bytes = self.inner.get_ranges(location, ranges).await?;
        self.metrics.received_bytes.add(bytes.iter().map(|bytes| bytes.len() as u64).sum());
        Ok(bytes)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let metrics = self.metrics.clone();
        self.inner.delete_stream(locations.inspect_ok(move |_| metrics.deletes.add(1)).boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.metrics.lists.add(1);
        let listed = self.inner.list_with_delimiter(prefix).await?;
        self.metrics.lists.add((listed.objects.len() + listed.common_prefixes.len()) as u64 / PAGE_KEYS);
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.metrics.puts.add(1);
        self.inner.copy_opts(from, to, options).await
    }
}

struct Upload {
    inner: Box<dyn MultipartUpload>,
    metrics: Arc<StorageMetrics>,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.inner, f)
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        self.metrics.puts.add(1);
        self.metrics.sent_bytes.add(payload.content_length() as u64);
        self.inner.put_part(payload).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.metrics.puts.add(1);
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_rests_where_nineteen_of_twenty_reads_are_faster() {
        let hedging = Hedging::new(5);
        // 100 different times, in an order without a pattern.
        for number in 0..20_000u64 {
            hedging.observe(Duration::from_millis(100 + number * 37 % 100));
        }
        let slow_ms = hedging.delay().as_millis();
        assert!((185..=200).contains(&slow_ms), "{slow_ms}");
    }

    #[test]
    fn no_more_than_its_share_is_spent() {
        let hedging = Hedging::new(5);
        let spent = (0..10_000).filter(|_| {
            hedging.earn();
            hedging.spend()
        });
        assert!((500..=501).contains(&spent.count()));
        // What was not spent is not saved up without end.
        (0..100_000).for_each(|_| hedging.earn());
        assert_eq!((0..100).filter(|_| hedging.spend()).count(), 10);
    }
}
