//! What is inside a block: its columns by size, its row groups, its sidecar.

use comfy_table::{Cell, CellAlignment, ColumnConstraint};
use parquet::file::{metadata::ParquetMetaData, statistics::Statistics};
use serde::Serialize;

use super::{
    Style, bytes, plain, plural,
    search::{lines, table},
    thousands,
};

/// A block as its Parquet footer describes it. Sizes in bytes.
#[derive(Debug, Serialize)]
pub struct BlockReport {
    pub name: String,
    pub size_bytes: u64,
    pub spans: u64,
    pub bytes_per_span: f64,
    pub created_by: String,
    pub columns: Vec<ColumnReport>,
    pub row_groups: Vec<RowGroupReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<SidecarReport>,
}

#[derive(Debug, Serialize)]
pub struct ColumnReport {
    pub name: String,
    pub physical_type: String,
    pub compression: String,
    pub encodings: Vec<String>,
    pub compressed_bytes: u64,
    pub uncompressed_bytes: u64,
    /// Values in the file that are null, where the footer says so.
    pub nulls: Option<u64>,
}

#[derive(Debug, Serialize)]
pub struct RowGroupReport {
    pub spans: u64,
    pub compressed_bytes: u64,
    pub uncompressed_bytes: u64,
    pub start_unix_nano_min: Option<i64>,
    pub start_unix_nano_max: Option<i64>,
}

#[derive(Debug, Serialize)]
pub struct SidecarReport {
    pub name: String,
    pub size_bytes: u64,
    pub traces: u64,
    pub attributes: u64,
    pub checksummed_pieces: u64,
}

impl BlockReport {
    pub fn new(name: String, size_bytes: u64, footer: &ParquetMetaData) -> Self {
        let spans = u64::try_from(footer.file_metadata().num_rows()).unwrap_or(0);
        let mut columns: Vec<ColumnReport> = Vec::new();
        let mut row_groups = Vec::new();
        for group in footer.row_groups() {
            for (index, chunk) in group.columns().iter().enumerate() {
                if columns.len() == index {
                    columns.push(ColumnReport {
                        name: chunk.column_path().string(),
                        physical_type: chunk.column_type().to_string(),
                        compression: chunk.compression().to_string().split('(').next().unwrap_or_default().to_owned(),
                        encodings: Vec::new(),
                        compressed_bytes: 0,
                        uncompressed_bytes: 0,
                        nulls: Some(0),
                    });
                }
                let column = &mut columns[index];
                for encoding in chunk.encodings() {
                    let encoding = encoding.to_string();
                    if !column.encodings.contains(&encoding) {
                        column.encodings.push(encoding);
                    }
                }
                column.compressed_bytes += u64::try_from(chunk.compressed_size()).unwrap_or(0);
                column.uncompressed_bytes += u64::try_from(chunk.uncompressed_size()).unwrap_or(0);
                let nulls = chunk.statistics().and_then(Statistics::null_count_opt);
                column.nulls = column.nulls.zip(nulls).map(|(sum, more)| sum + more);
            }
            let start = group
                .columns()
                .iter()
                .find(|chunk| chunk.column_path().string() == block::schema::START_TIME)
                .and_then(|chunk| chunk.statistics())
                .and_then(|statistics| match statistics {
                    Statistics::Int64(values) => Some((values.min_opt().copied(), values.max_opt().copied())),
                    _ => None,
                })
                .unwrap_or_default();
            row_groups.push(RowGroupReport {
                spans: u64::try_from(group.num_rows()).unwrap_or(0),
                compressed_bytes: u64::try_from(group.compressed_size()).unwrap_or(0),
                uncompressed_bytes: u64::try_from(group.total_byte_size()).unwrap_or(0),
                start_unix_nano_min: start.0,
                start_unix_nano_max: start.1,
            });
        }
        Self {
            name,
            size_bytes,
            spans,
            bytes_per_span: size_bytes as f64 / spans.max(1) as f64,
            created_by: footer.file_metadata().created_by().unwrap_or("unknown").to_owned(),
            columns,
            row_groups,
            sidecar: None,
        }
    }
}

pub fn render(report: &BlockReport, style: Style) -> String {
    let mut text = format!(
        "{}\n{}  {}  {:.1} bytes per span  {}  {}\n\n",
        style.bold(&plain(&report.name)),
        plural(usize::try_from(report.spans).unwrap_or(usize::MAX), "span"),
        bytes(report.size_bytes),
        report.bytes_per_span,
        plural(report.columns.len(), "column"),
        plural(report.row_groups.len(), "row group"),
    );

    let mut columns: Vec<&ColumnReport> = report.columns.iter().collect();
    columns.sort_by(|a, b| b.compressed_bytes.cmp(&a.compressed_bytes).then_with(|| a.name.cmp(&b.name)));
    let mut sheet = table(style);
    let heads = ["COLUMN", "TYPE", "ENCODINGS", "SIZE", "SHARE", "RATIO", "B/SPAN", "NULLS"];
    sheet.set_header(heads.map(|head| Cell::new(style.bold(head))));
    for column in columns {
        let share = column.compressed_bytes as f64 / report.size_bytes.max(1) as f64 * 100.0;
        let ratio = column.uncompressed_bytes as f64 / column.compressed_bytes.max(1) as f64;
        sheet.add_row([
            plain(&column.name),
            short_type(&column.physical_type).to_owned(),
            column.encodings.iter().map(|encoding| short_encoding(encoding)).collect::<Vec<_>>().join(" "),
            bytes(column.compressed_bytes),
            format!("{share:.1}%"),
            format!("{ratio:.1}"),
            format!("{:.2}", column.compressed_bytes as f64 / report.spans.max(1) as f64),
            column.nulls.map_or(String::new(), thousands),
        ]);
    }
    for index in 1..heads.len() {
        let column = sheet.column_mut(index).expect("the header has these columns");
        if index != 2 {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
        if index > 2 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    text.push_str(&lines(&sheet));

    let mut groups = table(style);
    groups.set_header(
        ["ROW GROUP", "SPANS", "SIZE", "RAW", "FIRST START", "LAST START"].map(|head| Cell::new(style.bold(head))),
    );
    for (number, group) in report.row_groups.iter().enumerate() {
        let moment = |nanos: Option<i64>| {
            nanos.map_or(String::new(), |nanos| style.time(nanos as u64).format("%Y-%m-%d %H:%M:%S").to_string())
        };
        groups.add_row([
            number.to_string(),
            thousands(group.spans),
            bytes(group.compressed_bytes),
            bytes(group.uncompressed_bytes),
            moment(group.start_unix_nano_min),
            moment(group.start_unix_nano_max),
        ]);
    }
    for index in 1..4 {
        groups.column_mut(index).expect("the header has these columns").set_cell_alignment(CellAlignment::Right);
    }
    text.push('\n');
    text.push_str(&lines(&groups));

    match &report.sidecar {
        Some(sidecar) => text.push_str(&format!(
            "\nSidecar {}: {}, {} known, {}, {} checksummed\n",
            plain(&sidecar.name),
            bytes(sidecar.size_bytes),
            plural(usize::try_from(sidecar.traces).unwrap_or(usize::MAX), "trace"),
            plural(usize::try_from(sidecar.attributes).unwrap_or(usize::MAX), "attribute"),
            plural(usize::try_from(sidecar.checksummed_pieces).unwrap_or(usize::MAX), "piece"),
        )),
        None => text.push_str("\nNo sidecar beside it.\n"),
    }
    text.push_str(&format!("{}\n", style.dim(&format!("Written by {}", plain(&report.created_by)))));
    text
}

fn short_type(physical: &str) -> &str {
    match physical {
        "BYTE_ARRAY" => "bytes",
        "FIXED_LEN_BYTE_ARRAY" => "fixed",
        "INT64" => "int64",
        "INT32" => "int32",
        "DOUBLE" => "double",
        "FLOAT" => "float",
        "BOOLEAN" => "bool",
        other => other,
    }
}

fn short_encoding(encoding: &str) -> &str {
    match encoding {
        "RLE_DICTIONARY" => "dict",
        "PLAIN_DICTIONARY" => "dict",
        "PLAIN" => "plain",
        "RLE" => "rle",
        "DELTA_BINARY_PACKED" => "delta",
        "DELTA_LENGTH_BYTE_ARRAY" => "delta-length",
        "DELTA_BYTE_ARRAY" => "delta-bytes",
        "BYTE_STREAM_SPLIT" => "split",
        other => other,
    }
}
