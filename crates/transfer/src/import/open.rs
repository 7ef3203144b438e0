//! The bytes of a file, wherever it lies, without gzip or zstd.

use std::{
    fs::File,
    io::{self, Cursor, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf, Bytes};
use futures::{StreamExt, stream::BoxStream};
use object_store::ObjectStoreExt;
use tokio::runtime::Handle;

use super::source::{Location, Source};

/// What is looked at to tell what a file is.
pub(crate) const HEAD_BYTES: usize = 64;

const GZIP: [u8; 2] = [0x1f, 0x8b];
pub(crate) const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

pub(crate) type Bytewise = Box<dyn Read + Send>;

/// The bytes of `source`; `read` counts those that were read, before decompression. Blocks: not for async tasks.
pub(crate) fn open(source: &Source, read: &Arc<AtomicU64>, runtime: &Handle) -> io::Result<Bytewise> {
    let bytes: Bytewise = match &source.location {
        Location::File(path) => Box::new(Counting { inner: File::open(path)?, read: read.clone() }),
        Location::Object { store, path } => {
            let answer = runtime.block_on(store.get(path)).map_err(io::Error::other)?;
            let stream = Streaming { stream: answer.into_stream(), part: Bytes::new(), runtime: runtime.clone() };
            Box::new(Counting { inner: stream, read: read.clone() })
        }
    };
    decompress(bytes)
}

/// Looks at the first bytes and undoes one compression.
pub(crate) fn decompress(bytes: Bytewise) -> io::Result<Bytewise> {
    let (head, bytes) = head(bytes)?;
    Ok(if head.starts_with(&GZIP) {
        Box::new(flate2::read::MultiGzDecoder::new(bytes))
    } else if head.starts_with(&ZSTD) {
        Box::new(zstd::Decoder::new(bytes)?)
    } else {
        bytes
    })
}

/// The first [`HEAD_BYTES`], and all of them again.
pub(crate) fn head(mut bytes: Bytewise) -> io::Result<(Vec<u8>, Bytewise)> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    bytes.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok((head.clone(), Box::new(Read::chain(Cursor::new(head), bytes))))
}

struct Counting<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// An object's bytes as they come.
struct Streaming {
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    part: Bytes,
    runtime: Handle,
}

impl Read for Streaming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.runtime.block_on(self.stream.next()) {
                None => return Ok(0),
                Some(part) => self.part = part.map_err(io::Error::other)?,
            }
        }
        let count = self.part.len().min(buffer.len());
        self.part.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
