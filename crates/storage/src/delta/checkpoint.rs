//! Checkpoints: the reconciled actions of a table as one Parquet file with a struct column per action.

use std::{io::Cursor, sync::Arc};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, Fields, Schema, SchemaRef},
    json::{LineDelimitedWriter, ReaderBuilder},
};
use bytes::Bytes;
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, ZstdLevel},
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
    },
};
use serde::{Deserialize, Serialize};

use super::{
    action::{Action, decode},
    seal,
};

/// Actions encoded at a time: bounds the memory between JSON and Parquet.
const BATCH_ROWS: usize = 4_096;

/// `_last_checkpoint`. A hint: a reader that finds it wrong or missing lists the log.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LastCheckpoint {
    pub version: i64,
    /// Actions in the file.
    pub size: i64,
    #[serde(default)]
    pub size_in_bytes: Option<i64>,
}

/// # Errors
/// Says why Arrow or Parquet refused; a bug of ours, but the commit before it stands.
pub(crate) fn encode(actions: &[Action]) -> Result<Bytes, String> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        // Nobody prunes in it, and what senders wrote must not stand in the footer, where the checksum is looked for.
        .set_statistics_enabled(EnabledStatistics::None)
        .set_key_value_metadata(Some(vec![KeyValue::new("seal".to_owned(), seal::BLANK.to_owned())]))
        .build();
    let mut file = Vec::new();
    let mut writer =
        ArrowWriter::try_new(&mut file, schema(), Some(properties)).map_err(|e| format!("the file cannot be begun: {e}"))?;
    for actions in actions.chunks(BATCH_ROWS) {
        writer.write(&batch(actions)?).map_err(|e| format!("the file cannot be written: {e}"))?;
    }
    writer.close().map_err(|e| format!("the file cannot be closed: {e}"))?;
    seal::seal(&mut file, seal::Place::Last);
    Ok(file.into())
}

fn batch(actions: &[Action]) -> Result<RecordBatch, String> {
    let rows = || -> Result<Option<RecordBatch>, arrow::error::ArrowError> {
        let mut decoder = ReaderBuilder::new(schema()).with_batch_size(BATCH_ROWS).build_decoder()?;
        decoder.serialize(actions)?;
        decoder.flush()
    };
    let batch = rows().map_err(|e| format!("an action does not fit the schema: {e}"))?;
    batch.ok_or_else(|| "there is no action".to_owned())
}

/// # Errors
/// Says why the file is not a checkpoint.
pub(crate) fn parse(file: Bytes) -> Result<Vec<Action>, String> {
    seal::check(&file, seal::Place::Last)?;
    let read = || -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(BATCH_ROWS).build()?;
        let mut lines = Cursor::new(Vec::new());
        let mut writer = LineDelimitedWriter::new(&mut lines);
        for batch in reader {
            writer.write(&batch?)?;
        }
        writer.finish()?;
        Ok(lines.into_inner())
    };
    let lines = read().map_err(|e| e.to_string())?;
    decode(&lines)
}

fn schema() -> SchemaRef {
    let string = |name: &str| Field::new(name, DataType::Utf8, true);
    let long = |name: &str| Field::new(name, DataType::Int64, true);
    let int = |name: &str| Field::new(name, DataType::Int32, true);
    let boolean = |name: &str| Field::new(name, DataType::Boolean, true);
    let map = |name: &str| {
        let entry = Fields::from(vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("value", DataType::Utf8, true),
        ]);
        let entries = Arc::new(Field::new("key_value", DataType::Struct(entry), false));
        Field::new(name, DataType::Map(entries, false), true)
    };
    let group = |name: &str, fields: Vec<Field>| Field::new(name, DataType::Struct(fields.into()), true);
    let strings = DataType::List(Arc::new(Field::new("element", DataType::Utf8, true)));

    Arc::new(Schema::new(vec![
        group("txn", vec![string("appId"), long("version"), long("lastUpdated")]),
        group(
            "add",
            vec![
                string("path"),
                map("partitionValues"),
                long("size"),
                long("modificationTime"),
                boolean("dataChange"),
                string("stats"),
                map("tags"),
            ],
        ),
        group(
            "remove",
            vec![
                string("path"),
                long("deletionTimestamp"),
                boolean("dataChange"),
                boolean("extendedFileMetadata"),
                map("partitionValues"),
                long("size"),
            ],
        ),
        group(
            "metaData",
            vec![
                string("id"),
                string("name"),
                string("description"),
                group("format", vec![string("provider"), map("options")]),
                string("schemaString"),
                Field::new("partitionColumns", strings, true),
                map("configuration"),
                long("createdTime"),
            ],
        ),
        group("protocol", vec![int("minReaderVersion"), int("minWriterVersion")]),
    ]))
}

#[cfg(test)]
mod tests {
    use super::{
        super::action::{Add, Format, Metadata, Protocol, Remove, Transaction},
        *,
    };

    #[test]
    fn actions_survive_a_checkpoint() {
        let add = |number: i64| Add {
            path: format!("w/{number}.parquet"),
            partition_values: Default::default(),
            size: number,
            modification_time: i64::MAX,
            data_change: false,
            stats: Some(r#"{"numRecords":1,"text":"\"quoted\" ü"}"#.into()),
            tags: Some([("a".to_owned(), Some("1".to_owned())), ("b".to_owned(), None)].into()),
        };
        let mut actions: Vec<Action> = vec![
            Protocol { min_reader_version: 1, min_writer_version: 2 }.into(),
            Metadata {
                id: "x".into(),
                name: None,
                description: None,
                format: Format { provider: "parquet".into(), options: Default::default() },
                schema_string: r#"{"type":"struct","fields":[]}"#.into(),
                partition_columns: vec![],
                configuration: [("k".to_owned(), "v".to_owned())].into(),
                created_time: Some(5),
            }
            .into(),
            Transaction { app_id: "ingester-1".into(), version: 7, last_updated: Some(1) }.into(),
            Remove {
                path: "w/gone.parquet".into(),
                deletion_timestamp: Some(1),
                data_change: true,
                extended_file_metadata: Some(true),
                partition_values: Some(Default::default()),
                size: Some(1),
            }
            .into(),
        ];
        // More than one batch.
        actions.extend((0..5_000).map(add).map(Action::from));
        let read = parse(encode(&actions).unwrap()).unwrap();
        assert_eq!(read.len(), actions.len());
        for (read, written) in read.iter().zip(&actions) {
            let (Some(r), Some(w)) = (&read.add, &written.add) else {
                assert_eq!(read, written);
                continue;
            };
            // A null in a map may come back as no entry: we write none.
            assert_eq!((&r.path, r.size, &r.stats), (&w.path, w.size, &w.stats));
            assert_eq!(r.tags.as_ref().unwrap()["a"], w.tags.as_ref().unwrap()["a"]);
        }
    }

    #[test]
    fn a_damaged_checkpoint_is_an_error() {
        assert!(parse(Bytes::from_static(b"PAR1 no")).is_err());
        assert!(parse(Bytes::new()).is_err());
    }
}
