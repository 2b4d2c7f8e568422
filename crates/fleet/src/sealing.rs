//! Sealing of values as JSON, and the contexts in which they are sealed: the same for every backend.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::injected::Injected;
use crate::vault::Vault;
use crate::{CastId, Error, NewCast};

/// Context of the value that checks the vault's key.
pub(crate) const KEY_CHECK_CONTEXT: &str = "meta/vault";

/// Context in which audit entries are sealed. Their numbers are not known before they are stored.
pub(crate) const AUDIT_CONTEXT: &str = "audit";

/// Context in which a value of a cast is sealed.
pub(crate) fn cast_context(id: &CastId, what: &str) -> String {
    format!("cast/{id}/{what}")
}

/// Context in which an event is sealed.
pub(crate) fn event_context(id: &CastId, seq: i64) -> String {
    cast_context(id, &format!("event/{seq}"))
}

/// Context in which a row of a recording's ledger is sealed; `key` is that of
/// [`pagecast_core::ledger::LedgerRow::key`].
pub(crate) fn ledger_context(id: &CastId, (kind, number): (u8, u32)) -> String {
    cast_context(id, &format!("ledger/{kind}/{number}"))
}

/// Context in which a document is sealed. It includes the length of the kind, so that it is unique.
pub(crate) fn document_context(kind: &str, name: &str) -> String {
    format!("document/{}/{kind}/{name}", kind.len())
}

/// Serializes a value and seals it in a context.
pub(crate) fn seal(vault: &Vault, context: &str, value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    Ok(vault.seal(context, &serde_json::to_vec(value)?))
}

/// Opens a value that was sealed in this context, and deserializes it.
///
/// # Errors
/// [`Error::Unreadable`].
pub(crate) fn open<T: DeserializeOwned>(vault: &Vault, context: &str, sealed: &[u8]) -> Result<T, Error> {
    let unreadable = |why: String| Error::Unreadable { what: context.to_owned(), why };
    let json = vault.open(context, sealed).map_err(|error| unreadable(error.to_string()))?;
    // The parser's message is omitted, because it may quote secrets.
    serde_json::from_slice(&json).map_err(|error| {
        unreadable(format!("this version of pagecast does not understand it at column {}", error.column()))
    })
}

/// A new cast whose values are already sealed, so that its transaction is short.
pub(crate) struct SealedCast {
    /// The cast, without the data that is injected into its page.
    pub new: NewCast,
    /// Its request.
    pub request: Vec<u8>,
    /// Its description.
    pub spec: Vec<u8>,
    /// The data that is injected into its page, if any.
    pub injected: Option<Vec<u8>>,
}

impl SealedCast {
    /// Seals the values of a cast.
    pub(crate) fn new(vault: &Vault, mut new: NewCast) -> serde_json::Result<Self> {
        let injected = Injected::take_from(&mut new.spec);
        let request = seal(vault, &cast_context(&new.id, "request"), &new.request)?;
        let spec = seal(vault, &cast_context(&new.id, "spec"), &new.spec)?;
        let injected =
            injected.map(|data| seal(vault, &cast_context(&new.id, "injected"), &data)).transpose()?;
        Ok(Self { new, request, spec, injected })
    }

    /// Total size of the sealed values.
    pub(crate) fn bytes(&self) -> usize {
        self.request.len() + self.spec.len() + self.injected.as_ref().map_or(0, Vec::len)
    }
}
