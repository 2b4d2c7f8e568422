//! Small documents, such as applications and their keys.

use std::fmt::Debug;

use async_trait::async_trait;
use serde_json::Value;

use crate::Error;

/// Storage of small, sealed JSON documents, each under a kind and a name.
#[async_trait]
pub trait Documents: Debug + Send + Sync {
    /// Stores a document, or removes it if `document` is `None`.
    async fn put_document(&self, kind: &str, name: &str, document: Option<Value>) -> Result<(), Error>;

    /// Returns all documents of a kind with their names, ordered by name.
    async fn documents(&self, kind: &str) -> Result<Vec<(String, Value)>, Error>;
}
