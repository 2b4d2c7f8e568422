//! HTTP front of the S3 storage: checks keys, counts requests, injects faults.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::path::S3Path;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3Result, s3_error};
use s3s_fs::FileSystem;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::listed_files::ListedFiles;
use super::{InjectedFault, ServerState, lock};

#[derive(Clone)]
pub(super) struct FaultInjector {
    service: S3Service,
    state: Arc<ServerState>,
}

impl FaultInjector {
    pub(super) fn new(root: &Path, state: Arc<ServerState>) -> Result<Self> {
        let files =
            FileSystem::new(root).map_err(|e| anyhow::anyhow!("cannot serve {}: {e:?}", root.display()))?;
        let files = ListedFiles { files: Arc::new(files), state: state.clone() };
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(KeyStore(state.clone()));
        builder.set_access(AccessCheck { state: state.clone(), root: root.to_owned() });
        Ok(Self { service: builder.build(), state })
    }

    pub(super) async fn serve_connection(self, stream: TcpStream) {
        let _without_nodelay = stream.set_nodelay(true);
        let service = service_fn(|request| self.clone().respond(request));
        let _a_broken_connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn respond(self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let (kind, path) = (request_kind(&request), request.uri().path().to_owned());
        *lock(&self.state.request_counts).entry(kind).or_default() += 1;
        let fault = *lock(&self.state.fault);
        let length = request.body().size_hint().exact().unwrap_or(0);
        let broken = || Err(io::ErrorKind::ConnectionReset.into());
        let request = match fault {
            Some(InjectedFault::LostUploadId) if kind == "begin" => {
                let _lost = self.service.call(request.map(Body::from)).await;
                return broken();
            }
            Some(InjectedFault::LostUploadId) if kind == "list" => return broken(),
            Some(InjectedFault::DeniedListing) if kind == "list" => {
                return error_response(request, 403, "AccessDenied").await;
            }
            None | Some(InjectedFault::LostUploadId | InjectedFault::DeniedListing) => {
                request.map(Body::from)
            }
            Some(InjectedFault::Down) => return broken(),
            Some(InjectedFault::Stall) => return std::future::pending().await,
            Some(InjectedFault::Error500) => return error_response(request, 500, "InternalError").await,
            Some(InjectedFault::Denied403) => return error_response(request, 403, "AccessDenied").await,
            Some(InjectedFault::ResetMidBody | InjectedFault::DiscardBody) if length == 0 => {
                request.map(Body::from)
            }
            Some(InjectedFault::ResetMidBody) => {
                discard_body(request.into_body(), length / 2).await?;
                return broken();
            }
            Some(InjectedFault::DiscardBody) => {
                discard_body(request.into_body(), length).await?;
                return broken();
            }
            Some(InjectedFault::Throttled(rate)) => request.map(|body| {
                Body::http_body_unsync(ThrottledBody { body, rate, length, delay: None, pending_frame: None })
            }),
        };
        let response = self.service.call(request).await.map_err(|e| io::Error::other(format!("{e:?}")))?;
        if matches!(kind, "put" | "complete") && response.status().is_success() {
            *lock(&self.state.write_counts).entry(path).or_default() += 1;
        }
        Ok(response)
    }
}

/// Reads at least this many bytes of a body, at most one frame more.
async fn discard_body(mut body: Incoming, bytes: u64) -> io::Result<()> {
    let mut read = 0;
    while read < bytes
        && let Some(frame) = body.frame().await
    {
        read += frame.map_err(io::Error::other)?.data_ref().map_or(0, Bytes::len) as u64;
    }
    Ok(())
}

async fn error_response(request: Request<Incoming>, status: u16, code: &str) -> io::Result<Response<Body>> {
    discard_body(request.into_body(), u64::MAX).await?;
    let xml =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>Injected.</Message></Error>");
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, "application/xml");
    response.body(Body::from(xml)).map_err(io::Error::other)
}

fn request_kind(request: &Request<Incoming>) -> &'static str {
    let query = request.uri().query().unwrap_or_default();
    let upload = query.contains("uploadId=");
    match *request.method() {
        Method::PUT if upload => "part",
        Method::PUT => "put",
        Method::POST if upload => "complete",
        Method::POST if query.contains("uploads") => "begin",
        Method::DELETE if upload => "abort",
        Method::DELETE => "delete",
        Method::HEAD => "head",
        Method::GET if query.starts_with("uploads") => "list",
        _ => "other",
    }
}

struct KeyStore(Arc<ServerState>);

#[async_trait::async_trait]
impl S3Auth for KeyStore {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match lock(&self.0.keys).get(access_key) {
            Some(known) => Ok(known.secret.clone().into()),
            None => Err(s3_error!(InvalidAccessKeyId)),
        }
    }
}

/// Checks tokens and buckets, which `s3s-fs` does not.
struct AccessCheck {
    state: Arc<ServerState>,
    root: PathBuf,
}

#[async_trait::async_trait]
impl S3Access for AccessCheck {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(credentials) = context.credentials() else { return Err(s3_error!(AccessDenied)) };
        let known = lock(&self.state.keys).get(&credentials.access_key).cloned();
        let Some(known) = known else { return Err(s3_error!(InvalidAccessKeyId)) };
        let token = context.headers().get("x-amz-security-token").and_then(|token| token.to_str().ok());
        if token != known.token.as_deref() {
            return Err(s3_error!(InvalidToken));
        }
        if known.expired {
            return Err(s3_error!(ExpiredToken));
        }
        match context.s3_path() {
            S3Path::Bucket { bucket } | S3Path::Object { bucket, .. }
                if !self.root.join(&**bucket).is_dir() =>
            {
                Err(s3_error!(NoSuchBucket))
            }
            _ => Ok(()),
        }
    }
}

/// A request body that is read at a limited rate.
struct ThrottledBody {
    body: Incoming,
    rate: u64,
    length: u64,
    delay: Option<Pin<Box<Sleep>>>,
    pending_frame: Option<Frame<Bytes>>,
}

impl http_body::Body for ThrottledBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.pending_frame.is_none() {
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)?) else {
                return Poll::Ready(None);
            };
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.delay = Some(Box::pin(sleep(Duration::from_secs_f64(bytes as f64 / self.rate as f64))));
            self.pending_frame = Some(frame);
        }
        if let Some(pause) = &mut self.delay {
            ready!(pause.as_mut().poll(context));
        }
        Poll::Ready(self.pending_frame.take().map(Ok))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}
