//! Documents are stored.

use pagecast_fleet::{DocumentList, Error, Fleet};
use serde_json::{Value, json};

use super::fixture::*;

/// Names and contents of a list.
fn contents(list: DocumentList) -> Vec<(String, Value)> {
    list.documents.into_iter().map(|document| (document.name, document.content)).collect()
}

async fn put(
    fleet: &dyn Fleet,
    name: &str,
    expected: Option<u64>,
    content: Option<Value>,
) -> Result<(), Error> {
    fleet.put_document("app", name, expected, content).await
}

pub(crate) async fn they_are_kept_by_kind_and_name<B: Backend>() {
    let mut backend = B::new().await;
    let fleet = backend.fleet();
    assert!(fleet.documents("app").await.unwrap().documents.is_empty());
    for (kind, name, document) in [
        ("app", "b", json!({ "secret": "s" })),
        ("app", "a", json!(1)),
        ("app", "c", json!(null)),
        ("app/a", "", json!("another kind than `app`")),
        ("app", "b", json!({ "secret": "t" })),
    ] {
        fleet.put_document(kind, name, None, Some(document)).await.unwrap();
    }
    put(&*fleet, "c", None, None).await.unwrap();
    put(&*fleet, "unknown", None, None).await.unwrap();
    drop(fleet);
    backend.restart().await;
    let fleet = backend.fleet();
    let named = |all: &[(&str, Value)]| -> Vec<(String, Value)> {
        all.iter().map(|(name, document)| ((*name).to_owned(), document.clone())).collect()
    };
    let all = contents(fleet.documents("app").await.unwrap());
    assert_eq!(all, named(&[("a", json!(1)), ("b", json!({ "secret": "t" }))]));
    assert_eq!(contents(fleet.documents("app/a").await.unwrap()).len(), 1);
    assert!(contents(fleet.documents("").await.unwrap()).is_empty());
}

pub(crate) async fn versions_grow_and_refuse_lost_updates<B: Backend>() {
    let mut backend = B::new().await;
    let fleet = backend.fleet();
    let is_refused =
        |result: Result<(), Error>| matches!(result, Err(Error::DocumentChanged(of)) if of == "a");
    let mut last = fleet.documents_version().await.unwrap();
    assert_eq!(fleet.documents("app").await.unwrap(), DocumentList { version: last, documents: Vec::new() });
    put(&*fleet, "a", Some(0), Some(json!(1))).await.unwrap();
    assert!(is_refused(put(&*fleet, "a", Some(0), Some(json!(2))).await), "it exists");
    let first = fleet.documents("app").await.unwrap();
    let seen = first.documents[0].version;
    assert!(first.version > last && seen == first.version);
    put(&*fleet, "b", None, Some(json!(0))).await.unwrap();
    put(&*fleet, "a", Some(seen), Some(json!(3))).await.unwrap();
    assert!(is_refused(put(&*fleet, "a", Some(seen), Some(json!(4))).await), "somebody else was faster");
    assert!(is_refused(put(&*fleet, "a", Some(seen), None).await));
    assert!(is_refused(put(&*fleet, "a", Some(u64::MAX), None).await));
    let list = fleet.documents("app").await.unwrap();
    assert_eq!(contents(list.clone())[0], ("a".to_owned(), json!(3)), "what was refused changed nothing");
    assert!(list.documents[1].version < list.documents[0].version);
    last = fleet.documents_version().await.unwrap();
    assert_eq!((list.version, list.documents[0].version), (last, last));

    drop(fleet);
    backend.restart().await;
    let fleet = backend.fleet();
    assert_eq!(fleet.documents("app").await.unwrap(), list);
    put(&*fleet, "a", Some(last), None).await.unwrap();
    assert!(fleet.documents_version().await.unwrap() > last, "a removal is a change, too");
    assert!(is_refused(put(&*fleet, "a", Some(last), Some(json!(5))).await), "it is gone");
    put(&*fleet, "a", Some(0), Some(json!(6))).await.unwrap();
    let again = fleet.documents("app").await.unwrap();
    assert!(again.documents[0].version > last, "a version is never used twice");
}
