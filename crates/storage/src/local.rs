//! The local file system as an object store that keeps what it acknowledges.
//!
//! `object_store`'s own `LocalFileSystem` neither fsyncs nor sorts. Here:
//! - a put is written to a staging file, fsynced, and only then given its name, so a name never stands
//!   for half an object, even after power loss; then the folder is fsynced;
//! - folders are made durable from the root down before a file in them is acknowledged;
//! - an object whose folder could not be fsynced is not shown to anyone until the next start: it may be
//!   gone after a crash, so nobody may build on it;
//! - listings are in key order.
//!
//! Staging files end in `#<number>`, which listings leave out. One that a crash left behind does no harm.

use std::{
    collections::HashSet,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path as FsPath, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
    local::LocalFileSystem, path::Path,
};
use parking_lot::Mutex;

/// More folders than this known to be durable are forgotten, and checked again. About 10 MB.
const DURABLE_FOLDERS_MAX: usize = 100_000;

/// A file goes to the disk in steps of this size, so that nobody else who waits for the disk, such as the write-ahead log,
/// waits for a whole block.
const SYNC_STEP_BYTES: usize = 512 << 10;

/// Staging names tried for one put. Each name in the way is a crash of an earlier process in this very put.
const STAGING_NAMES_MAX: usize = 1_000;

#[derive(Clone, Debug)]
pub(crate) struct DurableFileSystem {
    inner: LocalFileSystem,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    root: PathBuf,
    staging: AtomicU64,
    /// Folders whose own name is known to be on disk.
    durable_folders: Mutex<HashSet<PathBuf>>,
    /// Objects that have a name which may not survive a crash.
    unsynced: Mutex<HashSet<PathBuf>>,
}

impl DurableFileSystem {
    /// Makes `root` if it is not there.
    pub fn open(root: &FsPath) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let root = fs::canonicalize(root)?;
        if let Some(parent) = root.parent() {
            // The root's own name. A parent that we may not open is not ours to sync.
            let _ = sync_folder(parent);
        }
        let inner = LocalFileSystem::new_with_prefix(&root).map_err(io::Error::other)?;
        let state = State {
            root,
            // Two processes need not step through each other's names.
            staging: AtomicU64::new(u64::from(std::process::id()) << 32),
            durable_folders: Mutex::default(),
            unsynced: Mutex::default(),
        };
        Ok(Self { inner, state: Arc::new(state) })
    }

    /// Runs `work` where it may block, with the object's path.
    async fn blocking<T: Send + 'static>(
        &self,
        location: &Path,
        work: impl FnOnce(&State, PathBuf) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = self.inner.path_to_filesystem(location)?;
        let state = self.state.clone();
        match tokio::task::spawn_blocking(move || work(&state, path)).await {
            Ok(result) => result,
            Err(e) => Err(Error::JoinError { source: e }),
        }
    }

    fn check_synced(&self, location: &Path) -> Result<()> {
        let unsynced = self.state.unsynced.lock();
        if unsynced.is_empty() || !unsynced.contains(&self.inner.path_to_filesystem(location)?) {
            return Ok(());
        }
        Err(generic(io::Error::other(format!(
            "{location} was written, but its folder could not be fsynced; check the disk and restart"
        ))))
    }
}

impl State {
    /// Makes `folder` and everything above it durable, up to the root.
    fn ensure_folder(&self, folder: &FsPath) -> io::Result<()> {
        let mut missing = Vec::new();
        {
            let known = self.durable_folders.lock();
            let mut at = folder;
            while at != self.root && !known.contains(at) {
                missing.push(at);
                match at.parent() {
                    Some(parent) => at = parent,
                    None => break,
                }
            }
        }
        for folder in missing.into_iter().rev() {
            match fs::create_dir(folder) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
            if let Some(parent) = folder.parent() {
                sync_folder(parent)?;
            }
            let mut known = self.durable_folders.lock();
            if known.len() >= DURABLE_FOLDERS_MAX {
                known.clear();
            }
            known.insert(folder.to_owned());
        }
        Ok(())
    }

    /// Makes the name of `path` durable. On failure the object is hidden.
    fn sync_name(&self, path: &FsPath) -> Result<()> {
        let folder = path.parent().unwrap_or(&self.root);
        sync_folder(folder).map_err(|e| {
            self.unsynced.lock().insert(path.to_owned());
            generic(e)
        })
    }

    fn put(&self, path: &FsPath, payload: &PutPayload, create: bool) -> Result<PutResult> {
        let (mut file, staging) = self.stage(path).map_err(generic)?;
        let steps = payload.iter().flat_map(|part| part.chunks(SYNC_STEP_BYTES));
        let mut unsynced = 0;
        let mut write = |step: &[u8]| {
            file.write_all(step)?;
            unsynced += step.len();
            if unsynced >= SYNC_STEP_BYTES {
                unsynced = 0;
                file.sync_data()?;
            }
            Ok(())
        };
        let written = steps.into_iter().try_for_each(&mut write).and_then(|()| file.sync_all());
        let named = match written {
            Err(e) => {
                let _ = fs::remove_file(&staging);
                return Err(generic(e));
            }
            Ok(()) if create => fs::hard_link(&staging, path),
            Ok(()) => fs::rename(&staging, path),
        };
        if create || named.is_err() {
            let _ = fs::remove_file(&staging);
        }
        match named {
            Ok(()) => {}
            Err(source) if create && source.kind() == ErrorKind::AlreadyExists => {
                return Err(Error::AlreadyExists { path: path.display().to_string(), source: source.into() });
            }
            Err(e) => return Err(generic(e)),
        }
        self.sync_name(path)?;
        Ok(PutResult { e_tag: None, version: None })
    }

    /// A new file beside `path`, in a folder that is there.
    fn stage(&self, path: &FsPath) -> io::Result<(File, PathBuf)> {
        let folder = path.parent().unwrap_or(&self.root);
        self.ensure_folder(folder)?;
        match self.staging_file(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                // Someone removed a folder that we knew: make it again, once.
                self.durable_folders.lock().clear();
                self.ensure_folder(folder).and_then(|()| self.staging_file(path))
            }
            opened => opened,
        }
    }

    /// A new file beside `path`. A name that an earlier process left behind is passed over.
    fn staging_file(&self, path: &FsPath) -> io::Result<(File, PathBuf)> {
        let mut last = io::Error::from(ErrorKind::AlreadyExists);
        for _ in 0..STAGING_NAMES_MAX {
            let mut name = path.as_os_str().to_owned();
            name.push(format!("#{}", self.staging.fetch_add(1, Ordering::Relaxed)));
            let name = PathBuf::from(name);
            match OpenOptions::new().write(true).create_new(true).open(&name) {
                Ok(file) => return Ok((file, name)),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }
}

fn same_file(a: &FsPath, b: &FsPath) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

fn sync_folder(folder: &FsPath) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn generic(source: io::Error) -> Error {
    Error::Generic { store: "local file system", source: source.into() }
}

impl fmt::Display for DurableFileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local folder {}", self.state.root.display())
    }
}

#[async_trait]
impl ObjectStore for DurableFileSystem {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let create = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented { operation: "a conditional update".into(), implementer: self.to_string() });
            }
        };
        if !options.attributes.is_empty() {
            return Err(Error::NotImplemented { operation: "attributes of an object".into(), implementer: self.to_string() });
        }
        self.blocking(location, move |state, path| state.put(&path, &payload, create)).await
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        if !options.attributes.is_empty() {
            return Err(Error::NotImplemented { operation: "attributes of an object".into(), implementer: self.to_string() });
        }
        let (file, staging) = self.blocking(location, |state, path| state.stage(&path).map_err(generic)).await?;
        Ok(Box::new(DurableUpload { store: self.clone(), location: location.clone(), file: Arc::new(file), staging, end: 0 }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.check_synced(location)?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.check_synced(location)?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        self.inner
            .delete_stream(locations)
            .and_then(move |location| {
                let store = store.clone();
                async move {
                    store.blocking(&location, |state, path| state.sync_name(&path)).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        sorted(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        sorted(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut found = self.inner.list_with_delimiter(prefix).await?;
        found.objects.sort_by(|a, b| a.location.cmp(&b.location));
        found.common_prefixes.sort();
        Ok(found)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.check_synced(from)?;
        self.blocking(to, |state, path| state.ensure_folder(path.parent().unwrap_or(&state.root)).map_err(generic)).await?;
        self.inner.copy_opts(from, to, options).await?;
        self.blocking(to, |state, path| state.sync_name(&path)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.check_synced(from)?;
        self.blocking(to, |state, path| state.ensure_folder(path.parent().unwrap_or(&state.root)).map_err(generic)).await?;
        self.inner.rename_opts(from, to, options).await?;
        self.blocking(to, |state, path| state.sync_name(&path)).await?;
        let renamed = self.inner.path_to_filesystem(to)?;
        self.blocking(from, move |state, path| {
            // A copy is a second name of the same file here, and POSIX's rename of one onto the other does
            // nothing at all.
            if path != renamed && same_file(&path, &renamed) {
                fs::remove_file(&path).map_err(generic)?;
            }
            state.sync_name(&path)
        })
        .await
    }
}

/// The whole listing in key order. Held in memory: a listing here is one table's log, or a folder.
fn sorted(listing: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
    stream::once(async move {
        let mut objects: Vec<ObjectMeta> = listing.try_collect().await?;
        objects.sort_by(|a, b| a.location.cmp(&b.location));
        Ok::<_, Error>(stream::iter(objects.into_iter().map(Ok)))
    })
    .try_flatten()
    .boxed()
}

/// An upload in parts, into a staging file that gets its name when it is complete and on the disk.
#[derive(Debug)]
struct DurableUpload {
    store: DurableFileSystem,
    location: Path,
    file: Arc<File>,
    staging: PathBuf,
    /// Where the next part begins.
    end: u64,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (file, mut at) = (self.file.clone(), self.end);
        self.end += data.content_length() as u64;
        let write = move || {
            data.iter().flat_map(|part| part.chunks(SYNC_STEP_BYTES)).try_for_each(|step| {
                file.write_all_at(step, at)?;
                at += step.len() as u64;
                file.sync_data()
            })
        };
        Box::pin(async move {
            match tokio::task::spawn_blocking(write).await {
                Ok(written) => written.map_err(generic),
                Err(e) => Err(Error::JoinError { source: e }),
            }
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (file, staging) = (self.file.clone(), self.staging.clone());
        self.store
            .blocking(&self.location, move |state, path| {
                file.sync_all().and_then(|()| fs::rename(&staging, &path)).map_err(generic)?;
                state.sync_name(&path)
            })
            .await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> Result<()> {
        let staging = self.staging.clone();
        self.store.blocking(&self.location, move |_, _| fs::remove_file(staging).map_err(generic)).await
    }
}
