//! Small documents, such as applications and their keys.

use std::fmt::Debug;

use async_trait::async_trait;
use serde_json::Value;

use crate::Error;

/// A stored document.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Name of the document, unique within its kind.
    pub name: String,
    /// Value of [`Documents::documents_version`] after the last change of this document.
    pub version: u64,
    /// Content of the document.
    pub content: Value,
}

/// All documents of a kind, as they were at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DocumentList {
    /// Value of [`Documents::documents_version`] at that moment.
    pub version: u64,
    /// The documents, ordered by name.
    pub documents: Vec<Document>,
}

/// Storage of small, sealed JSON documents, each under a kind and a name.
#[async_trait]
pub trait Documents: Debug + Send + Sync {
    /// Stores a document, or removes it if `content` is `None`. `expected` is the version that the document
    /// must have now, or 0 if it must not exist; `None` means any.
    ///
    /// # Errors
    /// [`Error::DocumentChanged`]: the document has another version.
    async fn put_document(
        &self,
        kind: &str,
        name: &str,
        expected: Option<u64>,
        content: Option<Value>,
    ) -> Result<(), Error>;

    /// Returns all documents of a kind.
    async fn documents(&self, kind: &str) -> Result<DocumentList, Error>;

    /// Returns a number that grows with each change of a document of any kind, by any process of the fleet.
    /// It is cheap enough to be asked for every second.
    async fn documents_version(&self) -> Result<u64, Error>;
}
