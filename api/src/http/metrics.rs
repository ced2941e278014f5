//! What the APIs count, after OpenTelemetry's conventions for HTTP servers. Routes are templates: no path that somebody wrote
//! becomes a label.

use std::{sync::LazyLock, time::Duration};

use axum::http::Method;
use symbia_events::Service;
use symbia_nats::telemetry::{KeyValue, metrics::Histogram, seconds};

static DURATION: LazyLock<Histogram<f64>> =
    LazyLock::new(|| seconds("http.server.request.duration", "Time from a request to its response's headers"));

/// A method as a label: there are as many others as somebody cares to send.
pub(super) fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "_OTHER",
    }
}

/// A request was answered.
pub(super) fn answered(service: Service, method: &'static str, route: &str, status: u16, took: Duration) {
    let labels = [
        KeyValue::new("symbia.service", service.name()),
        KeyValue::new("http.request.method", method),
        KeyValue::new("http.route", route.to_owned()),
        KeyValue::new("http.response.status_code", i64::from(status)),
    ];
    DURATION.record(took.as_secs_f64(), &labels);
}
