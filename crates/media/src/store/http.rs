//! HTTP transport of the storage services. A request fails when it makes no progress for some time.
//!
//! Responses are not trusted: their size is bounded, and only the status and the error code are ever quoted.

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
use pagecast_egress::FilteringResolver;
use pagecast_egress::http::{client_builder, filtered_client_builder};
use reqwest::Response;
use tokio::time::{Instant, sleep_until};

use super::resolver::ResolveError;

/// Largest response in bytes: ample for the errors and upload results that are read.
const MAX_RESPONSE_BYTES: usize = 1 << 20;
/// Size of the chunks handed to a connection: the granularity of progress detection.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes that may remain in the kernel's send buffers when the whole body is handed over ...
const MAX_BUFFERED_BYTES: u64 = 4 << 20;
/// ... and the lowest rate, in bytes per second, at which they are expected to drain.
const MIN_BYTES_PER_S: u64 = 64 << 10;

/// Errors of a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("cannot connect ({0})")]
    Connect(String),
    #[error("no data was sent or received for {} s", .0.as_secs_f64())]
    Stalled(Duration),
    #[error("the connection broke ({0})")]
    ConnectionLost(String),
    #[error("the service responded {status}{}", in_parentheses(.code.as_deref()))]
    Status { status: u16, code: Option<String> },
    #[error("no credentials were given, and neither the environment nor a role of this machine has any")]
    NoCredentials,
    #[error("the response is longer than 1 MiB")]
    ResponseTooLong,
    #[error("the endpoint uses http:// and unencrypted requests are not allowed")]
    Insecure,
    #[error("the response is no list of uploads")]
    NoListing,
    #[error("{0}")]
    Resolve(ResolveError),
}

impl RequestError {
    /// Finds the transport's error in the sources of an error of `object_store`.
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
        if let Some(pagecast_egress::ResolveError::Refused(refusal)) =
            pagecast_egress::ResolveError::find_in(error)
        {
            return Self::Resolve((*refusal).into());
        }
        // The outermost error contains the address with its query, which may hold a signature.
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
            | RequestError::NoListing
            | RequestError::Resolve(_) => HttpErrorKind::Unknown,
        };
        Self::new(kind, fault)
    }
}

fn in_parentheses(code: Option<&str>) -> String {
    code.map_or_else(String::new, |code| format!(" ({code})"))
}

/// Cleans foreign text for one log line.
fn sanitize(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(160).collect()
}

/// The HTTP client of one service.
#[derive(Debug, Clone)]
pub(super) struct HttpTransport {
    client: reqwest::Client,
    stall_timeout: Duration,
    allow_http: bool,
}

impl HttpTransport {
    /// Makes a client. `direct`: ignores the environment's proxy, as for loopback addresses. With a
    /// `resolver` no proxy is used either, as a proxy would resolve names itself.
    pub(super) fn new(
        connect: Duration,
        stall: Duration,
        direct: bool,
        resolver: Option<FilteringResolver>,
    ) -> Result<Self, reqwest::Error> {
        let client = match resolver {
            Some(resolver) => filtered_client_builder(resolver),
            None if direct => client_builder().no_proxy(),
            None => client_builder(),
        };
        let client = client.connect_timeout(connect).pool_idle_timeout(Duration::from_secs(20));
        Ok(Self { client: client.build()?, stall_timeout: stall, allow_http: false })
    }

    /// Sends a request and returns the whole response if it is a success.
    pub(super) async fn send(
        &self,
        mut request: reqwest::Request,
        body: VecDeque<Bytes>,
    ) -> Result<(Response, Bytes), RequestError> {
        let bytes = body.iter().map(|b| b.len() as u64).sum::<u64>();
        let timer = StallTimer::new(self.stall_timeout);
        // With an empty body the request would use chunked encoding.
        if bytes > 0 {
            let body = ProgressBody { chunks: body, bytes, timer: timer.clone() };
            *request.body_mut() = Some(reqwest::Body::wrap(body));
        }
        let exchange = async {
            let response = self.client.execute(request).await.map_err(|e| RequestError::from_reqwest(&e))?;
            timer.on_progress(Duration::ZERO);
            read_response(response, &timer).await
        };
        tokio::pin!(exchange);
        loop {
            let until = timer.deadline();
            tokio::select! {
                done = &mut exchange => return done,
                () = sleep_until(until) => {
                    if timer.deadline() <= Instant::now() {
                        return Err(RequestError::Stalled(self.stall_timeout));
                    }
                }
            }
        }
    }
}

async fn read_response(
    mut response: Response,
    timer: &StallTimer,
) -> Result<(Response, Bytes), RequestError> {
    let mut content = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| RequestError::from_reqwest(&e))? {
        timer.on_progress(Duration::ZERO);
        if content.len() + chunk.len() > MAX_RESPONSE_BYTES {
            return Err(RequestError::ResponseTooLong);
        }
        content.extend_from_slice(&chunk);
    }
    let status = response.status().as_u16();
    let error_code = parse_error_code(&content);
    // S3 can report an error in a body after it has sent status 200 (CompleteMultipartUpload).
    let failed_late = status == 200 && error_code.is_some();
    if !response.status().is_success() || failed_late {
        let header = response.headers().get("x-ms-error-code").and_then(|code| code.to_str().ok());
        let code = error_code.or_else(|| header.and_then(checked_error_code));
        return Err(RequestError::Status { status: if failed_late { 500 } else { status }, code });
    }
    Ok((response, content.into()))
}

/// Extracts the error code from a response like `<Error><Code>NoSuchBucket</Code>`.
fn parse_error_code(answer: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(answer.get(..4096).unwrap_or(answer));
    let (_, inside) = text.split_once("<Error>")?;
    checked_error_code(inside.split_once("<Code>")?.1.split_once("</Code>")?.0)
}

/// Accepts an error code that is one word; anything else must not be quoted.
pub(super) fn checked_error_code(text: &str) -> Option<String> {
    let word = (1..=64).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'.');
    word.then(|| text.to_owned())
}

/// The chunks of a body, which is in memory as a whole.
fn body_chunks(mut body: HttpRequestBody) -> VecDeque<Bytes> {
    let mut chunks = VecDeque::new();
    let mut context = Context::from_waker(std::task::Waker::noop());
    while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut context) {
        chunks.extend(frame.into_data().ok());
    }
    chunks
}

/// Whether this is a cloud's metadata service, which issues keys to its machines.
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
        let invalid = |_| HttpError::from(RequestError::ConnectionLost("not an address".into()));
        let url = url::Url::parse(&parts.uri.to_string()).map_err(invalid)?;
        if url.scheme() != "https" && !self.allow_http {
            return Err(RequestError::Insecure.into());
        }
        let for_keys = is_metadata_service(&url);
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        let sent = self.send(request, body_chunks(body)).await.map_err(|fault| match fault {
            RequestError::Connect(_) | RequestError::Status { status: 400..500, .. } if for_keys => {
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

/// Deadline that each progress of a request moves.
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

/// A body that reports progress to the timer whenever the connection takes a chunk.
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
    fn only_a_word_is_accepted_as_error_code() {
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
