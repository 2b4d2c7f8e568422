//! Verifies a signature in steps and says what differs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pagecast_core::spec::Secret;
use pagecast_fleet::UnixMs;
use percent_encoding::utf8_percent_encode;

use super::{
    ClaimedSignature, ESCAPE_SET, QueryParam, assemble_canonical_request, canonical_query, check_body_len,
    check_clock, check_day, compute_signature, hex, parse_claimed_date, parse_query, sha256_hex,
    string_to_sign, strip_default_port,
};
use crate::explorer::explanation::{CLOCK_CHECK, Checks, KnownKeys, SignedTexts};
use crate::route::ApiRequest;
use crate::service::constant_time_eq;
use crate::volcengine::response::ApiError;

/// Values of `Content-Type` that clients sign although they send another one.
const CONTENT_TYPES: [&str; 4] = [
    "application/json",
    "application/json; charset=utf-8",
    "application/json;charset=utf-8",
    "application/x-www-form-urlencoded; charset=utf-8",
];

/// What an explanation learned from a request.
pub(in crate::volcengine) struct Identified {
    /// Id of the key, which is one of the caller's.
    pub(in crate::volcengine) key_id: String,
    /// The signed parameters of the query.
    pub(in crate::volcengine) query: Vec<QueryParam>,
}

/// Checks the signature of a request. Returns its key and parameters if the key is known.
pub(in crate::volcengine) fn explain(
    call: &ApiRequest,
    now: UnixMs,
    regions: &[String],
    keys: &KnownKeys,
    checks: &mut Checks,
) -> Option<Identified> {
    let text = |error: ApiError| error.message;
    let query = checks.record(
        "size",
        check_body_len(call).and_then(|()| parse_query(&call.query)).map_err(text),
        "query and body are short enough",
    )?;
    let claim = checks.record(
        "authorization",
        ClaimedSignature::parse(call, &query).map_err(text),
        "the request has a signature and names its key, day, region and service",
    )?;
    checks.record(
        "scope",
        claim.check_scope(regions).map_err(text),
        "the credential is for this service and an accepted region",
    );
    let secrets = checks.record("key", keys.find(claim.key_id), "the key is one of yours")?;
    let date = checks.record(
        "date",
        parse_claimed_date(&claim).map_err(text),
        "X-Date is a UTC time in the form YYYYMMDD'T'HHMMSS'Z'",
    );
    if let Some(date) = date {
        let clock = check_clock(&claim, date, now).map_err(text);
        checks.record(CLOCK_CHECK, clock, "X-Date is close enough to the service's clock");
        checks.record("day", check_day(&claim).map_err(text), "the credential is for the day of X-Date");
    }
    let params = claim.signed_params(&query);
    let identified = || Identified { key_id: claim.key_id.to_owned(), query: params.clone() };
    let headers = claim.signed_header_values(call).map_err(text);
    let headers = checks.record("headers", headers, "each signed header is present once");
    let body_hash = claim.body_hash(call).map_err(text);
    let is_body_intact = checks.record("body", body_hash, "the body has the hash that the request states");
    let Some(headers) = headers else { return Some(identified()) };
    let body_hash = is_body_intact.unwrap_or_else(|| hex(call.body.sha256()));
    let mut sorted: Vec<&QueryParam> = params.iter().collect();
    sorted.sort();
    let request =
        SignedParts { method: call.method.as_str(), query: canonical_query(&sorted), headers, body_hash };
    let canonical_request = request.canonical(&claim);
    let to_sign = string_to_sign(claim.date, claim.day, claim.region, &canonical_request);
    if secrets.iter().any(|secret| is_signed(&claim, secret, &canonical_request)) {
        checks.pass("signature", "the signature was made with the key's secret, over this request");
    } else {
        let hint = secrets.iter().find_map(|secret| find_difference(&claim, call, &params, &request, secret));
        let hint = hint.unwrap_or(
            "compare your canonical request with the server's, line by line; if they are the same, the \
             secret key is another one. A proxy that changes Host, query or body also changes what is signed",
        );
        checks.fail("signature", format!("the signature does not match: {hint}"));
    }
    checks.server = Some(SignedTexts { canonical_request, string_to_sign: to_sign });
    Some(identified())
}

/// The parts of a canonical request.
#[derive(Clone)]
struct SignedParts<'a> {
    method: &'a str,
    query: String,
    headers: Vec<(&'a str, &'a str)>,
    body_hash: String,
}

impl<'a> SignedParts<'a> {
    fn canonical(&self, claim: &ClaimedSignature<'_>) -> String {
        assemble_canonical_request(
            self.method,
            &self.query,
            &self.headers,
            claim.signed_headers,
            &self.body_hash,
        )
    }

    fn with_header(&self, name: &str, value: &'a str) -> Self {
        let mut parts = self.clone();
        for (own, old) in &mut parts.headers {
            if *own == name {
                *old = value;
            }
        }
        parts
    }
}

fn is_signed(claim: &ClaimedSignature<'_>, secret: &Secret, canonical_request: &str) -> bool {
    let to_sign = string_to_sign(claim.date, claim.day, claim.region, canonical_request);
    let made = hex(&compute_signature(secret, claim.day, claim.region, &to_sign));
    constant_time_eq(&Secret::new(made), claim.signature)
}

/// Tries usual mistakes of clients. Returns what to do about the one that explains the signature.
fn find_difference<'a>(
    claim: &ClaimedSignature<'_>,
    call: &'a ApiRequest,
    params: &[QueryParam],
    request: &SignedParts<'a>,
    secret: &Secret,
) -> Option<&'static str> {
    let mut variants = Vec::new();
    let unsorted: Vec<&QueryParam> = params.iter().collect();
    variants.push((
        SignedParts { query: canonical_query(&unsorted), ..request.clone() },
        "the client did not sort the parameters of the query by name",
    ));
    variants.push((
        SignedParts { query: request.query.replace("%20", "+"), ..request.clone() },
        "the client wrote spaces of the query as +, they must be %20 in the canonical request",
    ));
    variants.push((
        SignedParts { query: call.query.clone(), ..request.clone() },
        "the client signed the query as it was sent: each name and value must be percent-encoded again, \
         except letters, digits and - _ . ~",
    ));
    if let Some(host) = call.header("host") {
        let bare = host.rsplit_once(':').map_or(host, |(bare, _)| bare);
        variants.push((
            request.with_header("host", strip_default_port(bare)),
            "the client signed the host without its port: sign the header Host as it is sent",
        ));
    }
    for kind in CONTENT_TYPES {
        variants.push((
            request.with_header("content-type", kind),
            "the client signed another Content-Type than it sent; HTTP libraries often add a charset",
        ));
    }
    for (body, hint) in [
        (&b""[..], "the client signed an empty body"),
        (call.body.trim_ascii_end(), "the client signed the body without the white space at its end"),
    ] {
        variants.push((SignedParts { body_hash: sha256_hex(body), ..request.clone() }, hint));
    }
    let found = variants.iter().find(|(parts, _)| is_signed(claim, secret, &parts.canonical(claim)));
    if let Some((_, hint)) = found {
        return Some(hint);
    }
    let canonical = request.canonical(claim);
    let decoded = STANDARD.decode(secret.reveal()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    if decoded.is_some_and(|decoded| is_signed(claim, &Secret::new(decoded), &canonical)) {
        return Some("the client decoded the secret key from base64: use it as it is shown");
    }
    let encoded = utf8_percent_encode(secret.reveal(), ESCAPE_SET).to_string();
    is_signed(claim, &Secret::new(encoded), &canonical).then_some("the client percent-encoded the secret key")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{signed_with, vector_a, vector_e};
    use super::*;

    fn explain_with(call: &ApiRequest, secret: &str) -> crate::explorer::explanation::Explanation {
        let mut app = crate::app::Application::new("demo");
        let key = crate::app::AccessKey {
            id: "AKLTEXAMPLE".to_owned(),
            secret: Secret::new(secret),
            disabled: false,
        };
        app.keys = vec![key];
        let mut checks = Checks::default();
        explain(call, 1_700_000_000_000, &[], &KnownKeys(vec![app.into()]), &mut checks);
        checks.into_explanation(Some("volcengine"))
    }
    const SECRET: &str = "U0VDUkVUX0VYQU1QTEU=";

    #[test]
    fn requests_of_the_sdks_pass_all_checks() {
        for call in [vector_a(), vector_e()] {
            let explained = explain_with(&call, SECRET);
            assert_eq!(explained.verdict, "accepted", "{explained:?}");
            assert!(explained.server.unwrap().canonical_request.starts_with(call.method.as_str()));
        }
    }

    #[test]
    fn usual_mistakes_are_named() {
        let names = "content-type;host;x-date";
        for (signed, sent, hint) in [
            (("b=1&a=2", "b=1&a=2"), "127.0.0.1:18092", "did not sort"),
            (("a=x+y", "a=x+y"), "127.0.0.1:18092", "spaces"),
            (("a=x/y", "a=x/y"), "127.0.0.1:18092", "percent-encoded again"),
            (("a=1", "a=1"), "127.0.0.1", "without its port"),
        ] {
            let canonical = format!(
                "POST\n/\n{}\ncontent-type:application/json\nhost:{sent}\nx-date:20231114T221320Z\n\n\
                 {names}\n{}",
                signed.0,
                sha256_hex(b"{}")
            );
            let call = signed_with(&canonical, signed.1, "application/json", names, SECRET);
            let explained = explain_with(&call, SECRET);
            assert!(explained.verdict == "signature" && explained.message.contains(hint), "{explained:?}");
        }
        let canonical = format!(
            "POST\n/\na=1\ncontent-type:application/json\nhost:127.0.0.1:18092\n\
             x-date:20231114T221320Z\n\n{names}\n{}",
            sha256_hex(b"{}")
        );
        let call = signed_with(&canonical, "a=1", "application/json; charset=utf-8", names, SECRET);
        assert!(explain_with(&call, SECRET).message.contains("charset"));
        let call = signed_with(&canonical, "a=1", "application/json", names, "SECRET_EXAMPLE");
        assert!(explain_with(&call, SECRET).message.contains("base64"));
        let call = signed_with(&canonical, "a=1", "application/json", names, "another");
        assert!(explain_with(&call, SECRET).message.contains("line by line"));
    }

    #[test]
    fn each_step_has_its_check() {
        let verdict = |change: &dyn Fn(&mut ApiRequest)| {
            let mut call = vector_a();
            change(&mut call);
            let explained = explain_with(&call, SECRET);
            let shown = format!("{explained:?}");
            assert!(!shown.contains("c4f644954c63b0c5") && !shown.contains(SECRET), "{shown}");
            explained.verdict
        };
        let header = |call: &mut ApiRequest, name: &'static str, value: &str| {
            call.headers.insert(name, value.parse().unwrap());
        };
        let authorization = vector_a().header("authorization").unwrap().to_owned();
        assert_eq!(verdict(&|call| drop(call.headers.remove("authorization"))), "authorization");
        assert_eq!(verdict(&|call| header(call, "authorization", "HMAC-SHA256 x")), "authorization");
        let foreign = authorization.replace("AKLTEXAMPLE", "AKLTOTHER");
        assert_eq!(verdict(&|call| header(call, "authorization", &foreign)), "key");
        let service = authorization.replace("/rtc/", "/vod/");
        assert_eq!(verdict(&|call| header(call, "authorization", &service)), "scope");
        assert_eq!(verdict(&|call| header(call, "x-date", "2023-11-14")), "date");
        let day = authorization.replace("/20231114/", "/20231113/");
        assert_eq!(verdict(&|call| header(call, "authorization", &day)), "day");
        assert_eq!(verdict(&|call| drop(call.headers.remove("content-type"))), "headers");
        assert_eq!(verdict(&|call| call.body = bytes::Bytes::from_static(b"{}").into()), "body");
        let forged = authorization.replace("c4f644954c63b0c5", "0000000000000000");
        assert_eq!(verdict(&|call| header(call, "authorization", &forged)), "signature");
        let mut checks = Checks::default();
        let known = KnownKeys::default();
        assert!(explain(&vector_a(), 1_700_000_000_000, &[], &known, &mut checks).is_none());
        let explained = checks.into_explanation(None);
        assert_eq!((explained.verdict, explained.server), ("key", None));
    }
}
