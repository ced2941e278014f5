//! Traces and metrics of this process: recorded through OpenTelemetry, exported over OTLP when an endpoint is configured,
//! and shown at `/metrics` for Prometheus.
//!
//! The exporters block, so they have threads of their own and are started before the runtime and stopped after it.

use std::{io::IsTerminal as _, time::Duration};

use anyhow::Context;
use axum::{Router, http::header, routing::get};
use opentelemetry::{KeyValue, global, trace::TracerProvider};
use opentelemetry_otlp::{MetricExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    metrics::{PeriodicReader, SdkMeterProvider},
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider},
};
use prometheus::TextEncoder;
use symbia_nats::telemetry;
use tokio::net::TcpListener;
use tracing::{Level, Metadata, Subscriber, subscriber::Interest};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{LevelFilter, dynamic_filter_fn},
    fmt,
    layer::{self, Filter, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};
use uuid::Uuid;

use crate::config::{self, Config, Otlp};

/// Longest time that the end of the process waits for what is still to be exported.
const FAREWELL: Duration = Duration::from_secs(3);
const SCOPE: &str = "symbia";

/// What this process records. Stop it at the end.
pub struct Telemetry {
    tracer: Option<SdkTracerProvider>,
    meter: SdkMeterProvider,
}

impl Telemetry {
    /// Starts logging, metrics, and the exporters that are configured.
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        let resource = resource(config);
        let prometheus = opentelemetry_prometheus::exporter()
            .with_registry(prometheus::default_registry().clone())
            .scope_info_enabled(false)
            .build()?;
        let mut meter = SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(prometheus);
        let mut tracer = None;
        if let Some(otlp) = &config.otlp {
            let exporter = MetricExporter::builder().with_http().with_protocol(Protocol::HttpBinary);
            let exporter = exporter.with_endpoint(otlp.at("metrics")).with_headers(otlp.headers()).build()?;
            meter = meter.with_reader(PeriodicReader::builder(exporter).with_interval(otlp.metrics_every).build());
            tracer = Some(traces(otlp, resource)?);
        }
        let meter = meter.build();
        global::set_meter_provider(meter.clone());
        if let Some(tracer) = &tracer {
            global::set_tracer_provider(tracer.clone());
        }
        telemetry::set_exporting(tracer.is_some());
        log(config, tracer.as_ref().map(|provider| provider.tracer(SCOPE)));
        Ok(Telemetry { tracer, meter })
    }

    /// Exports what is left, within a few seconds.
    pub fn stop(self) {
        if let Some(tracer) = self.tracer
            && let Err(error) = tracer.shutdown_with_timeout(FAREWELL)
        {
            tracing::debug!(%error, "the last spans were not exported");
        }
        if let Err(error) = self.meter.shutdown_with_timeout(FAREWELL) {
            tracing::debug!(%error, "the last metrics were not exported");
        }
    }
}

fn resource(config: &Config) -> Resource {
    Resource::builder_empty()
        .with_service_name(config.service_name.clone())
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", Uuid::new_v4().to_string()),
        ])
        .build()
}

fn traces(otlp: &Otlp, resource: Resource) -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary);
    let exporter = exporter.with_endpoint(otlp.at("traces")).with_headers(otlp.headers()).build()?;
    let batches = BatchConfigBuilder::default().with_scheduled_delay(otlp.traces_every).with_max_queue_size(16_384);
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches.build()).build();
    // Who began a trace decides whether it is recorded.
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(otlp.sampled)));
    let provider = SdkTracerProvider::builder().with_span_processor(processor).with_sampler(sampler);
    Ok(provider.with_resource(resource).build())
}

// Log lines go to standard error, spans to the exporter; what is logged within a span stays here: it is free text.
fn log(config: &Config, tracer: Option<SdkTracer>) {
    let filter = EnvFilter::try_new(&config.log).unwrap_or_else(|_| EnvFilter::new(config::DEFAULT_LOG));
    let Some(tracer) = tracer else {
        return tracing_subscriber::registry().with(filter).with(lines(config)).init();
    };
    let spans = tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false);
    let spans = spans.with_tracked_inactivity(false).with_filter(ours());
    tracing_subscriber::registry().with(spans).with(lines(config).with_filter(filter)).init();
}

fn lines<S: Subscriber + for<'a> LookupSpan<'a>>(config: &Config) -> Box<dyn Layer<S> + Send + Sync> {
    let lines = fmt::layer().with_writer(std::io::stderr);
    // No colours in files and pipes; on a terminal as it likes (`NO_COLOR`).
    let lines = if std::io::stderr().is_terminal() { lines } else { lines.with_ansi(false) };
    if config.production { lines.json().boxed() } else { lines.boxed() }
}

// Not the spans of the HTTP client that exports: they would be exported in turn. Asked for each span anew: filters of two
// layers that both always want a span are not asked, and what was last decided on this thread, perhaps about a statement
// of sqlx that nobody logs, would count instead.
fn ours<S>() -> impl Filter<S> {
    let asked = |metadata: &'static Metadata<'static>| {
        if is_ours(metadata) { Interest::sometimes() } else { Interest::never() }
    };
    dynamic_filter_fn(|metadata, _: &layer::Context<'_, S>| is_ours(metadata))
        .with_max_level_hint(LevelFilter::DEBUG)
        .with_callsite_filter(asked)
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target().starts_with("symbia") && *metadata.level() <= Level::DEBUG
}

/// `/metrics`, in Prometheus' text format.
pub fn routes() -> Router {
    Router::new().route("/metrics", get(async || ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text())))
}

fn text() -> String {
    TextEncoder::new().encode_to_string(&prometheus::gather()).unwrap_or_else(|error| {
        tracing::error!(%error, "metrics cannot be written");
        String::new()
    })
}

/// Serves `/metrics` alone where that is configured: workers and projectors have no other port.
pub async fn serve(config: &Config) -> anyhow::Result<()> {
    let Some(address) = config.metrics else { return Ok(()) };
    let listener = TcpListener::bind(address).await.with_context(|| format!("SYMBIA_METRICS_ADDR: {address}"))?;
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes()).await {
            tracing::error!(%error, "metrics are not served any more");
        }
    });
    Ok(())
}
