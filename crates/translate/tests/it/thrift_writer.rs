//! Writes thrift structures as clients do.

use thrift::protocol::{TFieldIdentifier, TListIdentifier, TMessageIdentifier, TMessageType, TOutputProtocol, TStructIdentifier, TType};

/// A value of a field.
pub enum V {
    Bool(bool),
    I16(i16),
    I32(i32),
    I64(i64),
    Double(f64),
    Text(&'static str),
    Bytes(Vec<u8>),
    Struct(Vec<(i16, V)>),
    List(Vec<V>),
}

impl V {
    pub fn kind(&self) -> TType {
        match self {
            V::Bool(_) => TType::Bool,
            V::I16(_) => TType::I16,
            V::I32(_) => TType::I32,
            V::I64(_) => TType::I64,
            V::Double(_) => TType::Double,
            V::Text(_) | V::Bytes(_) => TType::String,
            V::Struct(_) => TType::Struct,
            V::List(_) => TType::List,
        }
    }

    pub fn write(&self, out: &mut dyn TOutputProtocol) {
        match self {
            V::Bool(value) => out.write_bool(*value),
            V::I16(value) => out.write_i16(*value),
            V::I32(value) => out.write_i32(*value),
            V::I64(value) => out.write_i64(*value),
            V::Double(value) => out.write_double(*value),
            V::Text(value) => out.write_string(value),
            V::Bytes(value) => out.write_bytes(value),
            V::Struct(fields) => {
                out.write_struct_begin(&TStructIdentifier::new("")).unwrap();
                for (id, value) in fields {
                    out.write_field_begin(&TFieldIdentifier::new("", value.kind(), *id)).unwrap();
                    value.write(out);
                    out.write_field_end().unwrap();
                }
                out.write_field_stop().unwrap();
                out.write_struct_end()
            }
            V::List(elements) => {
                let kind = elements.first().map_or(TType::Struct, V::kind);
                out.write_list_begin(&TListIdentifier::new(kind, elements.len() as i32)).unwrap();
                elements.iter().for_each(|element| element.write(out));
                out.write_list_end()
            }
        }
        .unwrap();
    }
}

pub fn binary(value: &V) -> Vec<u8> {
    let mut bytes = vec![];
    value.write(&mut thrift::protocol::TBinaryOutputProtocol::new(&mut bytes, true));
    bytes
}

/// A one-way call with one argument.
pub fn call(compact: bool, name: &str, argument: V) -> Vec<u8> {
    let mut bytes = vec![];
    let write = |out: &mut dyn TOutputProtocol| {
        out.write_message_begin(&TMessageIdentifier::new(name, TMessageType::OneWay, 1)).unwrap();
        V::Struct(vec![(1, argument)]).write(out);
        out.write_message_end().unwrap();
    };
    match compact {
        true => write(&mut thrift::protocol::TCompactOutputProtocol::new(&mut bytes)),
        false => write(&mut thrift::protocol::TBinaryOutputProtocol::new(&mut bytes, true)),
    }
    bytes
}
