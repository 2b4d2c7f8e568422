//! Parameters in one shape, whether they come as JSON or flattened into a form.
//!
//! Unknown members are ignored and `null` counts as absent, because SDKs are of many versions.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::error_code::ErrorCode;
use super::response::ApiError;
use crate::bounded_json;

/// Most parameters of a form: a request with ten pushes has fewer than 60.
pub(super) const MAX_PARAMETERS: usize = 1000;
/// Most parts of a flattened name: the deepest parameter has four.
const MAX_DEPTH: usize = 8;
/// Most digits of an index. Indexes only order the elements, so gaps cost nothing.
const MAX_INDEX_DIGITS: usize = 4;

/// Parameters of a request.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Params {
    members: Map<String, Value>,
    /// Whether the request is a form, in which numbers are text.
    is_form: bool,
}

/// Members of one object.
#[derive(Debug, Clone)]
pub(super) struct Object<'a> {
    members: &'a Map<String, Value>,
    is_form: bool,
    /// Path of the object, with a dot at the end; empty for the root.
    prefix: String,
}

impl Params {
    /// Parses a JSON object. An empty body is an object without members.
    pub(super) fn from_json(body: &[u8]) -> Result<Self, ApiError> {
        let bad = |why: String| ApiError::new(ErrorCode::BodyParamsError, why);
        if body.is_empty() {
            return Ok(Self::default());
        }
        match bounded_json::parse(body) {
            Ok(Value::Object(members)) => Ok(Self { members, is_form: false }),
            Ok(_) => Err(bad("the body must be a JSON object".into())),
            Err(bounded_json::Error::TooMany(error)) => Err(bad(error.to_string())),
            // The message gives the position only: the text there could be a secret key.
            Err(bounded_json::Error::Syntax(error)) => {
                Err(bad(format!("the body is not JSON: line {}, column {}", error.line(), error.column())))
            }
        }
    }

    /// Builds the parameters from decoded names and values of a form: `A.B.0=…`.
    pub(super) fn from_form(pairs: &[(String, String)]) -> Result<Self, ApiError> {
        let mut root = BTreeMap::new();
        for (name, value) in pairs {
            let bad = || {
                ApiError::new(
                    ErrorCode::InvalidParameter,
                    format!(
                        "the parameter `{}` is nested too deeply, empty, or contradicts another one",
                        truncate(name)
                    ),
                )
            };
            let parts: Vec<&str> = name.split('.').collect();
            if parts.len() > MAX_DEPTH || parts.iter().any(|part| part.is_empty()) {
                return Err(bad());
            }
            insert(&mut root, &parts, value).ok_or_else(bad)?;
        }
        let members = root.into_iter().map(|(name, tree)| (name, tree.into_value())).collect();
        Ok(Self { members, is_form: true })
    }

    /// The root object.
    pub(super) fn root(&self) -> Object<'_> {
        Object { members: &self.members, is_form: self.is_form, prefix: String::new() }
    }
}

enum FormTree {
    Leaf(String),
    Branch(BTreeMap<String, FormTree>),
}

/// Inserts a value at the path of its name; `None` if another value is there.
fn insert(into: &mut BTreeMap<String, FormTree>, parts: &[&str], value: &str) -> Option<()> {
    let (first, rest) = parts.split_first()?;
    if rest.is_empty() {
        return into.insert((*first).to_owned(), FormTree::Leaf(value.to_owned())).is_none().then_some(());
    }
    let branch = into.entry((*first).to_owned()).or_insert_with(|| FormTree::Branch(BTreeMap::new()));
    match branch {
        FormTree::Leaf(_) => None,
        FormTree::Branch(inner) => insert(inner, rest, value),
    }
}

impl FormTree {
    fn into_value(self) -> Value {
        let inner = match self {
            Self::Leaf(text) => return Value::String(text),
            Self::Branch(inner) => inner,
        };
        let index = |name: &str| {
            let digits = name.len() <= MAX_INDEX_DIGITS && name.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| name.parse::<u32>().ok()).flatten()
        };
        if !inner.keys().all(|name| index(name).is_some()) {
            return inner.into_iter().map(|(name, tree)| (name, tree.into_value())).collect();
        }
        let mut elements: Vec<_> =
            inner.into_iter().map(|(name, tree)| (index(&name), tree.into_value())).collect();
        elements.sort_by_key(|(index, _)| *index);
        Value::Array(elements.into_iter().map(|(_, value)| value).collect())
    }
}

impl<'a> Object<'a> {
    /// All members, as sent.
    pub(super) fn to_value(&self) -> Value {
        Value::Object(self.members.clone())
    }

    /// Full path of a member.
    pub(super) fn full_name(&self, member: &str) -> String {
        format!("{}{member}", self.prefix)
    }

    fn get(&self, member: &str) -> Option<&'a Value> {
        #[cfg(test)]
        crate::explorer::read_fields::record(&self.full_name(member));
        self.members.get(member).filter(|value| !value.is_null())
    }

    /// A string.
    pub(super) fn text(&self, member: &str) -> Result<Option<&'a str>, ApiError> {
        let wrong_type = || ApiError::wrong_type(&self.full_name(member), "a string");
        self.get(member).map(|value| value.as_str().ok_or_else(wrong_type)).transpose()
    }

    /// A string; an empty one counts as absent.
    pub(super) fn non_empty_text(&self, member: &str) -> Result<Option<&'a str>, ApiError> {
        Ok(self.text(member)?.filter(|text| !text.is_empty()))
    }

    /// A required string; without it the request is refused with `code`.
    pub(super) fn required_text(&self, member: &str, code: ErrorCode) -> Result<&'a str, ApiError> {
        self.non_empty_text(member)?.ok_or_else(|| ApiError::missing_parameter(code, &self.full_name(member)))
    }

    /// An integer, also when it is written as a double (`60.0`), as some JSON libraries do. A number beyond
    /// 64 bits becomes the nearest 64-bit number: no range goes that far.
    pub(super) fn integer(&self, member: &str) -> Result<Option<i64>, ApiError> {
        let read = |value: &Value| match value {
            Value::Number(number) => number.as_i64().or(number.is_u64().then_some(i64::MAX)).or_else(|| {
                number.as_f64().filter(|double| double.fract() == 0.0).map(|double| double as i64)
            }),
            Value::String(text) if self.is_form => parse_integer(text),
            _ => None,
        };
        let wrong_type = || ApiError::wrong_type(&self.full_name(member), "an integer");
        self.get(member).map(|value| read(value).ok_or_else(wrong_type)).transpose()
    }

    /// An integer in this range.
    pub(super) fn integer_in(
        &self,
        member: &str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        match self.integer(member)? {
            Some(value) if !range.contains(&value) => {
                Err(ApiError::out_of_range(&self.full_name(member), value, &range))
            }
            number => Ok(number),
        }
    }

    /// An integer in this range. 0 counts as absent: clients that serialize unset integers send 0.
    pub(super) fn nonzero_integer_in(
        &self,
        member: &str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        if self.integer(member)? == Some(0) {
            return Ok(None);
        }
        self.integer_in(member, range)
    }

    /// An object.
    pub(super) fn object(&self, member: &str) -> Result<Option<Self>, ApiError> {
        self.get(member).map(|value| self.child(self.full_name(member), value)).transpose()
    }

    /// An array of objects; empty if it is absent.
    pub(super) fn objects(&self, member: &str) -> Result<Vec<Self>, ApiError> {
        let named =
            |(i, value): (usize, &'a Value)| self.child(format!("{}.{i}", self.full_name(member)), value);
        self.list(member)?.iter().enumerate().map(named).collect()
    }

    /// An array of strings; empty if it is absent.
    pub(super) fn texts(&self, member: &str) -> Result<Vec<&'a str>, ApiError> {
        let wrong_type = || ApiError::wrong_type(&self.full_name(member), "an array of strings");
        self.list(member)?.iter().map(|value| value.as_str().ok_or_else(wrong_type)).collect()
    }

    fn list(&self, member: &str) -> Result<&'a [Value], ApiError> {
        match self.get(member) {
            None => Ok(&[]),
            Some(Value::Array(values)) => Ok(values),
            Some(_) => Err(ApiError::wrong_type(&self.full_name(member), "an array")),
        }
    }

    fn child(&self, name: String, value: &'a Value) -> Result<Self, ApiError> {
        let Value::Object(members) = value else { return Err(ApiError::wrong_type(&name, "an object")) };
        Ok(Self { members, is_form: self.is_form, prefix: format!("{name}.") })
    }
}

/// Parses an integer in digits, with optional zeros behind a point.
fn parse_integer(text: &str) -> Option<i64> {
    let (text, zeros) = text.split_once('.').unwrap_or((text, "0"));
    if zeros.is_empty() || zeros.bytes().any(|b| b != b'0') {
        return None;
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let limit = if text.starts_with('-') { i64::MIN } else { i64::MAX };
    Some(text.parse().unwrap_or(limit))
}

/// Beginning of a name, for messages.
fn truncate(name: &str) -> String {
    name.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(pairs: &[(&str, &str)]) -> Result<Params, ApiError> {
        let own: Vec<_> = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Params::from_form(&own)
    }

    #[test]
    fn both_encodings_give_the_same_parameters() {
        let json = Params::from_json(
            br#"{"A":{"B":["x","y"],"C":7},"L":[{"N":1},{"N":2}],"T":"t","Nothing":null,"Unknown":[[]]}"#,
        );
        let flat = form(&[
            ("A.B.0", "x"),
            ("A.B.1", "y"),
            ("A.C", "7"),
            ("L.10.N", "2"),
            ("L.2.N", "1"),
            ("T", "t"),
            ("Unknown", ""),
        ]);
        for params in [json.unwrap(), flat.unwrap()] {
            let root = params.root();
            let a = root.object("A").unwrap().unwrap();
            assert_eq!(a.texts("B").unwrap(), ["x", "y"]);
            assert_eq!(a.integer("C").unwrap(), Some(7));
            let list = root.objects("L").unwrap();
            let numbers: Vec<_> = list.iter().map(|o| o.integer("N").unwrap().unwrap()).collect();
            assert_eq!(numbers, [1, 2], "sorted by number, gaps closed");
            assert_eq!(list[1].full_name("N"), "L.1.N");
            assert_eq!(root.text("T").unwrap(), Some("t"));
            assert_eq!(root.text("Nothing").unwrap(), None);
            assert!(root.object("Gone").unwrap().is_none() && root.objects("Gone").unwrap().is_empty());
        }
    }

    #[test]
    fn numbers_are_whole_and_read_from_text_only_in_forms() {
        for (json, text, expected) in [
            ("30", "30", Some(30)),
            ("-1", "-1", Some(-1)),
            ("18446744073709551615", "99999999999999999999", Some(i64::MAX)),
            ("30.5", "30.5", None),
            ("30.0", "30.0", Some(30)),
            ("-3e1", "-30.00", Some(-30)),
            ("-0.0", "-0.0", Some(0)),
            ("1e300", "9223372036854775808.0", Some(i64::MAX)),
            ("1e-3", "30.", None),
            ("true", "", None),
            ("\"30\"", "0x1e", None),
            ("[]", "--3", None),
        ] {
            let params = Params::from_json(format!("{{\"N\":{json}}}").as_bytes()).unwrap();
            let wrong_type = ApiError::wrong_type("N", "an integer");
            assert_eq!(params.root().integer("N"), expected.map(Some).ok_or(wrong_type.clone()), "{json}");
            let params = form(&[("N", text)]).unwrap();
            assert_eq!(params.root().integer("N"), expected.map(Some).ok_or(wrong_type), "{text}");
        }
    }

    #[test]
    fn wrong_types_are_named() {
        let params = Params::from_json(br#"{"T":1,"O":"x","L":{"0":"x"},"M":["x",1],"P":[1]}"#).unwrap();
        let root = params.root();
        let code_and_message = |error: ApiError| (error.code, error.message);
        for (error, text) in [
            (root.text("T").unwrap_err(), "`T` must be a string"),
            (root.object("O").unwrap_err(), "`O` must be an object"),
            (root.texts("L").unwrap_err(), "`L` must be an array"),
            (root.texts("M").unwrap_err(), "`M` must be an array of strings"),
            (root.objects("P").unwrap_err(), "`P.0` must be an object"),
        ] {
            let (code, message) = code_and_message(error);
            assert!(code == "InvalidParameter" && message.contains(text), "{message}");
        }
    }

    #[test]
    fn hostile_input_is_refused() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let many = format!("{{\"a\":[{}]}}", vec!["[]"; 20_000].join(","));
        for bad in ["[]", "1", "{", "{\"a\":1e999}", "\u{feff}{}", "{\"secret", &deep, &many] {
            let error = Params::from_json(bad.as_bytes()).unwrap_err();
            assert_eq!(error.code, "InvalidParameter.BodyParamsError", "{}", &bad[..bad.len().min(20)]);
            assert!(!error.message.contains("secret"));
        }
        assert_eq!(Params::from_json(b"").unwrap(), Params::default());
        for bad in [
            &[("A", "1"), ("A.B", "2")][..],
            &[("A.B", "1"), ("A", "2")],
            &[("A", "1"), ("A", "1")],
            &[("A..B", "1")],
            &[("", "1")],
            &[("A.B.C.D.E.F.G.H.I", "1")],
        ] {
            assert_eq!(form(bad).unwrap_err().code, "InvalidParameter", "{bad:?}");
        }
        let far = form(&[("L.4294967296", "x")]).unwrap();
        assert!(far.root().texts("L").is_err(), "an invalid index makes an object");
    }

    proptest::proptest! {
        #[test]
        fn no_form_and_no_body_panics(
            pairs in proptest::collection::vec(("[A-C0-9.]{0,12}", ".{0,4}"), 0..20),
            body in proptest::collection::vec(proptest::num::u8::ANY, 0..64),
        ) {
            for params in [Params::from_form(&pairs), Params::from_json(&body)].into_iter().flatten() {
                drop(params.root().objects("A"));
            }
        }
    }
}
