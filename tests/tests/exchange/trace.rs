//! One trace for one exchange, whatever processes it went through.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::ensure;
use axum::{Router, body::Bytes, extract::State, routing::post};
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    trace::v1::Span,
};
use prost::Message;
use symbia_events::Service;
use symbia_tests::binary::until;

use crate::{
    Tested,
    stage::{SCRIPTED, Stage, shows},
    steps::PLAN,
};

const QUESTION: &str = "what is the secret?";
const REQUEST: &str = "POST /api/conversations/{id}/messages";
/// Each of these stands under the other.
const EXPECTED: [(&str, &str); 11] = [
    ("command messaging/conversation", REQUEST),
    ("project", "command messaging/conversation"),
    ("react rule-engine", "command messaging/conversation"),
    ("command assistants/rule-run", "react rule-engine"),
    ("command integrations/completion", "react rule-engine"),
    ("react llm-router", "command integrations/completion"),
    ("completion", "react llm-router"),
    ("command integrations/completion", "react llm-router"),
    ("react rule-engine", "command integrations/completion"),
    ("command messaging/conversation", "react rule-engine"),
    ("project", "command integrations/completion"),
];

/// Takes what is exported over OTLP.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    metrics: Arc<Mutex<HashSet<String>>>,
}

impl Collector {
    async fn start() -> anyhow::Result<(Self, String)> {
        let collector = Self::default();
        let app = Router::new().route("/v1/traces", post(traces)).route("/v1/metrics", post(metrics));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        tokio::spawn(axum::serve(listener, app.with_state(collector.clone())).into_future());
        Ok((collector, address))
    }

    fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn traces(State(collector): State<Collector>, body: Bytes) {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return };
    let spans = request.resource_spans.into_iter().flat_map(|r| r.scope_spans).flat_map(|s| s.spans);
    collector.spans.lock().unwrap_or_else(PoisonError::into_inner).extend(spans);
}

async fn metrics(State(collector): State<Collector>, body: Bytes) {
    let Ok(request) = ExportMetricsServiceRequest::decode(body) else { return };
    let metrics = request.resource_metrics.into_iter().flat_map(|r| r.scope_metrics).flat_map(|s| s.metrics);
    collector.metrics.lock().unwrap_or_else(PoisonError::into_inner).extend(metrics.map(|metric| metric.name));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_is_one_trace_across_all_processes_and_tells_no_secrets() -> Tested {
    let (collector, address) = Collector::start().await?;
    let often = "200".to_owned();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", address),
        ("OTEL_BSP_SCHEDULE_DELAY", often.clone()),
        ("OTEL_METRIC_EXPORT_INTERVAL", often),
    ];
    let stage = Stage::open(PLAN, &variables).await?;
    let talk = stage.rest.talk(SCRIPTED.assistant).await?;
    stage.rest.clone().say(talk.clone(), QUESTION).await?;
    shows(&stage.rest, &talk, 2).await?;

    let began = Instant::now();
    let mut trace = Vec::new();
    while let Err(missing) = whole(&trace) {
        let logs = || stage.apart.logs();
        ensure!(began.elapsed() < Duration::from_secs(30), "{missing}\n{}\n{}", tree(&trace), logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
        trace = trace_of(&collector.spans());
    }
    let Some(completion) = trace.iter().find(|s| s.name == "completion") else { unreachable!("it was waited for") };
    let attributes = format!("{:?}", completion.attributes);
    ensure!(attributes.contains("gen_ai.usage.output_tokens") && attributes.contains("IntValue(7)"), "{attributes}");
    ensure!(completion.events.iter().any(|event| event.name == "gen_ai.first_token"), "{completion:?}");
    let everything = format!("{:?}", collector.spans());
    for secret in [QUESTION, SCRIPTED.text, "one two", "ada@example.test", "ada's password", crate::upstream::KEY] {
        ensure!(!everything.contains(secret), "'{secret}' was exported");
    }
    // They leave at intervals of their own.
    for metric in ["symbia.command.duration", "symbia.reactor.duration", "symbia.completion.tokens"] {
        let exported =
            || async { Ok(collector.metrics.lock().unwrap_or_else(PoisonError::into_inner).contains(metric)) };
        until(&format!("{metric} is exported"), exported).await?;
    }
    let shown = reqwest::get(format!("{}/metrics", stage.apart.base(Service::Messaging))).await?.text().await?;
    ensure!(shown.contains("http_server_request_duration_seconds_count{"), "{shown}");
    Ok(())
}

fn trace_of(spans: &[Span]) -> Vec<Span> {
    let Some(request) = spans.iter().find(|span| span.name == REQUEST) else { return Vec::new() };
    spans.iter().filter(|span| span.trace_id == request.trace_id).cloned().collect()
}

// Everything expected is there, and nothing hangs in the air: but for the request itself, every span's parent is there, too.
fn whole(trace: &[Span]) -> Result<(), String> {
    let names = names(trace);
    let under = |span: &Span| names.get(&span.parent_span_id).map(String::as_str);
    let stands = |child: &str, parent: &str| trace.iter().any(|s| s.name == child && under(s) == Some(parent));
    if let Some(missing) = EXPECTED.into_iter().find(|(child, parent)| !stands(child, parent)) {
        return Err(format!("{missing:?} is missing"));
    }
    match trace.iter().find(|span| span.name != REQUEST && under(span).is_none()) {
        Some(loose) => Err(format!("'{}' has no parent", loose.name)),
        None => Ok(()),
    }
}

fn names(trace: &[Span]) -> HashMap<Vec<u8>, String> {
    trace.iter().map(|span| (span.span_id.clone(), span.name.clone())).collect()
}

fn tree(trace: &[Span]) -> String {
    let names = names(trace);
    let line = |span: &Span| {
        let under = names.get(&span.parent_span_id).map_or("nothing that is known", String::as_str);
        format!("{} under {under}\n", span.name)
    };
    trace.iter().map(line).collect()
}
