//! Files that are read again when they change, without a restart.
//!
//! - What was read last and could be used is in force; a change that cannot be used leaves it in force, and is counted and
//!   logged once.
//! - Contents are compared, not times: a mounted volume may change what a link points to.
//! - At most [`Source::bytes_max`] of each file are read.

use std::{
    fs::File,
    io::{self, Read},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use ring::digest;
use tokio_util::sync::CancellationToken;

/// Where something comes from.
#[derive(Clone, Debug)]
pub struct Source {
    /// What it is, for the log: "the API keys".
    pub name: &'static str,
    /// All of them together are one thing.
    pub files: Vec<PathBuf>,
    /// Of each file.
    pub bytes_max: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has more than {bytes_max} bytes", path.display())]
    TooLarge { path: PathBuf, bytes_max: u64 },
    #[error("{files}: {what}")]
    Unusable { files: String, what: String },
}

/// Makes something of the contents of the files, in their order, or says what is wrong with them. Runs again at each
/// change.
type Parse<T> = Box<dyn Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync>;

/// What the files say. A handle; clones share it.
pub struct Followed<T>(Arc<Inner<T>>);

impl<T> Clone for Followed<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<T> {
    source: Source,
    parse: Parse<T>,
    current: ArcSwap<T>,
    /// Of the contents that were looked at last.
    seen: Seen,
    reloads: AtomicU64,
    failures: AtomicU64,
}

type Digest = [u8; 32];

/// `None` for files that cannot be read.
#[derive(Default)]
struct Seen(Mutex<Option<Digest>>);

impl Seen {
    /// Whether it is another than before.
    fn replace(&self, digest: Option<Digest>) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *seen, digest) != digest
    }
}

impl<T: Send + Sync + 'static> Followed<T> {
    /// Reads the files for the first time, when all must be well.
    pub fn open(
        source: Source,
        parse: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, FollowError> {
        let contents = source.read()?;
        let first = parse(&contents).map_err(|what| source.unusable(what))?;
        let seen = Seen::default();
        seen.replace(Some(fingerprint(&contents)));
        let current = ArcSwap::from_pointee(first);
        let (parse, counter) = (Box::new(parse), || AtomicU64::new(0));
        Ok(Self(Arc::new(Inner { source, parse, current, seen, reloads: counter(), failures: counter() })))
    }

    /// What is in force.
    pub fn current(&self) -> Arc<T> {
        self.0.current.load_full()
    }

    /// How often changed files were put in force.
    pub fn reloads(&self) -> u64 {
        self.0.reloads.load(Relaxed)
    }

    /// How often changed files could not be used.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Relaxed)
    }

    /// Looks every `interval` until `shutdown`, and tells `changed` what comes in force.
    pub async fn follow(self, interval: Duration, shutdown: CancellationToken, changed: impl Fn(&T) + Send) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(interval) => {}
            }
            // Files of this size are in the system's cache: no thread of its own for that.
            if self.look() {
                changed(&self.current());
            }
        }
    }

    /// True if something else is in force now.
    pub fn look(&self) -> bool {
        let Inner { source, parse, current, seen, reloads, failures } = &*self.0;
        let contents = source.read();
        if !seen.replace(contents.as_ref().ok().map(|contents| fingerprint(contents))) {
            return false;
        }
        match contents.and_then(|contents| parse(&contents).map_err(|what| source.unusable(what))) {
            Ok(next) => {
                current.store(Arc::new(next));
                reloads.fetch_add(1, Relaxed);
                tracing::info!("read {} again: {}", source.name, source.files());
                true
            }
            Err(error) => {
                failures.fetch_add(1, Relaxed);
                tracing::error!("{} stay as they were, since the new ones cannot be used: {error}", source.name);
                false
            }
        }
    }
}

impl Source {
    fn read(&self) -> Result<Vec<Vec<u8>>, FollowError> {
        let read = |path: &PathBuf| {
            let (mut bytes, bytes_max) = (Vec::new(), self.bytes_max);
            match File::open(path).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes)) {
                Ok(length) if length as u64 > bytes_max => Err(FollowError::TooLarge { path: path.clone(), bytes_max }),
                Ok(_) => Ok(bytes),
                Err(source) => Err(FollowError::Read { path: path.clone(), source }),
            }
        };
        self.files.iter().map(read).collect()
    }

    fn files(&self) -> String {
        self.files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    fn unusable(&self, what: String) -> FollowError {
        FollowError::Unusable { files: self.files(), what }
    }
}

/// The same for the same contents, and of no use to who sees it.
fn fingerprint(contents: &[Vec<u8>]) -> Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in contents {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn number(contents: &[Vec<u8>]) -> Result<u32, String> {
        String::from_utf8_lossy(&contents[0]).trim().parse().map_err(|_| "no number".to_owned())
    }

    #[test]
    fn a_change_comes_in_force_and_a_bad_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n");
        let source = Source { name: "the number", files: vec![path.clone()], bytes_max: 8 };
        assert!(matches!(Followed::open(source.clone(), number), Err(FollowError::Read { .. })));
        fs::write(&path, "x").unwrap();
        let error = Followed::open(source.clone(), number).map(drop).unwrap_err().to_string();
        assert!(error.ends_with("n: no number"), "{error}");

        fs::write(&path, "1").unwrap();
        let followed = Followed::open(source, number).unwrap();
        assert!(!followed.look());
        fs::write(&path, "2").unwrap();
        assert!(followed.look());
        assert!(!followed.look());
        for bad in ["two", "1234567890"] {
            fs::write(&path, bad).unwrap();
            assert!(!followed.look());
        }
        assert!(!followed.look(), "a bad file is told of once");
        fs::remove_file(&path).unwrap();
        assert!(!followed.look());
        assert_eq!((*followed.current(), followed.reloads()), (2, 1));
        fs::write(&path, "2").unwrap();
        assert!(followed.look(), "back again");
        assert_eq!((*followed.current(), followed.reloads(), followed.failures()), (2, 2, 2));
    }
}
