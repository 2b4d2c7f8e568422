//! What is put into a page and sent for it: the part of a description that can be large, and that nobody
//! needs who does not open the page.

use pagecast_core::CastSpec;
use pagecast_core::spec::Secret;
use serde::{Deserialize, Serialize};

/// Style sheet, script, headers and cookies of a page: up to some megabytes, where all else of a description
/// is some kilobytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Injected {
    css: Option<String>,
    script: Option<String>,
    headers: Vec<(String, Secret)>,
    cookies: Vec<(String, Secret)>,
}

impl Injected {
    /// Takes it out of a description, if there is any of it.
    pub(crate) fn take_from(spec: &mut CastSpec) -> Option<Self> {
        let context = &mut spec.source.context;
        let taken = Self {
            css: context.css.take(),
            script: context.script.take(),
            headers: std::mem::take(&mut context.headers),
            cookies: std::mem::take(&mut context.cookies),
        };
        (taken != Self::default()).then_some(taken)
    }

    /// Puts it back.
    pub(crate) fn put_into(self, spec: &mut CastSpec) {
        let context = &mut spec.source.context;
        (context.css, context.script) = (self.css, self.script);
        (context.headers, context.cookies) = (self.headers, self.cookies);
    }
}
