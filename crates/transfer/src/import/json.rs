//! JSON: OTLP, Jaeger's and Zipkin's, told from each other record by record.
//!
//! A file is lines with a request each, as the Collector's file exporter writes it, or a document: one request, an answer of
//! Jaeger's query API, a list of traces or spans, a list of such lists, or several of these. A broken line costs itself. In a
//! document an element that cannot be meant costs itself; broken brackets cost the rest.

use std::io::{Cursor, Read};

use prost::Message;
use serde::{Deserialize, de::IgnoredAny};
use translate::{jaeger, zipkin};

use super::{
    intake::{Intake, Place},
    open::Bytewise,
    protobuf::Ended,
    scanner::{Damage, Scanner},
};

/// What stood around a record and must stand around it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Around {
    Nothing,
    /// It is an element of `resourceSpans`.
    ResourceSpans,
}

/// The longest first line that is looked at to tell lines from a document.
const PROBE_BYTES_MAX: usize = 4 << 20;

/// Whether a file that begins so is JSON. A protobuf message may begin with what JSON takes for white space.
pub(crate) fn begins(head: &[u8]) -> bool {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let mut rest = head.iter().copied().filter(|byte| !byte.is_ascii_whitespace());
    match (rest.next(), rest.next()) {
        // A raw line break does not stand in a text.
        (Some(b'{'), Some(b'"')) => {
            let quote = head.iter().position(|byte| *byte == b'"').unwrap_or_default();
            head.get(quote + 1).is_none_or(|byte| !byte.is_ascii_control())
        }
        (Some(b'{'), Some(b'}')) | (Some(b'['), Some(b'{' | b'[' | b']')) => true,
        _ => false,
    }
}

/// `fallback_unix_nano`: for Zipkin spans that have no time at all.
pub(crate) fn read(bytes: Bytewise, fallback_unix_nano: u64, intake: &mut Intake<'_>) -> Result<(), Ended> {
    let mut scanner = Scanner::new(bytes);
    scanner.skip_mark()?;
    let mut first = vec![];
    let whole = scanner.line(&mut first, PROBE_BYTES_MAX)?;
    let lines = whole && is_line(&first) && matches!(scanner.peek()?, None | Some(b'{' | b'\n' | b'\r'));
    if lines {
        return read_lines(first, scanner, fallback_unix_nano, intake);
    }
    if whole {
        first.push(b'\n');
    }
    let rest = Cursor::new(first).chain(scanner.into_rest());
    let mut document = Document { scanner: Scanner::new(Box::new(rest)), fallback_unix_nano, intake };
    document.read()
}

fn is_line(line: &[u8]) -> bool {
    const KEY: &[u8] = b"\"resourceSpans\"";
    line.trim_ascii_start().starts_with(b"{") && line.windows(KEY.len()).any(|window| window == KEY)
}

fn read_lines(first: Vec<u8>, mut scanner: Scanner, fallback: u64, intake: &mut Intake<'_>) -> Result<(), Ended> {
    let mut line = first;
    let mut number = 1;
    loop {
        if !line.trim_ascii().is_empty() {
            intake.record(Place::Line(number), || request(&line, Around::Nothing, fallback))?;
        }
        if scanner.peek()?.is_none() {
            return Ok(());
        }
        line.clear();
        number += 1;
        if !scanner.line(&mut line, crate::RECORD_BYTES_MAX)? {
            scanner.pass_line()?;
            line.clear();
            intake.bad(Place::Line(number), format!("it has more than {} bytes", crate::RECORD_BYTES_MAX))?;
        }
    }
}

struct Document<'i, 'o> {
    scanner: Scanner,
    fallback_unix_nano: u64,
    intake: &'i mut Intake<'o>,
}

impl From<Damage> for Ended {
    fn from(damage: Damage) -> Self {
        match damage {
            Damage::Io(error) => error.into(),
            Damage::At { byte, reason } => Self::Unreadable(format!("at byte {byte}: {reason}")),
        }
    }
}

impl Document<'_, '_> {
    fn read(&mut self) -> Result<(), Ended> {
        loop {
            self.scanner.skip_space()?;
            match self.scanner.peek()? {
                None => return Ok(()),
                Some(b'[') => self.list(Around::Nothing)?,
                Some(b'{') => self.object()?,
                Some(_) => return Err(self.scanner.damage("here begins neither an object nor a list").into()),
            }
        }
    }

    /// Each element is a record.
    fn list(&mut self, around: Around) -> Result<(), Ended> {
        self.scanner.expect(b'[')?;
        loop {
            self.scanner.skip_space()?;
            match self.scanner.peek()? {
                Some(b']') => return Ok(self.scanner.expect(b']')?),
                Some(b',') => self.scanner.expect(b',')?,
                None => return Err(self.scanner.damage("the file ends inside a list").into()),
                Some(_) => {
                    let at = self.scanner.offset();
                    let mut element = vec![];
                    let kept = self.scanner.value(&mut element)?;
                    self.record(at, kept, &element, around)?;
                }
            }
        }
    }

    /// A record, unless it is only what stands around a list of them.
    fn object(&mut self) -> Result<(), Ended> {
        let at = self.scanner.offset();
        self.scanner.expect(b'{')?;
        let mut copy = b"{".to_vec();
        let (mut opened, mut kept) = (false, true);
        loop {
            self.scanner.skip_space()?;
            match self.scanner.peek()? {
                Some(b'}') => {
                    self.scanner.expect(b'}')?;
                    copy.push(b'}');
                    return if opened { Ok(()) } else { self.record(at, kept, &copy, Around::Nothing) };
                }
                Some(b',') => {
                    self.scanner.expect(b',')?;
                    copy.push(b',');
                }
                Some(b'"') => {
                    let begin = copy.len();
                    kept &= self.scanner.value(&mut copy)?;
                    self.scanner.skip_space()?;
                    self.scanner.expect(b':')?;
                    self.scanner.skip_space()?;
                    let list = self.scanner.peek()? == Some(b'[');
                    match &copy[begin..] {
                        b"\"data\"" if list => self.list(Around::Nothing)?,
                        b"\"resourceSpans\"" if list => self.list(Around::ResourceSpans)?,
                        _ => {
                            copy.push(b':');
                            kept &= self.scanner.value(&mut copy)?;
                            if copy.len() > crate::RECORD_BYTES_MAX {
                                kept = false;
                                copy.clear();
                            }
                            continue;
                        }
                    }
                    opened = true;
                }
                None => return Err(self.scanner.damage("the file ends inside an object").into()),
                Some(_) => return Err(self.scanner.damage("here stands no name of a member").into()),
            }
        }
    }

    fn record(&mut self, at: u64, kept: bool, value: &[u8], around: Around) -> Result<(), Ended> {
        let fallback = self.fallback_unix_nano;
        let make = || match kept {
            true => request(value, around, fallback),
            false => Err(format!("it has more than {} bytes", crate::RECORD_BYTES_MAX)),
        };
        Ok(self.intake.record(Place::Byte(at), make)?)
    }
}

/// The names by which an object is known.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Names {
    #[serde(default)]
    resource_spans: Option<IgnoredAny>,
    #[serde(default)]
    spans: Option<IgnoredAny>,
    #[serde(default)]
    data: Option<IgnoredAny>,
    #[serde(default)]
    trace_id: Option<IgnoredAny>,
    #[serde(default)]
    id: Option<IgnoredAny>,
}

/// The OTLP request that a record means.
pub(crate) fn request(record: &[u8], around: Around, fallback_unix_nano: u64) -> Result<Vec<u8>, String> {
    let otlp = |body: &[u8]| match proto::otlp_json::decode(body) {
        Ok(request) => Ok(request.encode_to_vec()),
        Err(error) => Err(format!("it is not OTLP: {error}")),
    };
    let zipkin = |body: &[u8]| {
        zipkin::request(zipkin::Format::JsonV2, body, fallback_unix_nano).map_err(|error| error.to_string())
    };
    if around == Around::ResourceSpans {
        return otlp(&[b"{\"resourceSpans\":[", record, b"]}"].concat());
    }
    if record.trim_ascii_start().starts_with(b"[") {
        return zipkin(record);
    }
    let names: Names = serde_json::from_slice(record).map_err(|error| format!("it is not a JSON object: {error}"))?;
    if names.resource_spans.is_some() {
        otlp(record)
    } else if names.spans.is_some() || names.data.is_some() {
        let batches = jaeger::read_json(record).map_err(|error| error.to_string())?;
        Ok(jaeger::requests(&batches).map_err(|error| error.to_string())?.concat())
    } else if names.trace_id.is_some() && names.id.is_some() {
        zipkin(&[b"[", record, b"]"].concat())
    } else {
        Err("it is neither an OTLP request, a Jaeger trace nor a Zipkin span".to_owned())
    }
}
