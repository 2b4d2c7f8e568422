//! The description of this API for programs (OpenAPI), made from the code, and a page that shows it to
//! people.

use std::sync::LazyLock;

use axum::body::Body;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use utoipa::openapi::schema::{SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Header, ObjectBuilder, Ref, RefOr, ResponseBuilder, Schema};
use utoipa::{Modify, OpenApi};

use super::{applications, callback, casts, deliveries, error, events, evidence, pushes, snapshot};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Pagecast",
        version = "1",
        description = "Opens web pages and turns them into recordings, pushes and live rooms. Each request has the header `Authorization: Bearer TOKEN`: \
                       with a token of an application for its casts, with the administrator's for all casts and for the applications. \
                       Each answer has the header `X-Request-Id`. Times are RFC 3339, in UTC; units are in the names of fields.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        casts::create, casts::list, casts::get, casts::stop, pushes::add, pushes::remove, snapshot::get, events::list,
        evidence::list, evidence::get, deliveries::list, deliveries::redeliver,
        applications::list, applications::create, applications::get, applications::replace, applications::remove,
        applications::keys::list, applications::keys::add, applications::keys::update, applications::keys::remove,
        applications::tokens::list, applications::tokens::add, applications::tokens::remove,
    ),
    components(schemas(error::ErrorResponse, events::EventView, callback::WebhookPayload)),
    tags(
        (name = "casts", description = "Casts, and what happens to them."),
        (name = "applications", description = "Who may ask for casts. For the administrator."),
    ),
    security(("token" = [])),
    modifiers(&CommonResponses),
)]
struct ApiDoc;

/// What holds for each request.
struct CommonResponses;

impl Modify for CommonResponses {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        api.components.get_or_insert_default().add_security_scheme("token", scheme);
        let schema = || Ref::from_schema_name("Answer");
        let problem = |words: &str| {
            let content = ContentBuilder::new().schema(Some(schema())).build();
            RefOr::T(ResponseBuilder::new().description(words).content("application/json", content).build())
        };
        let too_many = || {
            let words = "`too-many-requests`: the token asks more often than `limits.requests_per_s` allows.";
            let RefOr::T(mut response) = problem(words) else { return problem(words) };
            let seconds = ObjectBuilder::new().schema_type(Type::Integer).build();
            let mut header = Header::new(seconds);
            header.description = Some("When to try again, in seconds.".to_owned());
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
                    problem("`unauthorized`: without a token, or with a wrong one."),
                );
                responses.entry("429".to_owned()).or_insert_with(too_many);
                responses.insert("default".to_owned(), problem("Whatever else is wrong."));
            }
        }
    }
}

/// What may be left out of an address cannot be nothing in it.
fn remove_null(kind: &mut SchemaType) {
    if let SchemaType::Array(types) = kind {
        types.retain(|kind| *kind != Type::Null);
        if let [only] = types.as_slice() {
            *kind = SchemaType::Type(only.clone());
        }
    }
}

static OPENAPI_JSON: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(openapi_json()));

/// The description, with an end of line.
pub(super) fn openapi_json() -> String {
    let mut text = ApiDoc::openapi().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

fn static_response(kind: &'static str, body: impl Into<Body>) -> Response {
    const CSP: &str = "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; \
                       base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let mut response = Response::new(body.into());
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, CSP),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The description.
pub(super) async fn document() -> Response {
    static_response("application/json", OPENAPI_JSON.clone())
}

/// A page that shows it.
pub(super) async fn reference_page() -> Response {
    static_response("text/html; charset=utf-8", include_str!("reference.html"))
}

/// What that page does.
pub(super) async fn reference_script() -> Response {
    static_response("text/javascript; charset=utf-8", include_str!("reference.js"))
}
