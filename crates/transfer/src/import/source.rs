//! What there is to read: files, Tempo blocks, folders and object stores of either.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read},
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::UNIX_EPOCH,
};

use futures::StreamExt;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path};
use xxhash_rust::xxh3::xxh3_64;

use crate::{TransferError, tempo::Meta};

/// The most sources of one import.
const SOURCES_MAX: usize = 1 << 20;
/// The beginning of a file that is part of its identity.
const IDENTITY_BYTES: usize = 64 << 10;

/// One file or one block.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// As a person knows it.
    pub name: String,
    pub location: Location,
    pub bytes: u64,
    /// Changes when the contents do.
    pub identity: String,
    /// When it was written; 0 if nobody knows.
    pub written_unix_nano: u64,
    pub block: Option<Meta>,
    /// Why it cannot be read at all.
    pub problem: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) enum Location {
    File(PathBuf),
    Object { store: Arc<dyn ObjectStore>, path: Path },
}

const META: &str = "meta.json";
const DATA: &str = "data.parquet";

/// Everything that `names` stand for, in the order of their names. A folder that holds blocks stands for its blocks; another for
/// its files, but for hidden ones. `settings` are those of object stores, as in the environment of their tools.
pub(crate) async fn find(names: &[String], settings: &HashMap<String, String>) -> Result<Vec<Source>, TransferError> {
    let mut found = vec![];
    for name in names {
        let path = FilePath::new(name);
        let fail = |reason: String| TransferError::Source { name: name.clone(), reason };
        if let Some(url) = name.contains("://").then(|| reqwest::Url::parse(name)) {
            let url = url.map_err(|error| fail(format!("it is not a URL: {error}")))?;
            // Other variables may have the names of settings by chance.
            let settings = settings.iter().map(|(key, value)| (key.to_lowercase(), value.clone()));
            let settings =
                settings.filter(|(key, _)| ["aws_", "google_", "azure_"].iter().any(|of| key.starts_with(of)));
            let (store, path) =
                object_store::parse_url_opts(&url, settings).map_err(|error| fail(error.to_string()))?;
            let root = format!("{}://{}/", url.scheme(), url.authority().rsplit('@').next().unwrap_or_default());
            found.extend(listed(Arc::from(store), &path, &root, &fail).await?);
        } else if path.is_dir() {
            let path = path.canonicalize().map_err(|error| fail(error.to_string()))?;
            let store = LocalFileSystem::new_with_prefix(&path).map_err(|error| fail(error.to_string()))?;
            let root = format!("{}/", name.trim_end_matches('/'));
            found.extend(listed(Arc::new(store), &Path::default(), &root, &fail).await?);
        } else {
            found.push(file(name, path).map_err(|error| fail(error.to_string()))?);
        }
        if found.len() > SOURCES_MAX {
            return Err(fail(format!("there are more than {SOURCES_MAX} files; import some at a time")));
        }
    }
    Ok(found)
}

fn file(name: &str, path: &FilePath) -> io::Result<Source> {
    let about = fs::metadata(path)?;
    let mut head = vec![];
    fs::File::open(path)?.take(IDENTITY_BYTES as u64).read_to_end(&mut head)?;
    let written = about.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    Ok(Source {
        name: name.to_owned(),
        location: Location::File(path.to_owned()),
        bytes: about.len(),
        identity: format!("{} bytes, {:016x}", about.len(), xxh3_64(&head)),
        written_unix_nano: written.map_or(0, |at| at.as_nanos() as u64),
        block: None,
        problem: None,
    })
}

/// The blocks below `prefix`, or the files if there are none.
async fn listed(
    store: Arc<dyn ObjectStore>,
    prefix: &Path,
    root: &str,
    fail: &(impl Fn(String) -> TransferError + Sync),
) -> Result<Vec<Source>, TransferError> {
    let mut all: Vec<ObjectMeta> = vec![];
    // An object is no prefix of itself.
    if !prefix.as_ref().is_empty()
        && let Ok(object) = store.head(prefix).await
    {
        all.push(object);
    }
    let mut list = store.list((!prefix.as_ref().is_empty()).then_some(prefix));
    while let Some(object) = list.next().await {
        all.push(object.map_err(|error| fail(error.to_string()))?);
        if all.len() > SOURCES_MAX {
            return Err(fail(format!("there are more than {SOURCES_MAX} objects; import some at a time")));
        }
    }
    all.sort_by(|a, b| a.location.cmp(&b.location));
    all.dedup_by(|a, b| a.location == b.location);
    let metas: Vec<&ObjectMeta> = all.iter().filter(|object| object.location.filename() == Some(META)).collect();
    if metas.is_empty() {
        let visible = all.iter().filter(|object| !object.location.parts().any(|part| part.as_ref().starts_with('.')));
        let sources: Vec<_> = visible.map(|object| self::object(&store, object, root)).collect();
        return match sources.is_empty() {
            true => Err(fail("there is nothing below it".to_owned())),
            false => Ok(sources),
        };
    }
    let mut blocks = vec![];
    for meta in metas {
        let text = match store.get(&meta.location).await {
            Ok(answer) => answer.bytes().await.map_err(|error| fail(error.to_string()))?,
            Err(error) => return Err(fail(error.to_string())),
        };
        let folder = meta.location.as_ref().strip_suffix(META).unwrap_or_default();
        let name = format!("{root}{}", folder.trim_end_matches('/'));
        let data = all.iter().find(|object| object.location.as_ref() == format!("{folder}{DATA}"));
        // One that cannot be read does not keep the others from being read.
        blocks.push(match (Meta::read(&text), data) {
            (Ok(block), Some(data)) => Source {
                name,
                identity: format!("block {}, {} bytes", block.id, data.size),
                block: Some(block),
                ..object(&store, data, root)
            },
            (Err(problem), _) => Source { name, problem: Some(problem), ..object(&store, meta, root) },
            (_, None) => {
                let problem =
                    format!("it has a {META} and no {DATA}; an unfinished block, or one of a write-ahead log");
                Source { name, problem: Some(problem), ..object(&store, meta, root) }
            }
        });
    }
    Ok(blocks)
}

fn object(store: &Arc<dyn ObjectStore>, object: &ObjectMeta, root: &str) -> Source {
    let version = object.e_tag.clone().unwrap_or_else(|| object.last_modified.to_rfc3339());
    Source {
        name: format!("{root}{}", object.location),
        location: Location::Object { store: store.clone(), path: object.location.clone() },
        bytes: object.size,
        identity: format!("{} bytes, {version}", object.size),
        written_unix_nano: object.last_modified.timestamp_nanos_opt().map_or(0, |at| at.max(0) as u64),
        block: None,
        problem: None,
    }
}
