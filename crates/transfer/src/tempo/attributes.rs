//! Attributes: a list of keys with a list of values for each type, and columns for those that have one of their own.

use arrow::array::{BooleanArray, Float64Array};
use proto::{
    otlp::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value},
    otlp_json,
};
use serde_json::value::RawValue;

use super::{
    columns::{Group, List, Numbers, Texts, doubles},
    meta::{Kind, Meta, Scope},
};

/// The attributes of resources, scopes, spans, events or links.
pub(super) struct Attributes<'a> {
    list: Option<Generic<'a>>,
    own: Vec<(String, Own<'a>)>,
    /// Columns of which nobody knows the attribute: there must be nothing in them.
    unnamed: Vec<(String, Own<'a>)>,
}

/// A key with the list of values of the type that it has.
struct Generic<'a> {
    list: List<'a>,
    keys: Texts<'a>,
    is_array: Option<&'a BooleanArray>,
    texts: Option<(List<'a>, Texts<'a>)>,
    integers: Option<(List<'a>, Numbers<'a>)>,
    doubles: Option<(List<'a>, &'a Float64Array)>,
    truths: Option<(List<'a>, &'a BooleanArray)>,
    others: Option<Texts<'a>>,
}

/// A column of its own.
enum Own<'a> {
    Text(Texts<'a>),
    /// A text for which empty means that there is none.
    Required(Texts<'a>),
    Integer(Numbers<'a>),
    Texts {
        list: List<'a>,
        values: Texts<'a>,
    },
    Integers {
        list: List<'a>,
        values: Numbers<'a>,
    },
}

impl<'a> Attributes<'a> {
    /// `fixed`: columns of the group that are always the same attribute, and whether empty means absent.
    pub fn find(
        group: &Group<'a>,
        fixed: &[(&str, &str, bool)],
        dedicated: Option<(Scope, &Meta)>,
    ) -> Result<Self, String> {
        let list = group.list("Attrs")?.map(Generic::find).transpose()?;
        let mut found = Self { list, own: vec![], unnamed: vec![] };
        for (column, attribute, required) in fixed {
            if let Some(own) = Own::find(group, column)? {
                let own = match own {
                    Own::Text(texts) if *required => Own::Required(texts),
                    own => own,
                };
                found.own.push(((*attribute).to_owned(), own));
            }
        }
        if let Some((scope, meta)) = dedicated
            && let Some(spares) = group.group("DedicatedAttributes")?
        {
            for name in spares.names() {
                let digits = name.find(|c: char| c.is_ascii_digit()).unwrap_or(name.len());
                let kind = if name.starts_with("Int") { Kind::Integer } else { Kind::Text };
                let column = name[digits..].parse().ok().and_then(|number| meta.dedicated(scope, kind, number));
                let Some(own) = Own::find(&spares, &name)? else { continue };
                match column {
                    Some(column) => found.own.push((column.name.clone(), own)),
                    None => found.unnamed.push((name, own)),
                }
            }
        }
        Ok(found)
    }

    pub fn read(&self, row: usize) -> Result<Vec<KeyValue>, String> {
        let mut out = match &self.list {
            Some(list) => list.list.range(row).map(|at| list.read(at)).collect::<Result<_, _>>()?,
            None => vec![],
        };
        for (key, own) in &self.own {
            if let Some(value) = own.read(row) {
                out.push(KeyValue {
                    key: key.clone(),
                    value: Some(AnyValue { value: Some(value) }),
                    ..KeyValue::default()
                });
            }
        }
        match self.unnamed.iter().find(|(_, own)| own.read(row).is_some()) {
            Some((name, _)) => {
                Err(format!("there is a value in the column {name}, and meta.json does not say of which attribute"))
            }
            None => Ok(out),
        }
    }
}

impl<'a> Own<'a> {
    fn find(group: &Group<'a>, name: &str) -> Result<Option<Self>, String> {
        if let Ok(Some(texts)) = group.texts(name) {
            return Ok(Some(Self::Text(texts)));
        }
        if let Ok(Some(list)) = group.list(name) {
            let elements = list.elements();
            if let Some(values) = Texts::of(elements) {
                return Ok(Some(Self::Texts { list, values }));
            }
            if let Some(values) = Numbers::of(elements) {
                return Ok(Some(Self::Integers { list, values }));
            }
        }
        Ok(group.numbers(name)?.map(Self::Integer))
    }

    fn read(&self, row: usize) -> Option<Value> {
        match self {
            Self::Text(texts) => Some(Value::StringValue(texts.text(row)?.into_owned())),
            Self::Required(texts) => {
                let text = texts.text(row).filter(|text| !text.is_empty())?;
                Some(Value::StringValue(text.into_owned()))
            }
            Self::Integer(numbers) => Some(Value::IntValue(numbers.get(row)?)),
            Self::Texts { list, values } => {
                several(list.range(row).map(|at| Value::StringValue(values.owned(at))).collect())
            }
            Self::Integers { list, values } => {
                several(list.range(row).filter_map(|at| values.get(at)).map(Value::IntValue).collect())
            }
        }
    }
}

/// Of a column that can hold several values: none is no attribute, and one is a scalar. Of a column for lists that is what
/// Tempo answers too: such a column does not say whether its one value was sent in a list, nor whether there was an empty one.
fn several(mut values: Vec<Value>) -> Option<Value> {
    match values.len() {
        0 => None,
        1 => values.pop(),
        _ => Some(array(values)),
    }
}

fn array(values: Vec<Value>) -> Value {
    let values = values.into_iter().map(|value| AnyValue { value: Some(value) }).collect();
    Value::ArrayValue(ArrayValue { values })
}

impl<'a> Generic<'a> {
    fn find(list: List<'a>) -> Result<Self, String> {
        let group = list.groups()?;
        let wrong = |name: &str| format!("the column {} has an element type that it should not", group.missing(name));
        let texts = group.list("Value")?;
        let texts = texts.map(|list| Texts::of(list.elements()).map(|v| (list, v)).ok_or_else(|| wrong("Value")));
        let integers = group.list("ValueInt")?;
        let integers =
            integers.map(|list| Numbers::of(list.elements()).map(|v| (list, v)).ok_or_else(|| wrong("ValueInt")));
        let found_doubles = group.list("ValueDouble")?;
        let found_doubles =
            found_doubles.map(|list| doubles(list.elements()).map(|v| (list, v)).ok_or_else(|| wrong("ValueDouble")));
        let truths = group.list("ValueBool")?;
        let truths = truths.map(|list| {
            let values = list.elements().as_any().downcast_ref::<BooleanArray>();
            values.map(|values| (list, values)).ok_or_else(|| wrong("ValueBool"))
        });
        Ok(Self {
            keys: group.texts("Key")?.ok_or_else(|| group.missing("Key"))?,
            is_array: group.truths("IsArray")?,
            texts: texts.transpose()?,
            integers: integers.transpose()?,
            doubles: found_doubles.transpose()?,
            truths: truths.transpose()?,
            others: group.texts("ValueUnsupported")?,
            list,
        })
    }

    fn read(&self, at: usize) -> Result<KeyValue, String> {
        let mut values = vec![];
        if let Some((list, texts)) = &self.texts {
            values.extend(list.range(at).map(|at| Value::StringValue(texts.owned(at))));
        }
        if let Some((list, numbers)) = &self.integers {
            values.extend(list.range(at).filter_map(|at| numbers.get(at)).map(Value::IntValue));
        }
        if let Some((list, numbers)) = &self.doubles {
            values.extend(list.range(at).map(|at| Value::DoubleValue(numbers.value(at))));
        }
        if let Some((list, truths)) = &self.truths {
            values.extend(list.range(at).map(|at| Value::BoolValue(truths.value(at))));
        }
        let key = self.keys.owned(at);
        let other = self.others.and_then(|others| others.text(at)).filter(|text| !text.is_empty());
        let is_array = self.is_array.is_some_and(|is_array| is_array.value(at));
        let value = match other {
            Some(json) => {
                any_value(&json).map_err(|reason| format!("the value of {key:?} cannot be read: {reason}"))?
            }
            None if is_array => Some(array(values)),
            None if values.len() > 1 => {
                return Err(format!("the attribute {key:?} has {} values and is no list", values.len()));
            }
            None => values.pop(),
        };
        Ok(KeyValue { key, value: Some(AnyValue { value }), ..KeyValue::default() })
    }
}

/// A value that is kept as the JSON of OTLP's `AnyValue`.
fn any_value(json: &str) -> Result<Option<Value>, String> {
    // Only a whole value may stand in the place of one.
    let value: &RawValue = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let text = format!(r#"{{"resourceSpans":[{{"resource":{{"attributes":[{{"key":"k","value":{value}}}]}}}}]}}"#);
    let request = otlp_json::decode(text.as_bytes()).map_err(|error| error.to_string())?;
    let resource = request.resource_spans.into_iter().next().and_then(|spans| spans.resource);
    let attribute = resource.and_then(|resource| resource.attributes.into_iter().next());
    Ok(attribute.and_then(|attribute| attribute.value?.value))
}
