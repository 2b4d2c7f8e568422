//! Spans for a collector of OpenTelemetry, by OTLP over HTTP (protobuf), set up by OpenTelemetry's own variables.
//!
//! Three kinds of spans leave: a request, a try to tell a receiver, and the life of a cast on this node. A collector that is slow or
//! away costs spans, never the service: they wait in a queue that is bounded (2048), and the newest are dropped.

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Key, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response, ResponseBodyTooLarge};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

/// A collector must have answered by then, unless `OTEL_EXPORTER_OTLP_TIMEOUT` (milliseconds) says otherwise.
const DEFAULT_EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer that is read, in bytes: collectors say next to nothing.
const MAX_RESPONSE_LEN: usize = 64 << 10;
/// What is left when the service ends has so long to be sent.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Sends spans.
pub(crate) struct TraceExporter(SdkTracerProvider);

impl TraceExporter {
    /// Begins to send to the collector that the environment names.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(OtlpHttpClient::new()?)
            .build()
            .context("the collector's address cannot be used")?;
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource());
        Ok(Self(provider.build()))
    }

    /// Takes spans out of the log.
    pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("pagecast"))
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(is_exported).with_max_level_hint(LevelFilter::DEBUG))
    }

    /// Sends what is left, for a short time.
    pub(crate) fn shutdown(self) {
        if let Err(error) = self.0.shutdown_with_timeout(SHUTDOWN_TIMEOUT) {
            tracing::warn!(%error, "the last spans did not reach the collector");
        }
    }
}

/// Our own spans; what happens in them stays in the log.
fn is_exported(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target().starts_with("pagecast")
}

/// What `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` say, and `pagecast` if they give no name.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let name = Resource::builder().build().get(&Key::from_static_str("service.name"));
    let builder = Resource::builder().with_attribute(version);
    if name.is_none_or(|name| name.as_str().starts_with("unknown_service")) {
        return builder.with_service_name("pagecast").build();
    }
    builder.build()
}

/// Sends with the HTTP client that the rest of the program has, on the thread that asks: the exporter's own.
#[derive(Debug)]
struct OtlpHttpClient {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    last_export_failed: AtomicBool,
}

impl OtlpHttpClient {
    fn new() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let set =
            env::var("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT").or_else(|_| env::var("OTEL_EXPORTER_OTLP_TIMEOUT"));
        let timeout =
            set.ok().and_then(|ms| ms.parse().ok()).map_or(DEFAULT_EXPORT_TIMEOUT, Duration::from_millis);
        // Headers may hold a token, which is for the collector only.
        let client = reqwest::Client::builder().timeout(timeout).redirect(reqwest::redirect::Policy::none());
        Ok(Self { runtime, client: client.build()?, last_export_failed: AtomicBool::new(false) })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut answer =
            self.client.execute(request.try_into()?).await.map_err(reqwest::Error::without_url)?;
        let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
            if body.len() + chunk.len() > MAX_RESPONSE_LEN {
                return Err(Box::new(ResponseBodyTooLarge::new()));
            }
            body.extend_from_slice(&chunk);
        }
        let mut whole = Response::new(Bytes::from(body));
        (*whole.status_mut(), *whole.headers_mut()) = (status, headers);
        Ok(whole)
    }

    /// Says once that it fails, and once that it does no more.
    fn log_export_result(&self, sent: &Result<Response<Bytes>, HttpError>) {
        let why = match sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answered {}", answer.status())),
            Err(error) => Some(pagecast_media::chain(error.as_ref())),
        };
        let failed = self.last_export_failed.swap(why.is_some(), Ordering::Relaxed);
        match why {
            Some(why) if !failed => tracing::warn!(why, "traces do not reach the collector"),
            None if failed => tracing::info!("traces reach the collector again"),
            _ => {}
        }
    }
}

#[async_trait]
impl HttpClient for OtlpHttpClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sent = self.runtime.block_on(self.send(request));
        self.log_export_result(&sent);
        sent
    }
}
