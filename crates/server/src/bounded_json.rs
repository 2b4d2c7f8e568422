//! JSON from untrusted senders, with a limit on the number of values that is checked before any value is
//! built: `[[],[],…` takes thirty times its size in memory.
//!
//! serde_json itself limits nesting to 128 levels.

use std::cell::Cell;
use std::fmt;

use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Most values in a body, including those in arrays and objects. The largest useful body, a cast with 100
/// headers, 100 cookies and ten pushes, has some 300; 10 000 values take at most 2 MB of memory besides their
/// strings.
pub(crate) const MAX_VALUES: usize = 10_000;

/// Error of a body with more than [`MAX_VALUES`] values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body has more than {MAX_VALUES} values")]
pub(crate) struct TooManyValues;

/// Why a body is not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    TooMany(#[from] TooManyValues),
    #[error(transparent)]
    Syntax(#[from] serde_json::Error),
}

/// Counts the values of a body without keeping them. Counting stops at a syntax error, which the caller's own
/// parser then reports.
pub(crate) fn check_value_count(bytes: &[u8]) -> Result<(), TooManyValues> {
    let remaining = Cell::new(MAX_VALUES);
    let exceeded = Cell::new(false);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let _syntax_error = ValueCounter { remaining: &remaining, exceeded: &exceeded }.deserialize(&mut reader);
    if exceeded.get() { Err(TooManyValues) } else { Ok(()) }
}

/// Parses a body of at most [`MAX_VALUES`] values.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Error> {
    check_value_count(bytes)?;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Value::deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// Counts values down from a limit and discards them.
#[derive(Clone, Copy)]
struct ValueCounter<'a> {
    remaining: &'a Cell<usize>,
    exceeded: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for ValueCounter<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.remaining.get().checked_sub(1) {
            Some(remaining) => self.remaining.set(remaining),
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

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while array.next_element_seed(self)?.is_some() {}
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

    /// An array with `count` elements.
    fn array_of(element: &str, count: usize) -> String {
        format!("[{}]", vec![element; count].join(","))
    }

    #[test]
    fn values_are_counted_wherever_they_are() {
        let members: Vec<_> = (0..MAX_VALUES - 1).map(|n| format!("\"{n}\":1")).collect();
        let object = format!("{{{}}}", members.join(","));
        for (case, text, fits) in [
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
            assert_eq!(check_value_count(text.as_bytes()).is_ok(), fits, "{case}: {text:.40}");
        }
    }

    #[test]
    fn bounded_values_are_parsed_as_by_serde_json() {
        for text in ["{\"a\":[1,-2,0.5,\"x\",null,true]}", "\"x\"", " 1 ", "", "{", "[1,]", "{} {}", "1e999"]
        {
            let (found, expected) =
                (parse(text.as_bytes()), serde_json::from_slice::<Value>(text.as_bytes()));
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(found), Err(expected)) => assert_eq!(found.to_string(), expected.to_string()),
                (found, expected) => panic!("{text}: {found:?} is not {expected:?}"),
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let small = check_value_count(&bytes);
            proptest::prop_assert_eq!(small, Ok(()));
            drop(parse(&bytes));
        }
    }
}
