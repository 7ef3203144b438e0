//! Files of each format, written trace by trace.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use prost::Message;
use proto::{
    otlp::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::TracesData},
    otlp_json,
};
use translate::jaeger;

use super::{Format, parquet::Table};
use crate::TransferError;

pub(super) struct Sink {
    body: Body,
    out: PathBuf,
    /// Until it is whole.
    part: PathBuf,
}

enum Body {
    OtlpJson(Output),
    OtlpProto(Output),
    JaegerJson { output: Output, any: bool },
    Parquet(Box<Table>),
}

enum Output {
    Plain(BufWriter<File>),
    Gzip(flate2::write::GzEncoder<BufWriter<File>>),
    Zstd(zstd::Encoder<'static, BufWriter<File>>),
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(bytes),
            Self::Gzip(file) => file.write_all(bytes),
            Self::Zstd(file) => file.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<()> {
        let file = match self {
            Self::Plain(file) => file,
            Self::Gzip(file) => file.finish()?,
            Self::Zstd(file) => file.finish()?,
        };
        file.into_inner()?.sync_all()
    }
}

impl Sink {
    pub fn create(format: Format, out: &Path) -> Result<Self, TransferError> {
        let mut part = out.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let fail = |source| TransferError::Write { name: part.display().to_string(), source };
        let file = BufWriter::with_capacity(1 << 20, File::create(&part).map_err(fail)?);
        let compression = out.extension().and_then(|extension| extension.to_str());
        let output = |file| match compression {
            Some("gz") => Ok(Output::Gzip(flate2::write::GzEncoder::new(file, flate2::Compression::default()))),
            Some("zst") => zstd::Encoder::new(file, 3).map(Output::Zstd),
            _ => Ok(Output::Plain(file)),
        };
        let body = match format {
            Format::OtlpJson => Body::OtlpJson(output(file).map_err(fail)?),
            Format::OtlpProto => Body::OtlpProto(output(file).map_err(fail)?),
            Format::JaegerJson => {
                let mut output = output(file).map_err(fail)?;
                output.write(b"{\"data\":[").map_err(fail)?;
                Body::JaegerJson { output, any: false }
            }
            // Its columns are compressed already.
            Format::Parquet => Body::Parquet(Box::new(Table::create(file).map_err(fail)?)),
        };
        Ok(Self { body, out: out.to_owned(), part })
    }

    /// Returns the bytes that it took, before compression.
    pub fn write(&mut self, trace: TracesData) -> Result<u64, TransferError> {
        let written = match &mut self.body {
            Body::OtlpJson(output) => {
                let mut line = otlp_json::encode(&ExportTraceServiceRequest { resource_spans: trace.resource_spans });
                line.push(b'\n');
                output.write(&line).map(|()| line.len())
            }
            Body::OtlpProto(output) => {
                let message = trace.encode_to_vec();
                let length = u32::try_from(message.len()).map_err(io::Error::other);
                let written = length.and_then(|length| output.write(&length.to_be_bytes()));
                written.and_then(|()| output.write(&message)).map(|()| message.len() + 4)
            }
            Body::JaegerJson { output, any } => match jaeger::write_json(&jaeger::batches(&trace)) {
                None => Ok(0),
                Some(json) => {
                    let comma = if std::mem::replace(any, true) { ",\n" } else { "\n" };
                    let text = format!("{comma}{json}");
                    output.write(text.as_bytes()).map(|()| text.len())
                }
            },
            Body::Parquet(table) => table.write(&trace),
        };
        written.map(|bytes| bytes as u64).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> TransferError {
        TransferError::Write { name: self.part.display().to_string(), source }
    }

    /// Only now the file has its name.
    pub fn finish(self) -> Result<(), TransferError> {
        let Self { body, out, part } = self;
        let finished = match body {
            Body::OtlpJson(output) | Body::OtlpProto(output) => output.finish(),
            Body::JaegerJson { mut output, .. } => {
                let end = b"\n],\"total\":0,\"limit\":0,\"offset\":0,\"errors\":null}\n";
                output.write(end).and_then(|()| output.finish())
            }
            Body::Parquet(table) => table.finish(),
        };
        finished
            .and_then(|()| fs::rename(&part, &out))
            .map_err(|source| TransferError::Write { name: out.display().to_string(), source })
    }
}
