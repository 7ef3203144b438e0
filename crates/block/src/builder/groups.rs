//! Resources and instrumentation scopes: read once, remembered as a number per span, spread over rows at the end.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, UInt32Array},
    compute::take,
    datatypes::{Float64Type, Int32Type, Int64Type},
};
use model::{AttributeScope, AttributeType};
use proto::wire::Attribute;

use super::{
    AttributeLimits, Warnings, cut,
    interner::Interner,
    kv::{Arena, Entry, Kept, KvLists},
    sparse,
};
use crate::{
    catalogue::Catalogue,
    promotion::{AttributeColumn, Promotion},
    schema,
};

/// The distinct resources, or the distinct instrumentation scopes, of a batch.
pub(super) struct Groups {
    scope: AttributeScope,
    /// What makes a group: its message as it came, and the schema URL. A text's code is its group's number.
    identities: Interner,
    identity: Vec<u8>,
    groups: Vec<Group>,
    entries: Vec<GroupEntry>,
    keys: Interner,
    /// By key: the last group that set it.
    set_last: Vec<u32>,
    arena: Arena,
    /// Texts of one value per group. An empty text is null in the columns.
    names: Texts,
    versions: Texts,
    schema_urls: Texts,
}

#[derive(Default)]
struct Texts {
    texts: Interner,
    codes: Vec<u32>,
}

struct Group {
    /// Its entries end before this number.
    entries_end: usize,
    dropped: u32,
    bytes: RowBytes,
}

/// What the attributes of a group take on each row of the finished batch, about. What has no column is written on
/// every row, so that a large resource weighs on every span of it.
#[derive(Clone, Copy, Default)]
pub(super) struct RowBytes {
    pub likely: usize,
    /// If none of them gets a column.
    pub most: usize,
}

struct GroupEntry {
    entry: Entry,
    /// Not the first value of this key here: it stays in the list.
    repeated: bool,
}

/// A promoted attribute while its values are gathered.
struct OwnColumn<'a> {
    column: &'a AttributeColumn,
    /// (group, value).
    values: Vec<(usize, Kept)>,
    /// How many rows these groups have.
    rows: u64,
}

/// So many attributes of one group are expected to get columns; what is beyond them is counted as if written on
/// every row. A batch has at most 256 attribute columns, for resources, scopes and spans together.
const OWN_COLUMNS_LIKELY: usize = 100;

/// What a group is besides its attributes.
pub(super) struct GroupWords<'a> {
    /// The whole message.
    pub raw: &'a [u8],
    pub name: &'a str,
    pub version: &'a str,
    pub schema_url: &'a str,
    pub dropped: u32,
}

/// The columns of a kind of group, one value per row.
pub(super) struct GroupColumns {
    pub names: ArrayRef,
    pub versions: ArrayRef,
    pub schema_urls: ArrayRef,
    pub dropped: ArrayRef,
    pub attributes: ArrayRef,
}

impl Groups {
    pub fn new(scope: AttributeScope) -> Self {
        Self {
            scope,
            identities: Interner::default(),
            identity: Vec::new(),
            groups: Vec::new(),
            entries: Vec::new(),
            keys: Interner::default(),
            set_last: Vec::new(),
            arena: Arena::default(),
            names: Texts::default(),
            versions: Texts::default(),
            schema_urls: Texts::default(),
        }
    }

    /// The number of this group; its attributes are read only if it is new.
    pub fn number<'a>(
        &mut self,
        words: &GroupWords<'_>,
        attributes: impl Iterator<Item = Attribute<'a>>,
        limits: &AttributeLimits,
        warnings: &mut Warnings,
        heap: &mut usize,
    ) -> u32 {
        self.identity.clear();
        self.identity.extend_from_slice(&(words.raw.len() as u64).to_le_bytes());
        self.identity.extend_from_slice(words.raw);
        self.identity.extend_from_slice(words.schema_url.as_bytes());
        let number = self.identities.intern(&self.identity, heap);
        if (number as usize) < self.groups.len() {
            return number;
        }
        let mut surplus = 0u32;
        let mut bytes = RowBytes::default();
        for (count, attribute) in attributes.enumerate() {
            if count >= limits.attributes_per_span_max {
                surplus = surplus.saturating_add(1);
                continue;
            }
            let attribute = cut::attribute(attribute, limits.value_bytes_max, warnings);
            let key = self.keys.intern(attribute.key.as_bytes(), heap);
            if key as usize == self.set_last.len() {
                self.set_last.push(u32::MAX);
            }
            let repeated = std::mem::replace(&mut self.set_last[key as usize], number) == number;
            let value = Kept::keep(&attribute, &mut self.arena, heap);
            let entry = GroupEntry { entry: Entry { key, value }, repeated };
            let listed = attribute.key.len() + value.list_bytes();
            let own_column = count < OWN_COLUMNS_LIKELY && schema::promotable(&attribute.key) && entry.own_column().is_some();
            bytes.likely += if own_column { 4 } else { listed };
            bytes.most += listed;
            self.entries.push(entry);
            *heap += size_of::<GroupEntry>();
        }
        warnings.attributes_dropped += u64::from(surplus);
        for (texts, text) in [
            (&mut self.names, words.name),
            (&mut self.versions, words.version),
            (&mut self.schema_urls, words.schema_url),
        ] {
            let text = cut::words(text, limits.value_bytes_max, warnings);
            let code = texts.texts.intern(text.as_bytes(), heap);
            texts.codes.push(code);
        }
        let dropped = words.dropped.saturating_add(surplus);
        self.groups.push(Group { entries_end: self.entries.len(), dropped, bytes });
        *heap += size_of::<Group>() + 12;
        number
    }

    pub fn row_bytes(&self, number: u32) -> RowBytes {
        self.groups[number as usize].bytes
    }

    pub fn len(&self) -> usize {
        self.groups.len()
    }

    fn entries(&self, number: usize) -> &[GroupEntry] {
        let start = if number == 0 { 0 } else { self.groups[number - 1].entries_end };
        &self.entries[start..self.groups[number].entries_end]
    }

    /// On how many rows each possible column would be set, where `rows[n]` rows belong to group `n`.
    pub fn candidates(&self, rows: &[u64]) -> Vec<(AttributeColumn, u64)> {
        let mut counts = vec![[0u64; AttributeType::ALL.len()]; self.keys.len()];
        for (number, rows) in rows.iter().enumerate() {
            for (entry, kind) in self.entries(number).iter().filter_map(|e| Some((e, e.own_column()?))) {
                counts[entry.entry.key as usize][kind as usize] += rows;
            }
        }
        let mut candidates = Vec::new();
        for (key, counts) in (0u32..).zip(counts) {
            for kind in AttributeType::ALL.into_iter().filter(|kind| counts[*kind as usize] > 0) {
                let column = AttributeColumn { scope: self.scope, key: self.keys.text(key).to_owned(), kind };
                candidates.push((column, counts[kind as usize]));
            }
        }
        candidates
    }

    /// Spreads everything over the rows: row `r` belongs to group `of_row[r]`.
    /// Promoted columns are added to `promoted`.
    pub fn finish(
        self,
        of_row: &UInt32Array,
        rows: &[u64],
        promotion: &Promotion,
        promoted: &mut Vec<(AttributeColumn, ArrayRef)>,
        catalogue: &mut Catalogue,
    ) -> GroupColumns {
        // Values by promoted column, then everything else into the lists, in one pass over the groups.
        let mut own_columns: Vec<OwnColumn<'_>> = Vec::new();
        let mut column_of = vec![[None; AttributeType::ALL.len()]; self.keys.len()];
        for (_, column) in promotion.iter().filter(|(_, column)| column.scope == self.scope) {
            let Some(key) = self.keys.code(column.key.as_bytes()) else { continue };
            column_of[key as usize][column.kind as usize] = Some(own_columns.len());
            own_columns.push(OwnColumn { column, values: Vec::new(), rows: 0 });
        }
        let mut lists = KvLists::new(self.groups.len());
        let mut counts = vec![0u64; self.keys.len()];
        for (number, rows) in rows.iter().enumerate() {
            for entry in self.entries(number) {
                let GroupEntry { entry: Entry { key, value }, .. } = entry;
                match entry.own_column().and_then(|kind| column_of[*key as usize][kind as usize]) {
                    Some(column) => {
                        let column: &mut OwnColumn<'_> = &mut own_columns[column];
                        column.values.push((number, *value));
                        column.rows += rows;
                    }
                    None => {
                        counts[*key as usize] += rows;
                        lists.push(self.keys.get(*key), value.written(&self.arena));
                    }
                }
            }
            lists.end_list();
        }
        for OwnColumn { column, values, rows } in own_columns {
            catalogue.add_promoted(self.scope, &column.key, column.kind, rows);
            promoted.push((column.clone(), spread(&self.column(column.kind, &values), of_row)));
        }
        for (key, count) in (0u32..).zip(counts).filter(|(_, count)| *count > 0) {
            catalogue.add_in_list(self.scope, self.keys.text(key), count);
        }
        let dropped = self.groups.iter().enumerate().filter(|(_, group)| group.dropped > 0);
        let dropped = dropped.map(|(number, group)| (number, group.dropped as i32));
        let dropped: ArrayRef = Arc::new(sparse::primitive::<Int32Type>(dropped, self.groups.len()));
        GroupColumns {
            names: spread(&self.names.finish(), of_row),
            versions: spread(&self.versions.finish(), of_row),
            schema_urls: spread(&self.schema_urls.finish(), of_row),
            dropped: spread(&dropped, of_row),
            attributes: spread(&lists.finish(), of_row),
        }
    }

    /// A column of (group, value), all of type `kind`.
    fn column(&self, kind: AttributeType, values: &[(usize, Kept)]) -> ArrayRef {
        let groups = self.groups.len();
        let values = values.iter().copied();
        match kind {
            AttributeType::String => {
                let (mut texts, mut heap) = (Interner::default(), 0);
                let codes: Vec<(usize, u32)> = values
                    .filter_map(|(number, value)| match value {
                        Kept::String(stretch) => Some((number, texts.intern(self.arena.get(stretch), &mut heap))),
                        _ => None,
                    })
                    .collect();
                sparse::text(codes.into_iter(), groups, texts)
            }
            AttributeType::Long => Arc::new(sparse::primitive::<Int64Type>(
                values.filter_map(|(number, value)| if let Kept::Long(n) = value { Some((number, n)) } else { None }),
                groups,
            )),
            AttributeType::Double => Arc::new(sparse::primitive::<Float64Type>(
                values.filter_map(|(number, value)| if let Kept::Double(x) = value { Some((number, x)) } else { None }),
                groups,
            )),
            AttributeType::Boolean => sparse::boolean(
                values.filter_map(|(number, value)| if let Kept::Boolean(b) = value { Some((number, b)) } else { None }),
                groups,
            ),
        }
    }
}

impl GroupEntry {
    /// The type of column this value can have.
    fn own_column(&self) -> Option<AttributeType> {
        match self.entry.value {
            _ if self.repeated => None,
            Kept::String(_) => Some(AttributeType::String),
            Kept::Long(_) => Some(AttributeType::Long),
            Kept::Double(_) => Some(AttributeType::Double),
            Kept::Boolean(_) => Some(AttributeType::Boolean),
            Kept::Other(_) => None,
        }
    }
}

impl Texts {
    /// The text of each group; null where it is empty.
    fn finish(self) -> ArrayRef {
        let set = self.codes.iter().enumerate().filter(|(_, code)| !self.texts.get(**code).is_empty());
        let set: Vec<(usize, u32)> = set.map(|(number, code)| (number, *code)).collect();
        sparse::text(set.into_iter(), self.codes.len(), self.texts)
    }
}

/// The group's value on every row of it.
fn spread(by_group: &ArrayRef, of_row: &UInt32Array) -> ArrayRef {
    take(by_group, of_row, None).expect("every row's group is one of these")
}
