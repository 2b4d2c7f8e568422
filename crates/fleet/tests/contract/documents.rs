//! Documents are stored.

use serde_json::{Value, json};

use super::fixture::*;

pub(crate) async fn they_are_kept_by_kind_and_name<B: Backend>() {
    let mut backend = B::new();
    let fleet = backend.fleet();
    assert!(fleet.documents("app").await.unwrap().is_empty());
    for (kind, name, document) in [
        ("app", "b", json!({ "secret": "s" })),
        ("app", "a", json!(1)),
        ("app", "c", json!(null)),
        ("app/a", "", json!("another kind than `app`")),
        ("app", "b", json!({ "secret": "t" })),
    ] {
        fleet.put_document(kind, name, Some(document)).await.unwrap();
    }
    fleet.put_document("app", "c", None).await.unwrap();
    fleet.put_document("app", "unknown", None).await.unwrap();
    drop(fleet);
    backend.restart();
    let fleet = backend.fleet();
    let named = |all: &[(&str, Value)]| -> Vec<(String, Value)> {
        all.iter().map(|(name, document)| ((*name).to_owned(), document.clone())).collect()
    };
    let all = fleet.documents("app").await.unwrap();
    assert_eq!(all, named(&[("a", json!(1)), ("b", json!({ "secret": "t" }))]));
    assert_eq!(fleet.documents("app/a").await.unwrap().len(), 1);
    assert!(fleet.documents("").await.unwrap().is_empty());
}
