//! What a signed-in person may do.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a caller may do; each permission includes the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// See everything.
    Viewer,
    /// Start, stop, move and change casts, and try things out.
    Operator,
    /// Change applications, keys, tokens and nodes.
    Admin,
}

impl Permission {
    /// The name in the configuration and in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}
