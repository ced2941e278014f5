//! W3C trace context: one id for the whole platform (platform.md §14).

use std::fmt;

use axum::http::HeaderMap;
use symbia_nats::telemetry;
use tracing::Span;

/// The trace that a request belongs to, and our own span in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    parent: Option<u64>,
    // The caller named the trace, and no span of it.
    named: bool,
    flags: u8,
}

impl TraceContext {
    /// Continues the trace of `traceparent`, else the one named by `x-trace-id` (32 hex digits), else starts one.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
        let continued = text("traceparent").and_then(parse);
        let named = continued.is_none().then(|| hex::<32>(text("x-trace-id")?)).flatten();
        let (trace_id, parent, flags) =
            continued.unwrap_or_else(|| (named.unwrap_or_else(|| non_zero(rand::random, 0)), None, 1));
        Self { trace_id, span_id: non_zero(rand::random, 0), parent, named: named.is_some(), flags }
    }

    /// Makes a span part of this trace. Where spans are exported, our span's id is that one's from now on.
    pub(super) fn join(&mut self, span: &Span) {
        // Of a trace that was only named the beginning is elsewhere: it gets an id, and is not exported.
        if let Some(parent) = self.parent.or(self.named.then_some(self.span_id)) {
            telemetry::follow(span, Some(&format!("00-{:032x}-{parent:016x}-{:02x}", self.trace_id, self.flags)));
        }
        if let Some((trace_id, Some(span_id), flags)) = telemetry::traceparent(span).as_deref().and_then(parse) {
            (self.trace_id, self.span_id, self.flags) = (trace_id, span_id, flags);
        }
    }

    /// 32 hex digits; the value of `x-trace-id`.
    #[must_use]
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// Our span, 16 hex digits.
    #[must_use]
    pub fn span_id(&self) -> String {
        format!("{:016x}", self.span_id)
    }

    /// The caller's span, 16 hex digits.
    #[must_use]
    pub fn parent_id(&self) -> Option<String> {
        self.parent.map(|id| format!("{id:016x}"))
    }

    /// The header for calls and messages that this request causes.
    #[must_use]
    pub fn traceparent(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// `version-trace-parent-flags`. A later version may append fields; version `ff` and all-zero ids are invalid.
fn parse(header: &str) -> Option<(u128, Option<u64>, u8)> {
    let mut parts = header.split('-');
    let version = parts.next().filter(|v| v.len() == 2 && lower_hex(v))?;
    let trace_id = hex::<32>(parts.next().filter(|v| lower_hex(v))?)?;
    let parent = u64::try_from(hex::<16>(parts.next().filter(|v| lower_hex(v))?)?).ok()?;
    let flags = parts.next().filter(|v| v.len() == 2 && lower_hex(v))?;
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    // Of the flags only "sampled" is defined in version 00.
    Some((trace_id, Some(parent), u8::from_str_radix(flags, 16).ok()? & 1))
}

fn lower_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A non-zero number of exactly `DIGITS` hex digits.
fn hex<const DIGITS: usize>(text: &str) -> Option<u128> {
    let digits = text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit());
    u128::from_str_radix(text, 16).ok().filter(|n| digits && *n != 0)
}

fn non_zero<T: PartialEq>(mut draw: impl FnMut() -> T, zero: T) -> T {
    loop {
        let drawn = draw();
        if drawn != zero {
            return drawn;
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "tests")]
mod tests {
    use axum::http::{HeaderMap, HeaderValue};

    use super::TraceContext;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn context(name: &'static str, value: &str) -> TraceContext {
        TraceContext::from_headers(&HeaderMap::from_iter([(
            axum::http::HeaderName::from_static(name),
            HeaderValue::from_str(value).expect("a header value"),
        )]))
    }

    #[test]
    fn traceparent_is_continued_with_a_new_span() {
        let context = context("traceparent", &format!("00-{TRACE}-b7ad6b7169203331-01"));
        assert_eq!(context.trace_id(), TRACE);
        assert_eq!(context.parent_id().as_deref(), Some("b7ad6b7169203331"));
        assert_ne!(context.span_id(), "b7ad6b7169203331");
        assert_eq!(context.traceparent(), format!("00-{TRACE}-{}-01", context.span_id()));
    }

    #[test]
    fn an_invalid_traceparent_starts_a_new_trace() {
        for value in [
            format!("ff-{TRACE}-b7ad6b7169203331-01"),
            format!("00-{TRACE}-b7ad6b7169203331-01-more"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            format!("00-{}-b7ad6b7169203331-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-b7ad6b7169203331"),
            format!("00-{TRACE}-+7ad6b7169203331-01"),
        ] {
            let context = context("traceparent", &value);
            assert_ne!(context.trace_id(), TRACE, "{value}");
            assert_eq!(context.parent_id(), None, "{value}");
        }
    }

    #[test]
    fn x_trace_id_is_adopted_only_as_32_hex_digits() {
        assert_eq!(context("x-trace-id", TRACE).trace_id(), TRACE);
        assert_eq!(context("x-trace-id", &TRACE.to_uppercase()).trace_id(), TRACE);
        for value in ["trace_1", &TRACE[..31], &"0".repeat(32), &format!("+{}", &TRACE[..31])] {
            assert_ne!(context("x-trace-id", value).trace_id(), value, "{value}");
        }
    }
}
