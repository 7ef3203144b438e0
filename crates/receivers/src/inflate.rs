//! Decompression under a limit.

use std::io::{self, Read};

use distributor::{Lease, MemoryFull};
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};

use crate::refusal::Refusal;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Zstd,
    /// The zlib format, as HTTP defines it.
    Deflate,
}

/// For `grpc-accept-encoding` and messages.
pub(crate) const ENCODINGS: &str = "identity,gzip,zstd,deflate";

/// RFC 8878 asks decoders for windows up to 8 MiB; a larger one would let a few bytes claim 128 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

const STEP_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(crate) enum InflateError {
    /// More than the limit; says the limit.
    TooLarge(usize),
    Broken(io::Error),
    Memory(MemoryFull),
}

impl Encoding {
    /// One encoding; several on top of each other are not supported.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Some(Self::Identity),
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "zstd" => Some(Self::Zstd),
            "deflate" => Some(Self::Deflate),
            _ => None,
        }
    }

    /// The content of a compressed body, which must end where the body ends.
    pub(crate) fn inflate(self, body: &[u8], bytes_max: usize, lease: &mut Lease) -> Result<Vec<u8>, InflateError> {
        match self {
            Self::Identity => Ok(body.to_vec()),
            Self::Gzip => read_all(MultiGzDecoder::new(body), bytes_max, lease),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(body).map_err(InflateError::Broken)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(InflateError::Broken)?;
                read_all(decoder, bytes_max, lease)
            }
            Self::Deflate => {
                let mut decoder = ZlibDecoder::new(body);
                let content = read_all(&mut decoder, bytes_max, lease)?;
                match decoder.into_inner() {
                    [] => Ok(content),
                    _ => Err(InflateError::Broken(io::Error::other("something follows the end of the stream"))),
                }
            }
        }
    }
}

fn read_all(mut decoder: impl Read, bytes_max: usize, lease: &mut Lease) -> Result<Vec<u8>, InflateError> {
    let mut content = Vec::new();
    let mut step = vec![0; STEP_BYTES];
    loop {
        let count = match decoder.read(&mut step) {
            Ok(0) => return Ok(content),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(InflateError::Broken(error)),
        };
        if content.len() + count > bytes_max {
            return Err(InflateError::TooLarge(bytes_max));
        }
        lease.grow(count).map_err(InflateError::Memory)?;
        content.extend_from_slice(&step[..count]);
    }
}

impl InflateError {
    pub(crate) fn refusal(self, encoding: Encoding, full: impl FnOnce(MemoryFull) -> Refusal) -> Refusal {
        match self {
            Self::TooLarge(bytes_max) => Refusal::too_large(format!(
                "the request has more than {bytes_max} bytes after decompression; send smaller batches"
            )),
            Self::Broken(error) => Refusal::invalid(format!("the body is not whole {encoding:?} data: {error}")),
            Self::Memory(error) => full(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{
        Compression,
        write::{GzEncoder, ZlibEncoder},
    };

    use super::*;
    use distributor::Memory;

    const ENCODINGS: [Encoding; 3] = [Encoding::Gzip, Encoding::Zstd, Encoding::Deflate];

    fn deflated(encoding: Encoding, content: &[u8]) -> Vec<u8> {
        match encoding {
            Encoding::Identity => content.to_vec(),
            Encoding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap()
            }
            Encoding::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap()
            }
            Encoding::Zstd => zstd::encode_all(content, 3).unwrap(),
        }
    }

    fn inflate(encoding: Encoding, body: &[u8], bytes_max: usize) -> Result<Vec<u8>, &'static str> {
        let memory = Memory::new(4 << 20);
        let mut lease = memory.lease().unwrap();
        encoding.inflate(body, bytes_max, &mut lease).map_err(|error| match error {
            InflateError::TooLarge(_) => "too large",
            InflateError::Broken(_) => "broken",
            InflateError::Memory(_) => "memory",
        })
    }

    #[test]
    fn content_comes_back_up_to_the_limit() {
        let content: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        for encoding in ENCODINGS {
            let body = deflated(encoding, &content);
            assert_eq!(inflate(encoding, &body, content.len()).as_ref(), Ok(&content), "{encoding:?}");
            assert_eq!(inflate(encoding, &body, content.len() - 1), Err("too large"), "{encoding:?}");
        }
        let bomb = deflated(Encoding::Gzip, &vec![0; 20 << 20]);
        assert!(bomb.len() < 30_000);
        let inflated = inflate(Encoding::Gzip, &bomb, 64 << 20).map(|content| content.len());
        assert_eq!(inflated, Err("memory"), "the budget of 4 MiB holds it back");
    }

    #[test]
    fn what_is_cut_changed_or_followed_is_refused() {
        for encoding in ENCODINGS {
            let body = deflated(encoding, b"some content, some content, some content");
            for length in 1..body.len() {
                assert_eq!(inflate(encoding, &body[..length], 1000), Err("broken"), "{encoding:?} {length}");
            }
            assert_eq!(inflate(encoding, &[&body[..], b"garbage"].concat(), 1000), Err("broken"), "{encoding:?}");
            assert_eq!(inflate(encoding, b"this is not compressed at all", 1000), Err("broken"), "{encoding:?}");
        }
        let mut wrong_crc = deflated(Encoding::Gzip, b"content");
        let at = wrong_crc.len() - 6;
        wrong_crc[at] ^= 1;
        assert_eq!(inflate(Encoding::Gzip, &wrong_crc, 1000), Err("broken"));
    }

    #[test]
    fn several_members_are_one_content() {
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let body = [deflated(encoding, b"one "), deflated(encoding, b"two")].concat();
            assert_eq!(inflate(encoding, &body, 1000).as_deref(), Ok(&b"one two"[..]), "{encoding:?}");
        }
    }

    #[test]
    fn a_zstd_window_of_128_mib_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(27).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(b"content").unwrap();
        assert_eq!(inflate(Encoding::Zstd, &encoder.finish().unwrap(), 1000), Err("broken"));
    }
}
