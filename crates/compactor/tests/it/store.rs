//! An object store in memory that counts its operations and fails at the one that a test names.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};

/// How the chosen operation fails, and all that follow it until the store is healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not carried out.
    Before,
    /// It is carried out and its answer is lost. Later ones are not carried out.
    After,
    /// It alone is not carried out: the store is well again at once.
    Once,
    /// It alone is carried out with its answer lost.
    OnceAfter,
}

pub struct CountingStore {
    pub inner: InMemory,
    operations: AtomicUsize,
    fail_at: AtomicUsize,
    fault: parking_lot::Mutex<Fault>,
}

const NEVER: usize = usize::MAX;

enum Verdict {
    Pass,
    Refuse,
    Lose,
}

impl CountingStore {
    pub fn new() -> Arc<Self> {
        Self::over(InMemory::new())
    }

    pub fn over(inner: InMemory) -> Arc<Self> {
        let fault = parking_lot::Mutex::new(Fault::Before);
        Arc::new(Self { inner, operations: AtomicUsize::new(0), fail_at: AtomicUsize::new(NEVER), fault })
    }

    /// From now on the `number`th operation, counted from 0, fails.
    pub fn fail(&self, number: usize, fault: Fault) {
        self.operations.store(0, SeqCst);
        *self.fault.lock() = fault;
        self.fail_at.store(number, SeqCst);
    }

    pub fn heal(&self) {
        self.fail_at.store(NEVER, SeqCst);
    }

    /// Operations since [`Self::fail`].
    pub fn operations(&self) -> usize {
        self.operations.load(SeqCst)
    }

    fn verdict(&self) -> Verdict {
        let number = self.operations.fetch_add(1, SeqCst);
        let fail_at = self.fail_at.load(SeqCst);
        let fault = *self.fault.lock();
        match (number.cmp(&fail_at), fault) {
            (std::cmp::Ordering::Less, _) => Verdict::Pass,
            (std::cmp::Ordering::Equal, Fault::After | Fault::OnceAfter) => Verdict::Lose,
            (std::cmp::Ordering::Equal, _) => Verdict::Refuse,
            (std::cmp::Ordering::Greater, Fault::Once | Fault::OnceAfter) => Verdict::Pass,
            (std::cmp::Ordering::Greater, _) => Verdict::Refuse,
        }
    }
}

fn away() -> Error {
    Error::Generic { store: "counting", source: "as the test wants it".into() }
}

impl fmt::Debug for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CountingStore")
    }
}

impl fmt::Display for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CountingStore")
    }
}

#[async_trait]
impl ObjectStore for CountingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let verdict = self.verdict();
        if let Verdict::Refuse = verdict {
            return Err(away());
        }
        let done = self.inner.put_opts(location, payload, options).await?;
        match verdict {
            Verdict::Pass => Ok(done),
            _ => Err(away()),
        }
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.verdict() {
            Verdict::Pass => self.inner.get_opts(location, options).await,
            _ => Err(away()),
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        match self.verdict() {
            Verdict::Pass => self.inner.get_ranges(location, ranges).await,
            _ => Err(away()),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        // Deletions are counted as they are asked for, so the stream is looked through at once.
        let inner = self.inner.clone();
        let mut verdicts = Vec::new();
        let locations: Vec<_> = futures::executor::block_on(locations.collect());
        for _ in &locations {
            verdicts.push(self.verdict());
        }
        stream::iter(locations.into_iter().zip(verdicts))
            .then(move |(location, verdict)| {
                let inner = inner.clone();
                async move {
                    let location = location?;
                    if let Verdict::Refuse = verdict {
                        return Err(away());
                    }
                    use object_store::ObjectStoreExt;
                    inner.delete(&location).await?;
                    match verdict {
                        Verdict::Pass => Ok(location),
                        _ => Err(away()),
                    }
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.verdict() {
            Verdict::Pass => self.inner.list(prefix),
            _ => stream::iter([Err(away())]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        match self.verdict() {
            Verdict::Pass => self.inner.list_with_delimiter(prefix).await,
            _ => Err(away()),
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
