//! A store that fails as a test tells it to, and counts what it was asked for.

use std::{
    fmt,
    ops::Range,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use parking_lot::Mutex;

/// What a request meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// The store does nothing and says so.
    FailBefore,
    /// The store does it and then says it failed.
    FailAfter,
    /// The store does it, and tells a create that the key was there already: a client's own repeat.
    ExistsAfter,
    /// One bit of what is read is wrong.
    Flip,
    /// A create overwrites.
    IgnoreCreate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Put,
    Get,
}

type Rule = Box<dyn FnMut(Request, &Path) -> Verdict + Send>;

pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    rule: Mutex<Rule>,
    log: Mutex<Vec<(Request, Path)>>,
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn ObjectStore>, rule: impl FnMut(Request, &Path) -> Verdict + Send + 'static) -> Arc<Self> {
        Arc::new(Self { inner, rule: Mutex::new(Box::new(rule)), log: Mutex::default() })
    }

    /// How many requests of this kind there were for keys that contain `part`.
    pub fn count(&self, request: Request, part: &str) -> usize {
        self.log.lock().iter().filter(|(kind, key)| *kind == request && key.as_ref().contains(part)).count()
    }

    fn verdict(&self, request: Request, key: &Path) -> Verdict {
        self.log.lock().push((request, key.clone()));
        (self.rule.lock())(request, key)
    }
}

fn failure() -> Error {
    Error::Generic { store: "faulty", source: "as the test wants it".into() }
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

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let verdict = self.verdict(Request::Put, location);
        match verdict {
            Verdict::FailBefore => return Err(failure()),
            Verdict::IgnoreCreate => options.mode = PutMode::Overwrite,
            _ => {}
        }
        let done = self.inner.put_opts(location, payload, options).await?;
        match verdict {
            Verdict::FailAfter => Err(failure()),
            Verdict::ExistsAfter => {
                Err(Error::AlreadyExists { path: location.to_string(), source: "as the test wants it".into() })
            }
            _ => Ok(done),
        }
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let verdict = self.verdict(Request::Get, location);
        if verdict == Verdict::FailBefore {
            return Err(failure());
        }
        let mut result = self.inner.get_opts(location, options).await?;
        if verdict == Verdict::Flip {
            let (meta, range, attributes) = (result.meta.clone(), result.range.clone(), result.attributes.clone());
            let mut bytes = result.bytes().await?.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            let body = futures::stream::iter([Ok(Bytes::from(bytes))]);
            result = GetResult { payload: GetResultPayload::Stream(Box::pin(body)), meta, range, attributes };
        }
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut all = Vec::new();
        for range in ranges {
            let options = GetOptions { range: Some(range.clone().into()), ..GetOptions::default() };
            all.push(self.get_opts(location, options).await?.bytes().await?);
        }
        Ok(all)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
