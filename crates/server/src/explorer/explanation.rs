//! Explanations of refused requests: the checks of a dialect, one after the other, with their results.
//!
//! An explanation never contains a secret or a signature that was not in the request. Requests are only
//! checked against keys of the caller's applications; all other keys are unknown, whether they exist or not.

use std::sync::Arc;

use pagecast_core::spec::Secret;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::Application;

/// Name of the check that compares the time of a request with the clock. It fails for every request that is
/// explained later, so any other failure is the better verdict.
pub(crate) const CLOCK_CHECK: &str = "clock";
/// Verdict on a request that passes all checks.
const ACCEPTED: &str = "accepted";

/// Result of one check of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ExplorerCheck)]
pub(crate) struct Check {
    /// Name of the check, like `key`, `clock` or `signature`.
    #[schema(example = "clock")]
    pub(crate) check: &'static str,
    /// Whether the request passes it.
    pub(crate) ok: bool,
    /// What was found, and what to do about it.
    pub(crate) message: String,
}

/// Texts from which the service computes the signature of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ExplorerSignedTexts)]
pub(crate) struct SignedTexts {
    /// Canonical request.
    pub(crate) canonical_request: String,
    /// String to sign, with the hash of the canonical request.
    pub(crate) string_to_sign: String,
}

/// Explanation of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Explanation)]
pub(crate) struct Explanation {
    /// API that the request is meant for; null if it is neither vendor's.
    #[schema(required = true)]
    pub(crate) api: Option<&'static str>,
    /// `accepted`, or the name of the check that decides. `clock` only if nothing else is wrong.
    #[schema(example = "signature")]
    pub(crate) verdict: &'static str,
    /// What is wrong, and what to do about it.
    pub(crate) message: String,
    /// What the service signs for this request, to compare it with what the client signed. Null if the
    /// request does not get that far, or its key is not one of the caller's.
    #[schema(required = true)]
    pub(crate) server: Option<SignedTexts>,
    /// All checks, in order. Checks behind a failure that prevents them are missing.
    pub(crate) checks: Vec<Check>,
}

/// Collects the results of checks.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    results: Vec<Check>,
    pub(crate) server: Option<SignedTexts>,
}

impl Checks {
    pub(crate) fn pass(&mut self, check: &'static str, message: impl Into<String>) {
        self.results.push(Check { check, ok: true, message: message.into() });
    }

    pub(crate) fn fail(&mut self, check: &'static str, message: impl Into<String>) {
        self.results.push(Check { check, ok: false, message: message.into() });
    }

    /// Records the result of a check. Returns its value if it passed.
    pub(crate) fn record<T>(
        &mut self,
        check: &'static str,
        result: Result<T, String>,
        passed: &str,
    ) -> Option<T> {
        match result {
            Ok(value) => {
                self.pass(check, passed);
                Some(value)
            }
            Err(message) => {
                self.fail(check, message);
                None
            }
        }
    }

    /// An explanation that begins with these checks.
    pub(crate) fn followed_by(mut self, explanation: Explanation) -> Explanation {
        self.results.extend(explanation.checks);
        self.server = explanation.server;
        self.into_explanation(explanation.api)
    }

    /// The explanation of a request to this API.
    pub(crate) fn into_explanation(self, api: Option<&'static str>) -> Explanation {
        let failed = |check: &&Check| !check.ok;
        let decisive = self.results.iter().filter(failed).find(|check| check.check != CLOCK_CHECK);
        let decisive = decisive.or_else(|| self.results.iter().find(failed));
        let (verdict, message) = match decisive {
            Some(Check { check, message, .. }) if *check == CLOCK_CHECK => {
                (*check, format!("nothing else is wrong, but {message}"))
            }
            Some(Check { check, message, .. }) => (*check, message.clone()),
            None => (ACCEPTED, "the service accepts this request at the moment".to_owned()),
        };
        Explanation { api, verdict, message, server: self.server, checks: self.results }
    }
}

/// Applications whose keys an explanation may use.
#[derive(Debug, Default)]
pub(crate) struct KnownKeys(pub(crate) Vec<Arc<Application>>);

impl KnownKeys {
    /// Applications that have this key enabled, with its secret.
    pub(crate) fn owners<'a>(
        &'a self,
        id: &'a str,
    ) -> impl Iterator<Item = (&'a Arc<Application>, &'a Secret)> {
        self.0.iter().flat_map(move |app| {
            let keys = app.keys.iter().filter(move |key| key.id == id && !key.disabled);
            keys.map(move |key| (app, &key.secret))
        })
    }

    /// Checks that a key can be used. Returns its different secrets.
    pub(crate) fn find<'a>(&'a self, id: &'a str) -> Result<Vec<&'a Secret>, String> {
        let mut secrets: Vec<&Secret> = Vec::new();
        for (_, secret) in self.owners(id) {
            if !secrets.contains(&secret) {
                secrets.push(secret);
            }
        }
        if !secrets.is_empty() {
            return Ok(secrets);
        }
        let is_disabled = self.0.iter().flat_map(|app| &app.keys).any(|key| key.id == id);
        Err(if is_disabled {
            "the key is disabled: enable it, or sign with another one".to_owned()
        } else {
            "the key is not one of your applications': check its id, and whether it was removed".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_decides_only_if_nothing_else_is_wrong() {
        let mut checks = Checks::default();
        checks.pass("key", "known");
        assert_eq!(checks.into_explanation(None).verdict, "accepted");
        let mut checks = Checks::default();
        checks.fail(CLOCK_CHECK, "it is old");
        let mut both = Checks { results: checks.results.clone(), server: None };
        both.fail("signature", "it differs");
        assert_eq!(both.into_explanation(None).verdict, "signature");
        let late = checks.into_explanation(None);
        assert_eq!((late.verdict, late.message.as_str()), ("clock", "nothing else is wrong, but it is old"));
    }
}
