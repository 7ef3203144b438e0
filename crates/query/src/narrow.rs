//! Columns in as few bytes as their values need, for as long as they are kept: most numbers of dictionaries fit one byte of four.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::{cast, max, min},
    datatypes::{DataType, Int32Type, Int64Type},
};

use crate::request::QueryError;

/// The same values in a type that takes no more memory.
pub fn narrow(array: &ArrayRef) -> ArrayRef {
    let to = match array.data_type() {
        DataType::Dictionary(key, value) if **key == DataType::Int32 => {
            let Some(dictionary) = array.as_dictionary_opt::<Int32Type>() else { return Arc::clone(array) };
            let key = match dictionary.values().len() {
                0..=0x100 => DataType::UInt8,
                0x101..=0x1_0000 => DataType::UInt16,
                _ => return Arc::clone(array),
            };
            DataType::Dictionary(Box::new(key), value.clone())
        }
        DataType::Int32 => {
            let numbers = array.as_primitive::<Int32Type>();
            integer(min(numbers).unwrap_or(0).into(), max(numbers).unwrap_or(0).into())
        }
        DataType::Int64 => {
            let numbers = array.as_primitive::<Int64Type>();
            integer(min(numbers).unwrap_or(0), max(numbers).unwrap_or(0))
        }
        _ => return Arc::clone(array),
    };
    if to == *array.data_type() {
        return Arc::clone(array);
    }
    cast(array, &to).unwrap_or_else(|_| Arc::clone(array))
}

fn integer(least: i64, most: i64) -> DataType {
    let fits = |low: i64, high: i64| low <= least && most <= high;
    if fits(i8::MIN.into(), i8::MAX.into()) {
        DataType::Int8
    } else if fits(i16::MIN.into(), i16::MAX.into()) {
        DataType::Int16
    } else if fits(i32::MIN.into(), i32::MAX.into()) {
        DataType::Int32
    } else {
        DataType::Int64
    }
}

/// What [`narrow`] made of an array of this type, as it was.
pub fn widened(array: &ArrayRef, kind: &DataType) -> Result<ArrayRef, QueryError> {
    match array.data_type() == kind {
        true => Ok(Arc::clone(array)),
        false => cast(array, kind).map_err(QueryError::internal),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{DictionaryArray, Int32Array, Int64Array, StringArray};

    use super::*;

    fn words(count: usize) -> ArrayRef {
        let values = StringArray::from_iter_values((0..count).map(|word| word.to_string()));
        let keys: Int32Array = (0..2 * count).map(|row| (row % 7 != 3).then_some((row % count) as i32)).collect();
        Arc::new(DictionaryArray::try_new(keys, Arc::new(values)).unwrap())
    }

    #[test]
    fn narrow_columns_are_as_they_were_when_they_are_wide_again() {
        let edges = [0, 1, -1, 127, 128, -128, -129, 32_767, 32_768, 2_147_483_647, 2_147_483_648, i64::MAX, i64::MIN];
        for edge in edges {
            let longs: ArrayRef = Arc::new(Int64Array::from(vec![Some(edge), None, Some(0)]));
            assert_eq!(&widened(&narrow(&longs), longs.data_type()).unwrap(), &longs, "{edge}");
            if let Ok(edge) = i32::try_from(edge) {
                let ints: ArrayRef = Arc::new(Int32Array::from(vec![Some(edge), None, Some(0)]));
                assert_eq!(&widened(&narrow(&ints), ints.data_type()).unwrap(), &ints, "{edge}");
            }
        }
        for count in [1, 2, 255, 256, 257, 65_535, 65_536, 65_537] {
            let words = words(count);
            assert_eq!(&widened(&narrow(&words), words.data_type()).unwrap(), &words, "{count}");
        }
        let none: ArrayRef = Arc::new(Int64Array::from(vec![None; 3]));
        assert_eq!(&widened(&narrow(&none), none.data_type()).unwrap(), &none);
    }

    #[test]
    fn narrow_columns_take_less() {
        let wide = words(200);
        let bytes = |array: &ArrayRef| array.as_any_dictionary().keys().get_array_memory_size();
        assert!(2 * bytes(&narrow(&wide)) < bytes(&wide));
        let long: ArrayRef = Arc::new(Int64Array::from_iter_values((0..1_000).map(|row| 400 + row % 200)));
        assert_eq!(narrow(&long).data_type(), &DataType::Int16);
    }
}
