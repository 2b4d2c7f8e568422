//! The permission that each operation needs.

use axum::extract::MatchedPath;
use axum::http::Method;
use axum::http::request::Parts;

use super::ApiError;
use crate::permission::Permission::{self, Admin, Operator, Viewer};

/// Every operation that needs a caller. What is missing here needs [`Admin`].
pub(super) const OPERATIONS: &[(&str, Permission)] = &[
    ("GET /v1/applications", Viewer),
    ("POST /v1/applications", Admin),
    ("GET /v1/applications/{name}", Viewer),
    ("PUT /v1/applications/{name}", Admin),
    ("DELETE /v1/applications/{name}", Admin),
    ("POST /v1/applications/{name}/callbacks/test", Operator),
    ("GET /v1/applications/{name}/keys", Viewer),
    ("POST /v1/applications/{name}/keys", Admin),
    ("PUT /v1/applications/{name}/keys/{id}", Admin),
    ("DELETE /v1/applications/{name}/keys/{id}", Admin),
    ("POST /v1/applications/{name}/storage/test", Operator),
    ("GET /v1/applications/{name}/tokens", Viewer),
    ("POST /v1/applications/{name}/tokens", Admin),
    ("DELETE /v1/applications/{name}/tokens/{id}", Admin),
    ("GET /v1/audit", Viewer),
    ("GET /v1/casts", Viewer),
    ("POST /v1/casts", Operator),
    ("POST /v1/casts/check", Operator),
    ("GET /v1/casts/{id}", Viewer),
    ("GET /v1/casts/{id}/deliveries", Viewer),
    ("POST /v1/casts/{id}/deliveries/redeliver", Operator),
    ("GET /v1/casts/{id}/deliveries/{seq}", Viewer),
    ("GET /v1/casts/{id}/events", Viewer),
    ("GET /v1/casts/{id}/evidence", Viewer),
    ("GET /v1/casts/{id}/evidence/{name}", Viewer),
    ("GET /v1/casts/{id}/files", Viewer),
    ("GET /v1/casts/{id}/files/{name}", Viewer),
    ("POST /v1/casts/{id}/move", Operator),
    ("POST /v1/casts/{id}/pushes", Operator),
    ("DELETE /v1/casts/{id}/pushes", Operator),
    ("DELETE /v1/casts/{id}/pushes/{push}", Operator),
    ("GET /v1/casts/{id}/request", Viewer),
    ("GET /v1/casts/{id}/snapshot.jpg", Viewer),
    ("GET /v1/casts/{id}/stats", Viewer),
    ("POST /v1/casts/{id}/stop", Operator),
    ("GET /v1/explorer", Viewer),
    ("POST /v1/explorer/call", Operator),
    ("POST /v1/explorer/explain", Operator),
    ("GET /v1/nodes", Viewer),
    ("GET /v1/nodes/{id}", Viewer),
    ("POST /v1/nodes/{id}/drain", Admin),
    ("GET /v1/session", Viewer),
    ("DELETE /v1/session", Viewer),
    ("POST /v1/session/codes", Admin),
    ("GET /v1/use", Viewer),
];

/// Operations that need no caller.
#[cfg(test)]
pub(super) const OPEN_OPERATIONS: &[&str] =
    &["POST /v1/session", "GET /v1/session/methods", "GET /v1/session/oidc", "GET /v1/session/oidc/callback"];

/// Permission that a request needs.
fn required(method: &Method, path: &str) -> Permission {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let is_called = |operation: &str| {
        operation.split_once(' ').is_some_and(|(known, route)| known == method.as_str() && route == path)
    };
    let found = OPERATIONS.iter().find(|(operation, _)| is_called(operation));
    found.map_or(Admin, |(_, permission)| *permission)
}

/// Refuses a request that needs more than this permission.
pub(super) fn check(permission: Permission, parts: &Parts) -> Result<(), ApiError> {
    let path = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let required = required(&parts.method, path);
    if permission >= required {
        return Ok(());
    }
    let message = format!("your role is {}, and this needs {}", permission.as_str(), required.as_str());
    Err(ApiError::forbidden(message))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_operation_has_a_permission() {
        let api: Value = serde_json::from_str(&crate::rest::openapi::openapi_json()).unwrap();
        for (path, item) in api["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let name = format!("{} {path}", method.to_ascii_uppercase());
                let is_open = OPEN_OPERATIONS.contains(&name.as_str());
                let entries = OPERATIONS.iter().filter(|(known, _)| *known == name).count();
                assert_eq!(entries, usize::from(!is_open), "{name}: add it to the table");
                assert_eq!(operation["security"] == serde_json::json!([{}]), is_open, "{name}");
            }
        }
    }

    #[test]
    fn viewers_only_read_and_unknown_operations_need_everything() {
        for (operation, permission) in OPERATIONS {
            let (method, path) = operation.split_once(' ').unwrap();
            let is_read = method == "GET" || *operation == "DELETE /v1/session";
            assert_eq!(*permission == Viewer, is_read, "{operation}");
            assert_eq!(required(&method.parse().unwrap(), path), *permission);
        }
        assert_eq!(required(&Method::HEAD, "/v1/casts"), Viewer);
        assert_eq!(required(&Method::POST, "/v1/casts/{id}/no-such"), Admin);
    }
}
