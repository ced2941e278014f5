//! An answer is given when its end is in the log, and is the one in the log.

use anyhow::{Context as _, ensure};
use async_nats::{HeaderMap, jetstream};
use axum::body::Bytes;
use serde_json::json;
use symbia_events::{
    ActorType, AggregateRef, AuthMethod, CommandId, Context, KeyRing, commit,
    integrations::{CompletionCancelled, CompletionContext, CompletionEvent},
    sign_commit,
};
use symbia_tests::binary::until;
use time::OffsetDateTime;

use crate::{Tested, stage::Stage};

// What a router hands in that does not know that another took over: well signed, and refused by the log.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_the_log_refuses_is_told_to_nobody() -> Tested {
    let stage = Stage::open().await?;
    let ada = stage.register("ada").await?;
    let body = json!({ "model": "openai/slow", "messages": [{ "role": "user", "content": "2+3?" }] });
    let ask = stage.ask(&ada, "POST", "/v1/chat/completions", Some(body));
    let refused = async {
        until("the model is asked", || async { Ok(!stage.vendor.asked().is_empty()) }).await?;
        let js = jetstream::new(stage.house.nats().await?);
        let under_way = js.get_stream("SYMBIA_EVT_INTEGRATIONS").await?;
        let requests = format!("symbia.evt.integrations.{}.completion.*", ada.org);
        let subject = under_way.direct_get_last_for_subject(requests).await?.subject.to_string();
        let payload = end(&stage, &AggregateRef::of_subject(&subject).context("no request")?)?;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
        let handed_in = js.publish_with_headers(subject, headers, payload).await?.await;
        ensure!(handed_in.is_err(), "the log takes it");
        stage.vendor.let_answer(1);
        anyhow::Ok(())
    };
    let (answered, refused) = tokio::join!(ask, refused);
    refused?;
    let answered = answered?;
    ensure!(answered.status == 200, "{}", answered.body);
    ensure!(answered.body["choices"][0]["message"]["content"] == "2 + 3 = 5 ✓", "{}", answered.body);
    Ok(())
}

fn end(stage: &Stage, request: &AggregateRef) -> anyhow::Result<Bytes> {
    let keys = KeyRing::from_json(&std::fs::read_to_string(stage.house.data().join("keys/ring.json"))?)?;
    let command_id = CommandId::random();
    let context = Context {
        actor_id: "router".to_owned(),
        actor_type: ActorType::System,
        on_behalf_of: None,
        auth_method: AuthMethod::Service,
        command_id,
        correlation_id: command_id.to_string(),
        causation_id: command_id.to_string(),
        traceparent: None,
        data_class: None,
        env: None,
        policy_ref: None,
        at: OffsetDateTime::now_utc(),
    };
    let cancelled = CompletionCancelled {
        request_id: request.id.clone(),
        by: "router".to_owned(),
        reason: "admin".to_owned(),
        attempts: 1,
        partial_content: None,
        usage: None,
        hedged: None,
        context: CompletionContext::default(),
        requested_by: None,
        budgets: Vec::new(),
        keep_partial: false,
    };
    let signed = sign_commit(&keys, request, &context, 3, "hash", &[CompletionEvent::from(cancelled)])?;
    Ok(commit::encode(&signed).0)
}
