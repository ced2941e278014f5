//! What telemetry needs in every process: the W3C trace context that messages carry, and the platform's instruments.
//!
//! Spans are `tracing` spans; the binary decides whether they are exported. Where they are not, all of this costs next to
//! nothing. Attributes hold ids, kinds and numbers: no text that somebody wrote, no secret.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};

use opentelemetry::{
    Context, global,
    metrics::{Histogram, Meter},
    trace::{Span as _, SpanBuilder, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer},
};
pub use opentelemetry::{KeyValue, metrics};
use tracing::Span;
pub use tracing_opentelemetry::OpenTelemetrySpanExt as SpanExt;

const SCOPE: &str = "symbia";
/// Upper bounds of what is measured in seconds, from half a millisecond to two minutes.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

static EXPORTING: AtomicBool = AtomicBool::new(false);

/// Says whether spans are exported: once, by the binary, when it starts.
pub fn set_exporting(exporting: bool) {
    EXPORTING.store(exporting, Ordering::Relaxed);
}

/// Whether spans are exported.
#[must_use]
pub fn is_exporting() -> bool {
    EXPORTING.load(Ordering::Relaxed)
}

/// The platform's meter. Instruments that are made before the binary has set up its own count nothing.
#[must_use]
pub fn meter() -> Meter {
    global::meter(SCOPE)
}

/// A histogram of seconds.
#[must_use]
pub fn seconds(name: &'static str, description: &'static str) -> Histogram<f64> {
    let meter = meter();
    let histogram = meter.f64_histogram(name).with_unit("s").with_description(description);
    histogram.with_boundaries(SECONDS.to_vec()).build()
}

/// Makes a span part of the trace that a `traceparent` names. To be called before the span is entered.
pub fn follow(span: &Span, traceparent: Option<&str>) {
    if let Some(parent) = traceparent.filter(|_| is_exporting()).and_then(remote) {
        // Fails for a span that nobody exports.
        _ = span.set_parent(parent);
    }
}

/// The `traceparent` of what happens within a span; `None` where spans are not exported.
#[must_use]
pub fn traceparent(span: &Span) -> Option<String> {
    if !is_exporting() {
        return None;
    }
    let context = span.context();
    let own = context.span().span_context().clone();
    own.is_valid().then(|| format!("00-{}-{}-{:02x}", own.trace_id(), own.span_id(), own.trace_flags().to_u8()))
}

/// Gives a span a name that is only known now.
pub fn rename(span: &Span, name: String) {
    if is_exporting() {
        span.context().span().update_name(name);
    }
}

/// Records a span that is over, in the trace of a `traceparent`.
pub fn record(name: &'static str, since: SystemTime, traceparent: &str, attributes: Vec<KeyValue>) {
    if let Some(parent) = Some(traceparent).filter(|_| is_exporting()).and_then(remote) {
        let builder = SpanBuilder::from_name(name).with_start_time(since).with_attributes(attributes);
        global::tracer(SCOPE).build_with_context(builder, &parent).end();
    }
}

// `version-trace-parent-flags`; what is malformed belongs to no trace.
fn remote(traceparent: &str) -> Option<Context> {
    let mut parts = traceparent.split('-').skip(1);
    let (trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?);
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let (trace, parent) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(parent).ok()?);
    let context = SpanContext::new(trace, parent, flags, true, TraceState::NONE);
    context.is_valid().then(|| Context::new().with_remote_span_context(context))
}
