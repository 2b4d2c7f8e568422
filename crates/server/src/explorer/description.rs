//! Descriptions of actions and their parameters.

use std::ops::RangeInclusive;

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// An action of a vendor's API.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ExplorerAction)]
pub(crate) struct Action {
    /// API of the action: `volcengine` or `tencent`.
    #[schema(example = "volcengine")]
    pub(crate) api: &'static str,
    /// Name of the action.
    #[schema(example = "StartWebcast")]
    pub(crate) action: &'static str,
    /// Version of the API that calls are made with.
    pub(crate) version: &'static str,
    /// What the action does, in a sentence.
    pub(crate) summary: &'static str,
    /// The parameters.
    pub(crate) parameters: Vec<Parameter>,
}

/// Type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ExplorerParameterType)]
pub(crate) enum ParameterType {
    /// A string.
    String,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// Object with the nested parameters.
    Object,
    /// List of objects with the nested parameters; of strings, if there are none.
    Array,
}

/// A parameter of an action.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ExplorerParameter)]
pub(crate) struct Parameter {
    /// Name of the parameter in its object.
    #[schema(example = "FrameRate")]
    pub(crate) name: &'static str,
    /// Type of the value.
    #[serde(rename = "type")]
    pub(crate) kind: ParameterType,
    /// Whether the object that contains the parameter must have it.
    pub(crate) required: bool,
    /// Value of an absent parameter; null if there is none.
    #[schema(required = true)]
    pub(crate) default: Option<Value>,
    /// Smallest value; of a string the fewest characters, of an array the fewest elements.
    #[schema(required = true)]
    pub(crate) minimum: Option<i64>,
    /// Largest value; of a string the most characters, of an array the most elements.
    #[schema(required = true)]
    pub(crate) maximum: Option<i64>,
    /// All allowed values; null if others are allowed.
    #[schema(required = true)]
    pub(crate) values: Option<Vec<Value>>,
    /// Whether the value is a secret.
    pub(crate) secret: bool,
    /// A value that is possible.
    pub(crate) example: Value,
    /// What the parameter means.
    pub(crate) description: &'static str,
    /// Parameters of the object, or of each object of the array.
    #[schema(no_recursion)]
    pub(crate) parameters: Vec<Parameter>,
}

impl Parameter {
    fn new(name: &'static str, kind: ParameterType, description: &'static str) -> Self {
        Self {
            name,
            kind,
            required: false,
            default: None,
            minimum: None,
            maximum: None,
            values: None,
            secret: false,
            example: Value::Null,
            description,
            parameters: Vec::new(),
        }
    }

    /// A string with a possible value.
    pub(crate) fn string(name: &'static str, example: &str, description: &'static str) -> Self {
        Self { example: example.into(), ..Self::new(name, ParameterType::String, description) }
    }

    /// An integer from this range.
    pub(crate) fn integer(
        name: &'static str,
        range: RangeInclusive<i64>,
        default: Option<i64>,
        description: &'static str,
    ) -> Self {
        Self {
            minimum: Some(*range.start()),
            maximum: Some(*range.end()).filter(|end| *end != i64::MAX),
            default: default.map(Value::from),
            example: default.filter(|value| range.contains(value)).unwrap_or(*range.start()).into(),
            ..Self::new(name, ParameterType::Integer, description)
        }
    }

    /// A boolean that is false by default.
    pub(crate) fn boolean(name: &'static str, description: &'static str) -> Self {
        Self {
            default: Some(false.into()),
            example: true.into(),
            ..Self::new(name, ParameterType::Boolean, description)
        }
    }

    /// An object with these parameters.
    pub(crate) fn object(name: &'static str, parameters: Vec<Self>, description: &'static str) -> Self {
        let example = example_of(&parameters);
        Self { parameters, example, ..Self::new(name, ParameterType::Object, description) }
    }

    /// An array of at most `maximum` objects with these parameters.
    pub(crate) fn objects(
        name: &'static str,
        maximum: usize,
        parameters: Vec<Self>,
        description: &'static str,
    ) -> Self {
        Self {
            minimum: Some(0),
            maximum: i64::try_from(maximum).ok(),
            example: json!([example_of(&parameters)]),
            parameters,
            ..Self::new(name, ParameterType::Array, description)
        }
    }

    /// An array of strings.
    pub(crate) fn strings(name: &'static str, example: &[&str], description: &'static str) -> Self {
        Self { example: json!(example), ..Self::new(name, ParameterType::Array, description) }
    }

    /// Makes it required.
    pub(crate) fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Makes it a secret.
    pub(crate) fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// Limits a string to this many characters.
    pub(crate) fn characters(mut self, range: RangeInclusive<usize>) -> Self {
        self.minimum = i64::try_from(*range.start()).ok();
        self.maximum = i64::try_from(*range.end()).ok();
        self
    }

    /// Allows these values only.
    pub(crate) fn values<T: Into<Value> + Clone>(mut self, values: &[T]) -> Self {
        self.values = Some(values.iter().cloned().map(Into::into).collect());
        self
    }

    /// Sets a possible value.
    pub(crate) fn example(mut self, value: impl Into<Value>) -> Self {
        self.example = value.into();
        self
    }

    /// Sets the value of an absent parameter.
    pub(crate) fn default_value(mut self, value: impl Into<Value>) -> Self {
        self.default = Some(value.into());
        self
    }
}

/// An object with examples of these parameters.
fn example_of(parameters: &[Parameter]) -> Value {
    parameters.iter().map(|parameter| (parameter.name.to_owned(), parameter.example.clone())).collect()
}

#[cfg(test)]
pub(crate) mod testing {
    use std::collections::BTreeSet;

    use serde_json::Map;

    use super::*;

    /// Names of all parameters, with those of the objects around them.
    pub(crate) fn paths(parameters: &[Parameter], prefix: &str) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for parameter in parameters {
            let path = format!("{prefix}{}", parameter.name);
            all.extend(paths(&parameter.parameters, &format!("{path}.")));
            all.insert(path);
        }
        all
    }

    /// An object with all examples.
    pub(crate) fn full_request(parameters: &[Parameter]) -> Map<String, Value> {
        example_of(parameters).as_object().unwrap().clone()
    }

    /// Checks that `parse` accepts and refuses what the descriptions say: types, ranges, allowed values, and
    /// whether a parameter is required. `base` is a valid request with all of `parameters`, which are at
    /// `path` in it.
    pub(crate) fn check_parameters(
        parameters: &[Parameter],
        path: &str,
        base: &Value,
        parse: &dyn Fn(&Value) -> Result<(), String>,
    ) {
        parse(base).unwrap_or_else(|error| panic!("{path}: {error}: {base}"));
        for parameter in parameters {
            let here = format!("{path}/{}", parameter.name);
            let with = |value: Value| {
                let mut request = base.clone();
                *request.pointer_mut(&here).unwrap_or_else(|| panic!("{here} in {base}")) = value;
                parse(&request)
            };
            let accepts = |value: Value| {
                with(value.clone()).unwrap_or_else(|error| panic!("{here} = {value}: {error}"));
            };
            let refuses = |value: Value| {
                assert!(with(value.clone()).is_err(), "{here} = {value} is accepted");
            };
            match with(Value::Null) {
                Ok(()) => assert!(!parameter.required, "{here} is not required"),
                Err(error) => assert!(parameter.required, "{here} is required: {error}"),
            }
            if let Some(default) = parameter.default.clone() {
                accepts(default);
            }
            for value in parameter.values.iter().flatten() {
                accepts(value.clone());
            }
            match parameter.kind {
                ParameterType::String => {
                    refuses(json!(1));
                    if let Some(maximum) = parameter.maximum {
                        refuses("a".repeat(usize::try_from(maximum).unwrap() + 1).into());
                    }
                    if parameter.values.is_some() {
                        refuses("no such value".into());
                    }
                }
                ParameterType::Boolean => refuses("true".into()),
                ParameterType::Integer => check_integer(parameter, &with),
                ParameterType::Object => {
                    refuses("x".into());
                    check_parameters(&parameter.parameters, &here, base, parse);
                }
                ParameterType::Array => {
                    refuses("x".into());
                    refuses(json!([7]));
                    if let Some(maximum) = parameter.maximum {
                        let one = parameter.example[0].clone();
                        refuses(vec![one; usize::try_from(maximum).unwrap() + 1].into());
                    }
                    check_parameters(&parameter.parameters, &format!("{here}/0"), base, parse);
                }
            }
        }
    }

    fn check_integer(parameter: &Parameter, parse: &dyn Fn(Value) -> Result<(), String>) {
        let name = parameter.name;
        let refuses = |value: Value| assert!(parse(value.clone()).is_err(), "{name} = {value} is accepted");
        refuses("1".into());
        refuses(json!(1.5));
        let (minimum, maximum) = (parameter.minimum.unwrap(), parameter.maximum);
        // 0 often means that a value is not set.
        if minimum != 1 {
            refuses((minimum - 1).into());
        }
        if let Some(maximum) = maximum {
            refuses((maximum + 1).into());
        }
        match &parameter.values {
            None => {
                for value in [Some(minimum), maximum].into_iter().flatten() {
                    parse(value.into()).unwrap_or_else(|error| panic!("{name} = {value}: {error}"));
                }
            }
            Some(allowed) => {
                for value in minimum..=maximum.unwrap_or(minimum) {
                    assert_eq!(
                        parse(value.into()).is_ok(),
                        allowed.contains(&value.into()),
                        "{name} = {value}"
                    );
                }
            }
        }
    }
}
