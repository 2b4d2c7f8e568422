//! Placement of a cast: which nodes of a fleet may run it.

use serde::{Deserialize, Serialize};

use super::SpecError;

/// Maximum number of labels that a cast may ask for.
pub const MAX_LABELS: usize = 8;
/// Longest label, in characters: as long as a DNS label, which names of zones and hosts fit.
const MAX_LABEL_LEN: usize = 63;

/// Which nodes of a fleet may run a cast.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Placement {
    /// Labels of which a node must have all to run the cast, at most [`MAX_LABELS`].
    pub labels: Vec<String>,
}

impl Placement {
    pub(super) fn validate(&self) -> Result<(), SpecError> {
        if self.labels.len() > MAX_LABELS {
            return Err(SpecError::Placement("at most 8 labels are possible"));
        }
        if !self.labels.iter().all(|label| is_label(label)) {
            return Err(SpecError::Placement("a label has 1 to 63 letters, digits and _ - ."));
        }
        Ok(())
    }
}

/// Whether a text can be a label of a node: 1 to 63 letters, digits and `_ - .`
#[must_use]
pub fn is_label(text: &str) -> bool {
    (1..=MAX_LABEL_LEN).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}
