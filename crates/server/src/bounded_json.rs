//! JSON from strangers, bounded in values before anything is made of it: `[[],[],…` becomes thirty times its
//! size in memory.
//!
//! Nesting is bounded by serde_json itself, at 128 levels.

use std::cell::Cell;
use std::fmt;

use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Most values in a body, those in lists and objects included. The largest that makes sense, a cast with 100
/// headers, 100 cookies and ten pushes, has some 300; as many as this take 2 MB of memory at most, beside
/// their texts.
pub(crate) const MAX_VALUES: usize = 10_000;

/// A body has more than [`MAX_VALUES`] values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body has more than {MAX_VALUES} values")]
pub(crate) struct TooManyValues;

/// Why a body is not a JSON value that is taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    TooMany(#[from] TooManyValues),
    #[error(transparent)]
    Syntax(#[from] serde_json::Error),
}

/// Counts the values of a body without keeping any. What is no JSON counts as far as it can be read: whoever
/// reads it next says what is wrong with it.
pub(crate) fn check_value_count(bytes: &[u8]) -> Result<(), TooManyValues> {
    let left = Cell::new(MAX_VALUES);
    let exceeded = Cell::new(false);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let _what_is_no_json = ValueCounter { remaining: &left, exceeded: &exceeded }.deserialize(&mut reader);
    if exceeded.get() { Err(TooManyValues) } else { Ok(()) }
}

/// Reads a body of at most [`MAX_VALUES`] values.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Error> {
    check_value_count(bytes)?;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Value::deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// Takes values from what is left, and keeps nothing.
#[derive(Clone, Copy)]
struct ValueCounter<'a> {
    remaining: &'a Cell<usize>,
    exceeded: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for ValueCounter<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.remaining.get().checked_sub(1) {
            Some(left) => self.remaining.set(left),
            None => {
                self.exceeded.set(true);
                return Err(D::Error::custom(TooManyValues));
            }
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueCounter<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(self)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list with this many elements.
    fn array_of(element: &str, count: usize) -> String {
        format!("[{}]", vec![element; count].join(","))
    }

    #[test]
    fn values_are_counted_wherever_they_are() {
        let members: Vec<_> = (0..MAX_VALUES - 1).map(|n| format!("\"{n}\":1")).collect();
        let object = format!("{{{}}}", members.join(","));
        for (what, text, fits) in [
            ("list", array_of("[]", MAX_VALUES - 1), true),
            ("list", array_of("[]", MAX_VALUES), false),
            ("numbers", array_of("1.5", MAX_VALUES), false),
            ("texts", array_of("\"\\u00e9\"", MAX_VALUES), false),
            ("object", object.clone(), true),
            ("object", format!("[{object}]"), false),
            ("both", array_of("{\"a\":{\"b\":null}}", MAX_VALUES / 3), true),
            ("both", array_of("{\"a\":{\"b\":true}}", MAX_VALUES / 3 + 1), false),
            ("the same name", format!("{{{}}}", vec!["\"a\":1"; MAX_VALUES].join(",")), false),
            ("no end", array_of("[]", MAX_VALUES + 5).replace(']', " "), true),
            ("no end", array_of("{}", MAX_VALUES + 5).replace("]", ""), false),
            ("a long text", format!("\"{}\"", "[],".repeat(MAX_VALUES)), true),
            ("nothing", String::new(), true),
            ("deep", "[".repeat(MAX_VALUES * 2), true),
        ] {
            assert_eq!(check_value_count(text.as_bytes()).is_ok(), fits, "{what}: {text:.40}");
        }
    }

    #[test]
    fn what_fits_is_read_as_ever() {
        for text in ["{\"a\":[1,-2,0.5,\"x\",null,true]}", "\"x\"", " 1 ", "", "{", "[1,]", "{} {}", "1e999"]
        {
            let (found, want) = (parse(text.as_bytes()), serde_json::from_slice::<Value>(text.as_bytes()));
            match (found, want) {
                (Ok(found), Ok(want)) => assert_eq!(found, want),
                (Err(found), Err(want)) => assert_eq!(found.to_string(), want.to_string()),
                (found, want) => panic!("{text}: {found:?} is not {want:?}"),
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_nothing_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let small = check_value_count(&bytes);
            proptest::prop_assert_eq!(small, Ok(()));
            drop(parse(&bytes));
        }
    }
}
