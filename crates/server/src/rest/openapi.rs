//! The OpenAPI description of this API, generated from the code, and a page that shows it.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::body::Body;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::response::Response;
use bytes::Bytes;
use utoipa::openapi::schema::{SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Header, ObjectBuilder, Ref, RefOr, ResponseBuilder, Schema};
use utoipa::{Modify, OpenApi};

use super::{
    applications, audit, callback, cast_request, casts, check, daily_use, deliveries, error, events,
    evidence, explorer, files, nodes, pushes, session, snapshot, stats,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Pagecast",
        version = "1",
        description = "Opens web pages and turns them into recordings, pushes and live rooms. Each request \
                       has the header \
                       `Authorization: Bearer TOKEN`, with a token of an application for its own casts, or \
                       the administrator's token \
                       for all casts, for the applications and for the nodes. Each response has the header \
                       `X-Request-Id`: the id that the request \
                       had in this header (1 to 64 letters, digits, `-`, `_` and `.`), or else a new one. \
                       Times are RFC 3339, in \
                       UTC; units are in the names of fields.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        casts::create, check::check, casts::list, casts::get, casts::stop, casts::move_cast,
        cast_request::get,
        pushes::add, pushes::remove, pushes::remove_by_number, snapshot::get,
        events::list, stats::get,
        evidence::list, evidence::get, files::list, files::get, deliveries::list, deliveries::get,
        deliveries::redeliver,
        applications::list, applications::create, applications::get, applications::replace,
        applications::remove,
        applications::callback_test::test, applications::storage_test::test,
        applications::keys::list, applications::keys::add, applications::keys::update,
        applications::keys::remove,
        applications::tokens::list, applications::tokens::add, applications::tokens::remove,
        nodes::list, nodes::get, nodes::drain,
        audit::list,
        daily_use::get,
        session::sign_in, session::get, session::sign_out, session::codes::create,
        session::oidc::methods, session::oidc::begin, session::oidc::finish,
        explorer::get, explorer::call, explorer::explain,
    ),
    components(schemas(error::ErrorResponse, events::EventView, callback::WebhookPayload)),
    tags(
        (name = "casts", description = "Casts: create, watch and stop them."),
        (name = "applications", description = "Applications that own casts, with their keys and tokens. \
            Only for the administrator."),
        (name = "nodes", description = "Nodes of the fleet: see their load, and drain them. Only for the \
            administrator."),
        (name = "audit", description = "Record of the requests that changed something. Only for the \
            administrator."),
        (name = "explorer", description = "The vendors' actions: described, called with a key that stays \
            here, and explained."),
        (name = "session", description = "Sessions of browsers, in which a cookie takes the place of a \
            token."),
    ),
    security(("token" = [])),
    modifiers(&CommonResponses),
)]
struct ApiDoc;

/// Adds what all operations have in common.
struct CommonResponses;

impl Modify for CommonResponses {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        api.components.get_or_insert_default().add_security_scheme("token", scheme);
        let schema = || Ref::from_schema_name("Error");
        let error_response = |description: &str| {
            let content = ContentBuilder::new().schema(Some(schema())).build();
            RefOr::T(
                ResponseBuilder::new().description(description).content("application/json", content).build(),
            )
        };
        let too_many = || {
            let description = "`too-many-requests`: the token exceeds `limits.requests_per_s`.";
            let RefOr::T(mut response) = error_response(description) else {
                return error_response(description);
            };
            let seconds = ObjectBuilder::new().schema_type(Type::Integer).build();
            let mut header = Header::new(seconds);
            header.description = Some("Time after which to try again, in seconds.".to_owned());
            response.headers.insert("Retry-After".to_owned(), header.into());
            RefOr::T(response)
        };
        for item in api.paths.paths.values_mut() {
            for operation in
                [&mut item.get, &mut item.post, &mut item.put, &mut item.delete].into_iter().flatten()
            {
                for parameter in operation.parameters.iter_mut().flatten() {
                    if let RefOr::T(parameter) = parameter
                        && let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema
                    {
                        remove_null(&mut schema.schema_type);
                    }
                }
                let responses = &mut operation.responses.responses;
                responses.insert(
                    "401".to_owned(),
                    error_response("`unauthorized`: the token is missing or unknown."),
                );
                responses.entry("429".to_owned()).or_insert_with(too_many);
                responses.insert("default".to_owned(), error_response("Any other error."));
            }
        }
    }
}

/// An optional parameter is never `null`.
fn remove_null(schema_type: &mut SchemaType) {
    if let SchemaType::Array(types) = schema_type {
        types.retain(|schema_type| *schema_type != Type::Null);
        if let [only] = types.as_slice() {
            *schema_type = SchemaType::Type(only.clone());
        }
    }
}

/// Operations of this API: method and path, and `operationId`.
static OPERATION_IDS: LazyLock<HashMap<(Method, String), String>> = LazyLock::new(|| {
    let mut ids = HashMap::new();
    for (path, item) in ApiDoc::openapi().paths.paths {
        let operations = [
            (Method::GET, item.get),
            (Method::POST, item.post),
            (Method::PUT, item.put),
            (Method::DELETE, item.delete),
        ];
        for (method, operation) in operations {
            if let Some(id) = operation.and_then(|operation| operation.operation_id) {
                ids.insert((method, path.clone()), id);
            }
        }
    }
    ids
});

/// The `operationId` of requests with this method to addresses that match this path.
pub(super) fn operation_id(method: &Method, path: &str) -> Option<&'static str> {
    OPERATION_IDS.get(&(method.clone(), path.to_owned())).map(String::as_str)
}

static OPENAPI_JSON: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(openapi_json()));

/// The OpenAPI description as JSON with a final line break.
pub(super) fn openapi_json() -> String {
    let mut text = ApiDoc::openapi().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

fn static_response(schema_type: &'static str, body: impl Into<Body>) -> Response {
    const CSP: &str = "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; \
                       base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let mut response = Response::new(body.into());
    for (name, value) in [
        (CONTENT_TYPE, schema_type),
        (CONTENT_SECURITY_POLICY, CSP),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Serves the description.
pub(super) async fn document() -> Response {
    static_response("application/json", OPENAPI_JSON.clone())
}

/// Serves a page that shows the description.
pub(super) async fn reference_page() -> Response {
    static_response("text/html; charset=utf-8", include_str!("reference.html"))
}

/// Serves the script of that page.
pub(super) async fn reference_script() -> Response {
    static_response("text/javascript; charset=utf-8", include_str!("reference.js"))
}
