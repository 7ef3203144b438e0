//! The store.

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart, memory::InMemory,
    path::Path,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    asked::{Asked, Kind},
    fault::{self, Fault, Listing, Outage},
};

type Rule = Box<dyn FnMut(&Asked) -> Fault + Send>;

/// A store that does as it is told. In front of `inner`, which a test can look at and change without being counted.
pub struct TestStore<S = InMemory> {
    pub inner: S,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Counts calls of [`TestStore::go_on`]; a request that stalls waits for the next.
    let_go: watch::Sender<u64>,
    /// Counts requests.
    seen: watch::Sender<u64>,
}

struct State {
    rule: Rule,
    listing: Listing,
    log: Vec<Asked>,
    number: usize,
    writes: usize,
    failed: usize,
}

impl TestStore {
    /// In memory, empty, and well.
    pub fn new() -> Arc<Self> {
        Self::over(InMemory::new())
    }
}

impl<S: ObjectStore + Clone> TestStore<S> {
    /// In front of `inner`, and well.
    pub fn over(inner: S) -> Arc<Self> {
        let state = State {
            rule: Box::new(|_| Fault::None),
            listing: Listing::default(),
            log: Vec::new(),
            number: 0,
            writes: 0,
            failed: 0,
        };
        let shared = Shared { state: Mutex::new(state), let_go: watch::Sender::new(0), seen: watch::Sender::new(0) };
        Arc::new(Self { inner, shared: Arc::new(shared) })
    }

    /// As [`Self::over`] with [`Self::rule`].
    pub fn with_rule(inner: S, rule: impl FnMut(&Asked) -> Fault + Send + 'static) -> Arc<Self> {
        let store = Self::over(inner);
        store.rule(rule);
        store
    }

    /// From now on `rule` decides, and requests are numbered from 0.
    pub fn rule(&self, rule: impl FnMut(&Asked) -> Fault + Send + 'static) {
        let mut state = self.shared.state.lock();
        state.rule = Box::new(rule);
        state.number = 0;
        state.writes = 0;
    }

    /// The store goes down at the `at`th request from now on, counted from 0.
    pub fn fail(&self, at: usize, outage: Outage) {
        self.rule(move |asked| outage.fault(asked.number, at));
    }

    /// As [`Self::fail`], at the `at`th request that changes what is stored. With [`Outage::Before`] or [`Outage::After`]
    /// it is as if the process ended there: nothing of what it asks for later arrives.
    pub fn fail_at_write(&self, at: usize, outage: Outage) {
        self.rule(move |asked| match asked.kind.writes() || asked.writes_before > at {
            true => outage.fault(asked.writes_before, at),
            false => Fault::None,
        });
    }

    /// `percent` of all requests fail: with the same seed the same ones.
    pub fn storm(&self, seed: u64, percent: u64) {
        self.rule(fault::storm(seed, percent));
    }

    /// Nothing passes.
    pub fn go_away(&self) {
        self.rule(|_| Fault::Before);
    }

    /// Everything passes again. Requests are numbered on.
    pub fn heal(&self) {
        self.shared.state.lock().rule = Box::new(|_| Fault::None);
    }

    pub fn listing(&self, listing: Listing) {
        self.shared.state.lock().listing = listing;
    }

    /// Lets go on what stalls at this moment.
    pub fn go_on(&self) {
        self.shared.let_go.send_modify(|times| *times += 1);
    }

    /// Requests since the rule was made.
    pub fn requests(&self) -> usize {
        self.shared.state.lock().number
    }

    /// Writes since the rule was made.
    pub fn writes(&self) -> usize {
        self.shared.state.lock().writes
    }

    /// Requests that were made to fail since the store was made.
    pub fn failed(&self) -> usize {
        self.shared.state.lock().failed
    }

    /// Requests of this kind for keys that contain `part`, since the log was cleared.
    pub fn count(&self, kind: Kind, part: &str) -> usize {
        self.shared.state.lock().log.iter().filter(|asked| asked.kind == kind && asked.key.as_ref().contains(part)).count()
    }

    /// The bytes that such requests sent or brought.
    pub fn bytes(&self, kind: Kind, part: &str) -> u64 {
        let state = self.shared.state.lock();
        state.log.iter().filter(|asked| asked.kind == kind && asked.key.as_ref().contains(part)).map(|asked| asked.bytes).sum()
    }

    /// All requests since the log was cleared.
    pub fn log(&self) -> Vec<Asked> {
        self.shared.state.lock().log.clone()
    }

    pub fn clear_log(&self) {
        self.shared.state.lock().log.clear();
    }

    /// Waits until such a request was made, since the log was cleared.
    pub async fn asked(&self, kind: Kind, part: &str) {
        let mut seen = self.shared.seen.subscribe();
        while self.count(kind, part) == 0 {
            seen.changed().await.expect("the store has the sender");
        }
    }
}

impl Shared {
    /// Notes a request and says what becomes of it, after it stalled for as long as it was to.
    async fn meet(&self, kind: Kind, key: &Path, bytes: u64) -> Met {
        let mut let_go = self.let_go.subscribe();
        let met = self.note(kind, key, bytes);
        if met.fault == Fault::Stall {
            let_go.changed().await.expect("the store has the sender");
        }
        met
    }

    fn note(&self, kind: Kind, key: &Path, bytes: u64) -> Met {
        let met = {
            let mut state = self.state.lock();
            let asked = Asked { number: state.number, writes_before: state.writes, kind, key: key.clone(), bytes };
            state.number += 1;
            state.writes += usize::from(kind.writes());
            let fault = (state.rule)(&asked);
            state.failed += usize::from(matches!(fault, Fault::Before | Fault::After | Fault::Hidden));
            state.log.push(asked);
            Met { fault, at: state.log.len() - 1 }
        };
        self.seen.send_modify(|seen| *seen += 1);
        met
    }

    fn brought(&self, met: &Met, bytes: u64) {
        if let Some(asked) = self.state.lock().log.get_mut(met.at) {
            asked.bytes = bytes;
        }
    }

    /// What a listing of these becomes.
    fn listed(&self, fault: Fault, listed: Vec<Result<ObjectMeta>>) -> Vec<Result<ObjectMeta>> {
        let mut listed = listed;
        if self.state.lock().listing == Listing::Disordered {
            let twice = |(number, meta): (usize, Result<ObjectMeta>)| match meta {
                Ok(meta) if number % 2 == 0 => vec![Ok(meta.clone()), Ok(meta)],
                meta => vec![meta],
            };
            listed = listed.into_iter().enumerate().flat_map(twice).rev().collect();
        }
        match fault {
            Fault::Before => vec![Err(away())],
            Fault::After => {
                listed.truncate(listed.len() / 2);
                listed.push(Err(away()));
                listed
            }
            Fault::Hidden => vec![],
            _ => listed,
        }
    }
}

/// What a request met, and its place in the log.
struct Met {
    fault: Fault,
    at: usize,
}

fn away() -> Error {
    Error::Generic { store: "test", source: "as the test wants it".into() }
}

fn hidden(key: &Path) -> Error {
    Error::NotFound { path: key.to_string(), source: "as the test wants it".into() }
}

impl<S> fmt::Debug for TestStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TestStore")
    }
}

impl<S> fmt::Display for TestStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TestStore")
    }
}

#[async_trait]
impl<S: ObjectStore + Clone> ObjectStore for TestStore<S> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let met = self.shared.meet(Kind::Put, location, payload.content_length() as u64).await;
        match met.fault {
            Fault::Before => return Err(away()),
            Fault::Lost => return Ok(PutResult { e_tag: None, version: None }),
            Fault::Overwrite => options.mode = PutMode::Overwrite,
            _ => {}
        }
        let done = self.inner.put_opts(location, payload, options).await?;
        match met.fault {
            Fault::After => Err(away()),
            Fault::Exists => Err(Error::AlreadyExists { path: location.to_string(), source: "as the test wants it".into() }),
            _ => Ok(done),
        }
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(Upload { inner, shared: Arc::clone(&self.shared), key: location.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let kind = if options.head { Kind::Head } else { Kind::Get };
        let met = self.shared.meet(kind, location, 0).await;
        match met.fault {
            Fault::Before => return Err(away()),
            Fault::Hidden => return Err(hidden(location)),
            _ => {}
        }
        let result = self.inner.get_opts(location, options).await?;
        if met.fault == Fault::After {
            return Err(away());
        }
        if kind == Kind::Head {
            return Ok(result);
        }
        self.shared.brought(&met, result.range.end - result.range.start);
        let damage: fn(&mut Vec<u8>) = match met.fault {
            Fault::Flip => |bytes| {
                let middle = bytes.len() / 2;
                bytes.get_mut(middle).into_iter().for_each(|byte| *byte ^= 0x10);
            },
            Fault::Short => |bytes| bytes.truncate(bytes.len() / 2),
            _ => return Ok(result),
        };
        let (meta, range, attributes) = (result.meta.clone(), result.range.clone(), result.attributes.clone());
        let mut bytes = result.bytes().await?.to_vec();
        damage(&mut bytes);
        let body = stream::iter([Ok(Bytes::from(bytes))]);
        Ok(GetResult { payload: GetResultPayload::Stream(body.boxed()), meta, range, attributes })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let get = |range: &Range<u64>| {
            let options = GetOptions { range: Some(range.clone().into()), ..GetOptions::default() };
            async move { self.get_opts(location, options).await?.bytes().await }
        };
        future::try_join_all(ranges.iter().map(get)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, shared) = (self.inner.clone(), Arc::clone(&self.shared));
        let delete = move |location: Result<Path>| {
            let (inner, shared) = (inner.clone(), Arc::clone(&shared));
            async move {
                let location = location?;
                let met = shared.meet(Kind::Delete, &location, 0).await;
                match met.fault {
                    Fault::Before => return Err(away()),
                    Fault::Hidden => return Err(hidden(&location)),
                    Fault::Lost => return Ok(location),
                    _ => {}
                }
                inner.delete(&location).await?;
                if met.fault == Fault::After { Err(away()) } else { Ok(location) }
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let key = prefix.cloned().unwrap_or_default();
        let (listed, shared) = (self.inner.list(prefix), Arc::clone(&self.shared));
        listing(shared, key, listed)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let key = prefix.cloned().unwrap_or_default();
        let (listed, shared) = (self.inner.list_with_offset(prefix, offset), Arc::clone(&self.shared));
        listing(shared, key, listed)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let key = prefix.cloned().unwrap_or_default();
        let met = self.shared.meet(Kind::List, &key, 0).await;
        if met.fault == Fault::Before {
            return Err(away());
        }
        let mut listed = self.inner.list_with_delimiter(prefix).await?;
        let objects = self.shared.listed(met.fault, listed.objects.into_iter().map(Ok).collect());
        listed.objects = objects.into_iter().collect::<Result<_>>()?;
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn listing(shared: Arc<Shared>, key: Path, listed: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
    let list = async move {
        let met = shared.meet(Kind::List, &key, 0).await;
        let listed: Vec<_> = listed.map(Ok::<_, std::convert::Infallible>).try_collect().await.expect("infallible");
        stream::iter(shared.listed(met.fault, listed))
    };
    stream::once(list).flatten().boxed()
}

/// Each part is a request, and so is the completion.
struct Upload {
    inner: Box<dyn MultipartUpload>,
    shared: Arc<Shared>,
    key: Path,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upload")
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let (shared, key, bytes) = (Arc::clone(&self.shared), self.key.clone(), payload.content_length() as u64);
        let part = self.inner.put_part(payload);
        Box::pin(async move {
            match shared.meet(Kind::Put, &key, bytes).await.fault {
                Fault::Before => Err(away()),
                Fault::After => part.await.and_then(|()| Err(away())),
                _ => part.await,
            }
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let met = self.shared.meet(Kind::Put, &self.key, 0).await;
        if met.fault == Fault::Before {
            return Err(away());
        }
        let done = self.inner.complete().await?;
        if met.fault == Fault::After { Err(away()) } else { Ok(done) }
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
