//! Rows as text or Arrow, a batch at a time.

use arrow::{
    array::RecordBatch,
    csv,
    datatypes::SchemaRef,
    error::ArrowError,
    ipc::writer::StreamWriter,
    json::{WriterBuilder, writer::LineDelimited},
};

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlFormat {
    /// A list of objects, one for each row; null where there is no value.
    Json,
    /// With the names of the columns in the first line.
    Csv,
    /// Arrow's IPC stream.
    Arrow,
}

pub enum Encoder {
    Json { rows: bool },
    Csv { header: bool },
    Arrow(Box<StreamWriter<Vec<u8>>>),
}

impl Encoder {
    pub fn new(format: SqlFormat, schema: &SchemaRef) -> Result<Self, ArrowError> {
        Ok(match format {
            SqlFormat::Json => Self::Json { rows: false },
            SqlFormat::Csv => Self::Csv { header: true },
            SqlFormat::Arrow => Self::Arrow(Box::new(StreamWriter::try_new(vec![], schema)?)),
        })
    }

    pub fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        match self {
            Self::Json { rows } => {
                let mut lines = vec![];
                let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut lines);
                writer.write(batch)?;
                writer.finish()?;
                drop(writer);
                let mut text = vec![];
                // A line break within a value is escaped, so each ends a row.
                for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    text.extend_from_slice(if *rows { b",\n" } else { b"[" });
                    text.extend_from_slice(line);
                    *rows = true;
                }
                Ok(text)
            }
            Self::Csv { header } => {
                let mut text = vec![];
                csv::WriterBuilder::new().with_header(std::mem::take(header)).build(&mut text).write(batch)?;
                Ok(text)
            }
            Self::Arrow(writer) => {
                writer.write(batch)?;
                Ok(std::mem::take(writer.get_mut()))
            }
        }
    }

    /// What comes after the last batch.
    pub fn end(&mut self, schema: &SchemaRef) -> Result<Vec<u8>, ArrowError> {
        match self {
            Self::Json { rows: true } => Ok(b"]\n".to_vec()),
            Self::Json { rows: false } => Ok(b"[]\n".to_vec()),
            // Names without rows.
            Self::Csv { header: true } => self.batch(&RecordBatch::new_empty(SchemaRef::clone(schema))),
            Self::Csv { header: false } => Ok(vec![]),
            Self::Arrow(writer) => {
                writer.finish()?;
                Ok(std::mem::take(writer.get_mut()))
            }
        }
    }
}
