//! Client of an OpenID Connect provider: discovery, authorization code flow with PKCE, and ID tokens.
//!
//! Everything that the provider sends is bounded and checked: its documents must be of the configured issuer,
//! its addresses must be encrypted, and an ID token must be signed with one of its keys, for this client and
//! this attempt. Keys and addresses are cached for an hour.
//!
//! The crate `openidconnect` would bring a second implementation of RSA and elliptic curves; `jsonwebtoken`
//! verifies with aws-lc-rs, like everything here.
//!
//! Deliberately absent: sessions, cookies, and what a role means.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use reqwest::{Client, RequestBuilder, Response};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use crate::config::Oidc;

/// Longest time for a request to the provider.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest document of the provider, in bytes: large providers have some 20 KiB.
const MAX_DOCUMENT_LEN: usize = 256 << 10;
/// How long addresses and keys of the provider are used without asking again.
const CACHE_TIME: Duration = Duration::from_secs(3600);
/// Shortest time between two requests for them: a token with an unknown key may mean that keys have changed.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(30);
/// Difference of the provider's clock that is accepted, in seconds.
const CLOCK_LEEWAY_S: u64 = 60;
/// Most values of the role claim that are looked at.
const MAX_ROLE_VALUES: usize = 500;
/// Longest name of a person, in characters.
const MAX_NAME_CHARS: usize = 200;
/// Longest code and ID token, in bytes.
const MAX_TOKEN_LEN: usize = 64 << 10;
/// Signatures of ID tokens that are accepted: those with a public key.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Why somebody cannot sign in with the provider.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum OidcError {
    #[error("cannot reach the provider")]
    Request(#[source] reqwest::Error),
    #[error("the provider answers {0} with status {1}")]
    Status(&'static str, u16),
    #[error("{0} of the provider has more than {MAX_DOCUMENT_LEN} bytes")]
    TooLong(&'static str),
    #[error("{0} of the provider is malformed: {1}")]
    Malformed(&'static str, String),
    #[error("the provider was asked a moment ago and did not answer")]
    RecentlyFailed,
    #[error("the ID token is not valid: {0}")]
    IdToken(String),
}

/// Addresses and keys of a provider.
#[derive(Debug, Clone)]
struct Provider {
    metadata: Metadata,
    keys: JwkSet,
}

/// Discovery document (OpenID Connect Discovery 1.0).
#[derive(Debug, Clone, Deserialize)]
struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
}

/// What an attempt to sign in must prove.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) state: String,
    pub(crate) nonce: String,
    /// PKCE code verifier (RFC 7636).
    pub(crate) verifier: String,
    pub(crate) redirect_uri: String,
}

/// A person whom the provider has authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuthenticatedPerson {
    /// Id of the person at the provider.
    pub(crate) subject: String,
    /// E-mail address or name.
    pub(crate) name: Option<String>,
    /// Values of the role claim.
    pub(crate) roles: Vec<String>,
}

/// Client of the configured provider.
#[derive(Debug, Default)]
pub(crate) struct OidcClient {
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    provider: Option<Provider>,
    /// Time of the last request, successful or not.
    requested: Option<Instant>,
}

impl OidcClient {
    /// Address at which a person signs in.
    pub(crate) async fn authorization_url(&self, config: &Oidc, attempt: &Attempt) -> Result<Url, OidcError> {
        let provider = self.provider(config, false).await?;
        let mut url = endpoint("authorization_endpoint", &provider.metadata.authorization_endpoint)?;
        let challenge = URL_SAFE_NO_PAD.encode(sha256(attempt.verifier.as_bytes()));
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &config.client_id)
            .append_pair("redirect_uri", &attempt.redirect_uri)
            .append_pair("scope", &config.scopes.join(" "))
            .append_pair("state", &attempt.state)
            .append_pair("nonce", &attempt.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        Ok(url)
    }

    /// Exchanges the code of an attempt for an ID token, and returns whom it is about.
    pub(crate) async fn redeem(
        &self,
        config: &Oidc,
        attempt: &Attempt,
        code: &str,
    ) -> Result<AuthenticatedPerson, OidcError> {
        let provider = self.provider(config, false).await?;
        let request = token_request(config, &provider.metadata, attempt, code)?;
        let tokens: Tokens = request_json(request, "the token response").await?;
        let claims = match verify(config, &provider.keys, &tokens.id_token, &attempt.nonce) {
            Err(Unverified::UnknownKey) => {
                let refreshed = self.provider(config, true).await?;
                verify(config, &refreshed.keys, &tokens.id_token, &attempt.nonce)
            }
            other => other,
        };
        let mut claims = claims.map_err(|error| OidcError::IdToken(error.to_string()))?;
        let subject = claims["sub"].as_str().unwrap_or_default().to_owned();
        if find_claim(&claims, &config.role_claim).is_none()
            && let (Some(address), Some(token)) = (&provider.metadata.userinfo_endpoint, &tokens.access_token)
        {
            let more = request_user_info(address, token).await?;
            if more["sub"] != claims["sub"] {
                return Err(OidcError::Malformed("the user info", "it is about somebody else".to_owned()));
            }
            if let (Some(all), Some(more)) = (claims.as_object_mut(), more.as_object()) {
                more.iter().for_each(|(name, value)| {
                    all.entry(name).or_insert_with(|| value.clone());
                });
            }
        }
        Ok(AuthenticatedPerson {
            subject,
            name: name_of(&claims),
            roles: role_values(find_claim(&claims, &config.role_claim)),
        })
    }

    /// Addresses and keys of the provider. `refresh` asks for them again, unless that was just done.
    async fn provider(&self, config: &Oidc, refresh: bool) -> Result<Provider, OidcError> {
        // One request at a time: others wait for its result.
        let mut cache = self.cache.lock().await;
        let age = cache.requested.map(|requested| requested.elapsed());
        let is_recent = age.is_some_and(|age| age < MIN_REFRESH_INTERVAL);
        let max_age = if refresh { MIN_REFRESH_INTERVAL } else { CACHE_TIME };
        match &cache.provider {
            Some(provider) if is_recent || age.is_some_and(|age| age < max_age) => {
                return Ok(provider.clone());
            }
            None if is_recent && !cfg!(test) => return Err(OidcError::RecentlyFailed),
            _ => {}
        }
        cache.requested = Some(Instant::now());
        let provider = discover(config).await?;
        cache.provider = Some(provider.clone());
        Ok(provider)
    }
}

/// Tokens of the provider.
#[derive(Deserialize)]
struct Tokens {
    id_token: String,
    access_token: Option<String>,
}

fn client() -> Result<Client, OidcError> {
    let client = pagecast_egress::http::client_builder().timeout(REQUEST_TIMEOUT);
    client.build().map_err(OidcError::Request)
}

async fn discover(config: &Oidc) -> Result<Provider, OidcError> {
    let what = "the discovery document";
    let address = format!("{}/.well-known/openid-configuration", config.issuer.trim_end_matches('/'));
    let metadata: Metadata = request_json(client()?.get(endpoint("issuer", &address)?), what).await?;
    if metadata.issuer != config.issuer {
        let found: String = metadata.issuer.chars().take(MAX_NAME_CHARS).collect();
        return Err(OidcError::Malformed(what, format!("its issuer is {found}")));
    }
    let keys = client()?.get(endpoint("jwks_uri", &metadata.jwks_uri)?);
    Ok(Provider { keys: request_keys(keys).await?, metadata })
}

/// Keys of the provider. Those of a kind that is not known are left out.
async fn request_keys(request: RequestBuilder) -> Result<JwkSet, OidcError> {
    let document: Value = request_json(request, "the key set").await?;
    let keys = document["keys"].as_array().cloned().unwrap_or_default();
    let keys = keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok()).collect();
    Ok(JwkSet { keys })
}

/// Request that exchanges a code for tokens (RFC 6749, section 4.1.3).
fn token_request(
    config: &Oidc,
    metadata: &Metadata,
    attempt: &Attempt,
    code: &str,
) -> Result<RequestBuilder, OidcError> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "authorization_code")
        .append_pair("code", code)
        .append_pair("redirect_uri", &attempt.redirect_uri)
        .append_pair("code_verifier", &attempt.verifier);
    let mut request = client()?.post(endpoint("token_endpoint", &metadata.token_endpoint)?);
    let methods = &metadata.token_endpoint_auth_methods_supported;
    let is_listed = |method: &str| methods.iter().any(|known| known == method);
    match &config.client_secret {
        None => drop(form.append_pair("client_id", &config.client_id)),
        Some(secret) if is_listed("client_secret_post") && !is_listed("client_secret_basic") => {
            form.append_pair("client_id", &config.client_id).append_pair("client_secret", secret.reveal());
        }
        Some(secret) => {
            let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            let pair = format!("{}:{}", encode(&config.client_id), encode(secret.reveal()));
            request = request.header("authorization", format!("Basic {}", STANDARD.encode(pair)));
        }
    }
    Ok(request.header("content-type", "application/x-www-form-urlencoded").body(form.finish()))
}

async fn request_user_info(address: &str, access_token: &str) -> Result<Value, OidcError> {
    let request = client()?.get(endpoint("userinfo_endpoint", address)?);
    request_json(request.bearer_auth(access_token), "the user info").await
}

/// An address of the provider. It must be encrypted, unless it is on this machine.
fn endpoint(name: &'static str, address: &str) -> Result<Url, OidcError> {
    let malformed = |why: &str| OidcError::Malformed(name, why.to_owned());
    let url = Url::parse(address).map_err(|_| malformed("it is not a URL"))?;
    if is_secure(&url) { Ok(url) } else { Err(malformed("it must begin with https://")) }
}

/// Whether a URL uses HTTPS, or plain HTTP on loopback.
pub(crate) fn is_secure(url: &Url) -> bool {
    let is_loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "https" || url.scheme() == "http" && is_loopback
}

async fn request_json<T: for<'de> Deserialize<'de>>(
    request: RequestBuilder,
    what: &'static str,
) -> Result<T, OidcError> {
    let response = request.header("accept", "application/json").send().await.map_err(OidcError::Request)?;
    if !response.status().is_success() {
        return Err(OidcError::Status(what, response.status().as_u16()));
    }
    let body = read(response, what).await?;
    // The error's text could repeat a token.
    serde_json::from_slice(&body)
        .map_err(|_| OidcError::Malformed(what, "it lacks a field, or is no JSON".into()))
}

async fn read(mut response: Response, what: &'static str) -> Result<Vec<u8>, OidcError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(OidcError::Request)? {
        if body.len() + chunk.len() > MAX_DOCUMENT_LEN {
            return Err(OidcError::TooLong(what));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Why an ID token is not accepted.
#[derive(Debug, thiserror::Error)]
enum Unverified {
    #[error("its signature is of a kind that is not accepted")]
    Algorithm,
    #[error("no key of the provider has made it")]
    UnknownKey,
    #[error("it is for another attempt (nonce)")]
    Nonce,
    #[error("it was issued to another client (azp)")]
    Client,
    #[error(transparent)]
    Token(#[from] jsonwebtoken::errors::Error),
}

/// Verifies an ID token (OpenID Connect Core 1.0, section 3.1.3.7) and returns its claims.
fn verify(config: &Oidc, keys: &JwkSet, token: &str, nonce: &str) -> Result<Value, Unverified> {
    if token.len() > MAX_TOKEN_LEN {
        return Err(Unverified::Algorithm);
    }
    // `none` and unknown names cannot be parsed at all.
    let header = decode_header(token).map_err(|_| Unverified::Algorithm)?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err(Unverified::Algorithm);
    }
    let mut validation = Validation::new(header.alg);
    validation.leeway = CLOCK_LEEWAY_S;
    validation.validate_nbf = true;
    validation.set_audience(&[&config.client_id]);
    validation.set_issuer(&[&config.issuer]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    let is_candidate = |key: &&Jwk| {
        let common = &key.common;
        let is_named = header.kid.is_none() || common.key_id.is_none() || common.key_id == header.kid;
        is_named && !matches!(common.public_key_use, Some(PublicKeyUse::Encryption))
    };
    let mut last = Unverified::UnknownKey;
    for key in keys.keys.iter().filter(is_candidate) {
        let Ok(key) = DecodingKey::from_jwk(key) else { continue };
        match decode::<Value>(token, &key, &validation) {
            Ok(data) => return check_claims(config, data.claims, nonce),
            Err(error) if is_about_claims(&error) => last = Unverified::Token(error),
            // The key is of another kind, or one of several without a name.
            Err(_) => {}
        }
    }
    Err(last)
}

/// Whether a token has a valid signature, and claims that are not accepted.
fn is_about_claims(error: &jsonwebtoken::errors::Error) -> bool {
    use jsonwebtoken::errors::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ExpiredSignature
            | ErrorKind::ImmatureSignature
            | ErrorKind::InvalidAudience
            | ErrorKind::InvalidIssuer
            | ErrorKind::InvalidSubject
            | ErrorKind::MissingRequiredClaim(_)
            | ErrorKind::InvalidClaimFormat(_)
    )
}

fn check_claims(config: &Oidc, claims: Value, nonce: &str) -> Result<Value, Unverified> {
    if claims["nonce"].as_str() != Some(nonce) {
        return Err(Unverified::Nonce);
    }
    let has_several = claims["aud"].as_array().is_some_and(|audience| audience.len() > 1);
    let party = claims.get("azp").map(|party| party.as_str() == Some(&config.client_id));
    if party == Some(false) || has_several && party.is_none() {
        return Err(Unverified::Client);
    }
    Ok(claims)
}

/// A claim by its name, or by a path with dots.
fn find_claim<'a>(claims: &'a Value, path: &str) -> Option<&'a Value> {
    claims.get(path).or_else(|| path.split('.').try_fold(claims, |value, name| value.get(name)))
}

fn role_values(claim: Option<&Value>) -> Vec<String> {
    match claim {
        Some(Value::String(value)) => vec![value.clone()],
        Some(Value::Array(values)) => {
            values.iter().filter_map(Value::as_str).take(MAX_ROLE_VALUES).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

/// Name of a person for people: the e-mail address if the provider does not doubt it.
fn name_of(claims: &Value) -> Option<String> {
    let email = Some(&claims["email"]).filter(|_| claims["email_verified"] != false);
    let names = [email, Some(&claims["preferred_username"]), Some(&claims["name"])];
    let name = names.into_iter().flatten().find_map(Value::as_str)?;
    Some(name.chars().filter(|c| !c.is_control()).take(MAX_NAME_CHARS).collect())
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    hash
}
