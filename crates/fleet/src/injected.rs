//! Data that is injected into a page or sent for it: the part of a description that can be large, and that
//! only a worker needs.

use pagecast_core::CastSpec;
use pagecast_core::spec::Secret;
use serde::{Deserialize, Serialize};

/// Style sheet, script, headers and cookies of a page: up to some megabytes, while the rest of a description
/// takes some kilobytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Injected {
    css: Option<String>,
    script: Option<String>,
    headers: Vec<(String, Secret)>,
    cookies: Vec<(String, Secret)>,
}

impl Injected {
    /// Moves the injected data out of a description; `None` if there is none.
    pub(crate) fn take_from(spec: &mut CastSpec) -> Option<Self> {
        let context = &mut spec.source.context;
        let injected = Self {
            css: context.css.take(),
            script: context.script.take(),
            headers: std::mem::take(&mut context.headers),
            cookies: std::mem::take(&mut context.cookies),
        };
        (injected != Self::default()).then_some(injected)
    }

    /// Moves the data back into a description.
    pub(crate) fn put_into(self, spec: &mut CastSpec) {
        let context = &mut spec.source.context;
        (context.css, context.script) = (self.css, self.script);
        (context.headers, context.cookies) = (self.headers, self.cookies);
    }
}
