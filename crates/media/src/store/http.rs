//! The way to a storage service: connects, sends, and gives up when nothing moves any more.
//!
//! What a service answers is not trusted: it is bounded, and only its status and the name of its error are
//! ever repeated.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{
    ClientConfigKey, ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest,
    HttpRequestBody, HttpResponse, HttpService,
};
use pagecast_core::error_text::root_cause;
use reqwest::{Response, redirect};
use tokio::time::{Instant, sleep_until};

use super::resolver::{FilteringResolver, ResolveError};

/// Longest answer; those that are read are lists of parts and errors.
const MAX_RESPONSE_BYTES: usize = 1 << 20;
/// What is handed to a connection at a time: steps in which progress is seen.
const CHUNK_BYTES: usize = 64 << 10;
/// What may be on its way, in the system's buffers, when all is handed over ...
const MAX_BUFFERED_BYTES: u64 = 4 << 20;
/// ... and the least speed, in bytes per second, that it is given to get there.
const MIN_BYTES_PER_S: u64 = 64 << 10;

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("there is no connection ({0})")]
    Connect(String),
    #[error("nothing was sent or answered for {} s", .0.as_secs_f64())]
    Stalled(Duration),
    #[error("the connection broke ({0})")]
    ConnectionLost(String),
    #[error("it answered {status}{}", .code.as_ref().map(|c| format!(" ({c})")).unwrap_or_default())]
    Status { status: u16, code: Option<String> },
    #[error("no keys are given, and neither the environment nor a role of this machine has any")]
    NoCredentials,
    #[error("its answer is longer than 1 MiB")]
    ResponseTooLong,
    #[error("it wants to be spoken to without encryption")]
    Insecure,
    #[error("{0}")]
    Resolve(ResolveError),
}

impl RequestError {
    /// The fault at the root of an error of `object_store`.
    pub(super) fn find_in(error: &object_store::Error) -> Option<&Self> {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(e) = cause {
            if let Some(fault) = e.downcast_ref::<Self>() {
                return Some(fault);
            }
            cause = e.source();
        }
        None
    }

    fn from_reqwest(error: &reqwest::Error) -> Self {
        let mut innermost: &(dyn StdError + 'static) = error;
        while let Some(deeper) = innermost.source() {
            innermost = deeper;
        }
        if let Some(closed) = innermost.downcast_ref() {
            return Self::Resolve(*closed);
        }
        // The outermost error would name the address, with its query.
        let why =
            if error.source().is_some() { sanitize(&root_cause(error)) } else { "of the protocol".into() };
        if error.is_connect() { Self::Connect(why) } else { Self::ConnectionLost(why) }
    }
}

impl From<RequestError> for HttpError {
    fn from(fault: RequestError) -> Self {
        let kind = match fault {
            RequestError::Connect(_) => HttpErrorKind::Connect,
            RequestError::Stalled(_) => HttpErrorKind::Timeout,
            RequestError::ConnectionLost(_) => HttpErrorKind::Interrupted,
            RequestError::Status { .. }
            | RequestError::NoCredentials
            | RequestError::ResponseTooLong
            | RequestError::Insecure
            | RequestError::Resolve(_) => HttpErrorKind::Unknown,
        };
        Self::new(kind, fault)
    }
}

/// Text of others, fit for a line of a log.
fn sanitize(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(160).collect()
}

/// Connections to one service.
#[derive(Debug, Clone)]
pub(super) struct HttpTransport {
    client: reqwest::Client,
    stall_timeout: Duration,
    allow_http: bool,
}

impl HttpTransport {
    /// `direct`: past any proxy of the environment, as for this machine's own addresses. What is guarded
    /// knows no proxy, which would look up names itself.
    pub(super) fn new(
        connect: Duration,
        stall: Duration,
        direct: bool,
        guard: Option<FilteringResolver>,
    ) -> Result<Self, reqwest::Error> {
        let mut client = reqwest::Client::builder()
            .connect_timeout(connect)
            .pool_idle_timeout(Duration::from_secs(20))
            .redirect(redirect::Policy::none())
            .http1_only();
        if direct || guard.is_some() {
            client = client.no_proxy();
        }
        if let Some(guard) = guard {
            client = client.dns_resolver(guard);
        }
        Ok(Self { client: client.build()?, stall_timeout: stall, allow_http: false })
    }

    /// Sends, and gives the whole answer if it is a good one.
    pub(super) async fn send(
        &self,
        mut request: reqwest::Request,
        body: VecDeque<Bytes>,
    ) -> Result<(Response, Bytes), RequestError> {
        let bytes = body.iter().map(|b| b.len() as u64).sum::<u64>();
        let watch = StallTimer::new(self.stall_timeout);
        // Without one the connection would say that it sends chunks.
        if bytes > 0 {
            let body = ProgressBody { chunks: body, bytes, timer: watch.clone() };
            *request.body_mut() = Some(reqwest::Body::wrap(body));
        }
        let exchange = async {
            let response = self.client.execute(request).await.map_err(|e| RequestError::from_reqwest(&e))?;
            watch.on_progress(Duration::ZERO);
            read_response(response, &watch).await
        };
        tokio::pin!(exchange);
        loop {
            let until = watch.deadline();
            tokio::select! {
                done = &mut exchange => return done,
                () = sleep_until(until) => {
                    if watch.deadline() <= Instant::now() {
                        return Err(RequestError::Stalled(self.stall_timeout));
                    }
                }
            }
        }
    }
}

async fn read_response(
    mut response: Response,
    watch: &StallTimer,
) -> Result<(Response, Bytes), RequestError> {
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| RequestError::from_reqwest(&e))? {
        watch.on_progress(Duration::ZERO);
        if answer.len() + chunk.len() > MAX_RESPONSE_BYTES {
            return Err(RequestError::ResponseTooLong);
        }
        answer.extend_from_slice(&chunk);
    }
    let status = response.status().as_u16();
    let said = parse_error_code(&answer);
    // Some errors are found only when the status is sent already.
    let failed_late = status == 200 && said.is_some();
    if !response.status().is_success() || failed_late {
        let header = response.headers().get("x-ms-error-code").and_then(|code| code.to_str().ok());
        let code = said.or_else(|| header.and_then(checked_error_code));
        return Err(RequestError::Status { status: if failed_late { 500 } else { status }, code });
    }
    Ok((response, answer.into()))
}

/// The name of the error in an answer like `<Error><Code>NoSuchBucket</Code>`.
fn parse_error_code(answer: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(answer.get(..4096).unwrap_or(answer));
    let (_, inside) = text.split_once("<Error>")?;
    checked_error_code(inside.split_once("<Code>")?.1.split_once("</Code>")?.0)
}

/// Names of errors are a word; what is none is not repeated.
pub(super) fn checked_error_code(text: &str) -> Option<String> {
    let word = (1..=64).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'.');
    word.then(|| text.to_owned())
}

/// What a body is made of: all of it is there already.
fn body_chunks(mut body: HttpRequestBody) -> VecDeque<Bytes> {
    let mut chunks = VecDeque::new();
    let mut context = Context::from_waker(std::task::Waker::noop());
    while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut context) {
        chunks.extend(frame.into_data().ok());
    }
    chunks
}

/// Whether this is where the clouds give keys to their own machines.
fn is_metadata_service(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_link_local(),
        Some(url::Host::Domain(name)) => name == "metadata.google.internal",
        Some(url::Host::Ipv6(_)) | None => false,
    }
}

#[async_trait::async_trait]
impl HttpService for HttpTransport {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let unusable = |_| HttpError::from(RequestError::ConnectionLost("not an address".into()));
        let url = url::Url::parse(&parts.uri.to_string()).map_err(unusable)?;
        if url.scheme() != "https" && !self.allow_http {
            return Err(RequestError::Insecure.into());
        }
        let of_keys = is_metadata_service(&url);
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        let sent = self.send(request, body_chunks(body)).await.map_err(|fault| match fault {
            RequestError::Connect(_) | RequestError::Status { status: 400..500, .. } if of_keys => {
                RequestError::NoCredentials
            }
            other => other,
        });
        let (response, answer) = sent?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut response = HttpResponse::new(answer.into());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

impl HttpConnector for HttpTransport {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let allowed = options.get_config_value(&ClientConfigKey::AllowHttp);
        Ok(HttpClient::new(Self { allow_http: allowed.as_deref() == Some("true"), ..self.clone() }))
    }
}

/// When something last moved, and how long it may rest.
#[derive(Debug, Clone)]
struct StallTimer {
    stall_timeout: Duration,
    deadline: Arc<Mutex<Instant>>,
}

impl StallTimer {
    fn new(stall: Duration) -> Self {
        Self { stall_timeout: stall, deadline: Arc::new(Mutex::new(Instant::now() + stall)) }
    }

    fn on_progress(&self, more: Duration) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) =
            Instant::now() + self.stall_timeout + more;
    }

    fn deadline(&self) -> Instant {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that tells the watch what the connection takes of it.
struct ProgressBody {
    chunks: VecDeque<Bytes>,
    bytes: u64,
    timer: StallTimer,
}

impl Body for ProgressBody {
    type Data = Bytes;
    type Error = RequestError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestError>>> {
        let Some(mut chunk) = self.chunks.pop_front() else { return Poll::Ready(None) };
        if chunk.len() > CHUNK_BYTES {
            let rest = chunk.split_off(CHUNK_BYTES);
            self.chunks.push_front(rest);
        }
        let more =
            if self.chunks.is_empty() { self.bytes.min(MAX_BUFFERED_BYTES) / MIN_BYTES_PER_S } else { 0 };
        self.timer.on_progress(Duration::from_secs(more));
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.chunks.iter().map(|b| b.len() as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_without_a_role_have_no_keys() {
        for (url, gives) in [
            ("http://169.254.169.254/latest/api/token", true),
            ("http://metadata.google.internal/", true),
            ("http://127.0.0.1/", false),
            ("https://rec.s3.amazonaws.com/", false),
        ] {
            assert_eq!(is_metadata_service(&url::Url::parse(url).unwrap()), gives, "{url}");
        }
    }

    #[test]
    fn only_a_word_is_repeated() {
        let answer = b"<?xml version=\"1.0\"?><Error><Code>NoSuchBucket</Code><Message>x</Message></Error>";
        assert_eq!(parse_error_code(answer).as_deref(), Some("NoSuchBucket"));
        for bad in [
            &b"<Code>A</Code>"[..],
            b"<Error><Code>a b</Code>",
            b"<Error><Code>",
            b"\xff<Error><Code></Code>",
        ] {
            assert_eq!(parse_error_code(bad), None);
        }
        let long = format!("<Error><Code>{}</Code>", "A".repeat(65));
        assert_eq!(parse_error_code(long.as_bytes()), None);
        assert_eq!(sanitize("a\r\nb\u{7}"), "ab");
    }
}
