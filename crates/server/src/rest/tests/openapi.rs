use std::collections::BTreeSet;
use std::path::Path;

use super::*;

#[test]
fn the_description_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/openapi.json");
    let text = crate::rest::openapi::openapi_json();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "{} is not current: run this test with UPDATE=1", path.display());
}

/// Collects the names of all schemas that are referred to.
fn collect_refs(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                found.insert(name.strip_prefix("#/components/schemas/").unwrap().to_owned());
            }
            map.values().for_each(|value| collect_refs(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| collect_refs(value, found)),
        _ => {}
    }
}

#[test]
fn the_description_is_complete() {
    let api: Value = serde_json::from_str(&crate::rest::openapi::openapi_json()).unwrap();
    let schemas = api["components"]["schemas"].as_object().unwrap();
    let mut found = BTreeSet::new();
    collect_refs(&api, &mut found);
    for name in &found {
        assert!(schemas.contains_key(name), "{name} is referred to, but missing");
    }
    let mut ids = BTreeSet::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(
                operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()),
                "{method} {path}"
            );
            assert!(
                ids.insert(operation["operationId"].as_str().unwrap()),
                "{method} {path}: the operationId is used twice"
            );
            assert!(operation["responses"]["default"].is_object(), "{method} {path}");
        }
    }
    assert_eq!(ids.len(), 49);
    for (name, schema) in schemas {
        for (field, of) in schema["properties"].as_object().into_iter().flatten() {
            let one = of["oneOf"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one["description"].is_string()));
            assert!(of["description"].is_string() || one, "{name}.{field} has no description");
        }
    }
}

#[tokio::test]
async fn the_reference_needs_no_token() {
    let server = TestServer::new().await;
    for (path, kind, text) in [
        ("/v1", "text/html; charset=utf-8", "/v1/reference.js"),
        ("/v1/reference.js", "text/javascript; charset=utf-8", "/v1/openapi.json"),
        ("/v1/openapi.json", "application/json", "\"openapi\""),
    ] {
        let response = server.get("", path).await;
        assert_eq!((response.status.as_u16(), response.header("content-type")), (200, kind), "{path}");
        assert!(String::from_utf8_lossy(&response.body).contains(text), "{path}");
        assert!(response.header("content-security-policy").starts_with("default-src 'none'"), "{path}");
    }
}

#[tokio::test]
async fn the_reference_page_is_served_with_and_without_a_slash() {
    let server = TestServer::new().await;
    for path in ["/v1", "/v1/"] {
        let page = server.get("", path).await;
        assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
        let wrong = server.post(ADMIN_TOKEN, path, &json!({})).await;
        assert_eq!((wrong.status.as_u16(), wrong.header("allow")), (405, "GET,HEAD"), "{path}");
        assert!(wrong.json()["error"]["code"].is_string());
    }
    assert!(server.get("", "/v1//").await.expect_status(404)["error"]["code"].is_string());
}
