//! Export of spans to an OpenTelemetry collector, by OTLP over HTTP (protobuf), configured by OpenTelemetry's
//! own variables.
//!
//! Three kinds of spans are exported: a request, an attempt to deliver a webhook, and the life of a cast on
//! this node. A collector that is slow or down costs spans, never the service: they wait in a bounded queue
//! (2048), and the newest are dropped.

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

/// Longest time for an export, unless `OTEL_EXPORTER_OTLP_TIMEOUT` (milliseconds) is set: OpenTelemetry's own
/// default.
const DEFAULT_EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest response that is read, in bytes: collectors response with a few bytes.
const MAX_RESPONSE_LEN: usize = 64 << 10;
/// Longest time for the last export at shutdown: a collector that is down must not hold the service up.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Exports spans to the collector.
pub(crate) struct TraceExporter(SdkTracerProvider);

impl TraceExporter {
    /// Starts the export to the collector that the environment names.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(OtlpHttpClient::new()?)
            .build()
            .context("cannot use the collector's address")?;
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource());
        Ok(Self(provider.build()))
    }

    /// Returns the layer that collects spans from `tracing`.
    pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("pagecast"))
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(is_exported).with_max_level_hint(LevelFilter::DEBUG))
    }

    /// Exports the queued spans, for up to [`SHUTDOWN_TIMEOUT`].
    pub(crate) fn shutdown(self) {
        if let Err(error) = self.0.shutdown_with_timeout(SHUTDOWN_TIMEOUT) {
            tracing::warn!(%error, "final trace export failed");
        }
    }
}

/// Returns whether this is a span of our own; events are not exported.
fn is_exported(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target().starts_with("pagecast")
}

/// Returns the attributes of `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`; the default name is
/// `pagecast`.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let name = Resource::builder().build().get(&Key::from_static_str("service.name"));
    let builder = Resource::builder().with_attribute(version);
    if name.is_none_or(|name| name.as_str().starts_with("unknown_service")) {
        return builder.with_service_name("pagecast").build();
    }
    builder.build()
}

/// Sends with the HTTP client of the rest of the program, on the calling thread: the exporter's own.
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
        // Headers may hold a token for the collector, which a redirect must not pass on.
        let client = pagecast_egress::http::client_builder().timeout(timeout);
        Ok(Self { runtime, client: client.build()?, last_export_failed: AtomicBool::new(false) })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut response =
            self.client.execute(request.try_into()?).await.map_err(reqwest::Error::without_url)?;
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            if body.len() + chunk.len() > MAX_RESPONSE_LEN {
                return Err(Box::new(ResponseBodyTooLarge::new()));
            }
            body.extend_from_slice(&chunk);
        }
        let mut collected = Response::new(Bytes::from(body));
        (*collected.status_mut(), *collected.headers_mut()) = (status, headers);
        Ok(collected)
    }

    /// Logs the first failure, and the first success after it.
    fn log_export_result(&self, result: &Result<Response<Bytes>, HttpError>) {
        let error = match result {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("the collector answered {}", response.status())),
            Err(error) => Some(pagecast_media::chain(error.as_ref())),
        };
        let failed_before = self.last_export_failed.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) if !failed_before => tracing::warn!(error, "trace export failed"),
            None if failed_before => tracing::info!("trace export recovered"),
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
