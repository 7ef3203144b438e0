//! An object store in memory whose writes can fail, before or after they happened.

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
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The request does not arrive.
    Before,
    /// The request is carried out, and the answer is lost.
    After,
}

type Decide = Box<dyn Fn(&str) -> Fault + Send + Sync>;

pub struct FaultyStore {
    pub inner: InMemory,
    puts: std::sync::Mutex<Decide>,
    gets: std::sync::Mutex<Decide>,
    refused: AtomicUsize,
}

impl FaultyStore {
    pub fn new() -> Arc<Self> {
        let healthy = || -> std::sync::Mutex<Decide> { std::sync::Mutex::new(Box::new(|_| Fault::None)) };
        Arc::new(Self { inner: InMemory::new(), puts: healthy(), gets: healthy(), refused: AtomicUsize::new(0) })
    }

    /// From now on, decides the writes by their key.
    pub fn puts(&self, decide: impl Fn(&str) -> Fault + Send + Sync + 'static) {
        *self.puts.lock().unwrap() = Box::new(decide);
    }

    /// From now on, decides the reads by their key.
    pub fn gets(&self, decide: impl Fn(&str) -> Fault + Send + Sync + 'static) {
        *self.gets.lock().unwrap() = Box::new(decide);
    }

    /// Reads that failed so far.
    pub fn refused(&self) -> usize {
        self.refused.load(SeqCst)
    }

    /// Nothing passes.
    pub fn go_away(&self) {
        self.puts(|_| Fault::Before);
        self.gets(|_| Fault::Before);
    }

    pub fn come_back(&self) {
        self.puts(|_| Fault::None);
        self.gets(|_| Fault::None);
    }
}

pub fn is_commit(key: &str) -> bool {
    key.contains("/_delta_log/") && key.ends_with(".json")
}

fn away() -> Error {
    Error::Generic { store: "faulty", source: Box::new(std::io::Error::other("no answer")) }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = (self.puts.lock().unwrap())(location.as_ref());
        match fault {
            Fault::None => self.inner.put_opts(location, payload, options).await,
            Fault::Before => Err(away()),
            Fault::After => {
                self.inner.put_opts(location, payload, options).await?;
                Err(away())
            }
        }
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if (self.gets.lock().unwrap())(location.as_ref()) != Fault::None {
            self.refused.fetch_add(1, SeqCst);
            return Err(away());
        }
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}
