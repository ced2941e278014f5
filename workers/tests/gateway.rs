//! Requests to models that nobody's rule made: what is tried again and what is not, whose key is used, and budgets that
//! requests at once cannot overspend.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, future::join_all};
use serde_json::json;
use support::{
    House, Model, SOON, ada, org,
    upstream::{KEY, Mode, Upstream},
};
use symbia_commands::{
    Actor,
    integrations::{BudgetCommand, CompletionCommand, RequestCompletion, SetBudget},
};
use symbia_events::{
    AggregateRef, DomainEvent, Service, SubjectKey,
    integrations::{
        BudgetEvent, BudgetPeriod, BudgetScope, BudgetUnit, CompletionContext, CompletionEvent, ErrorCategory,
        PromptMessage, PromptRole, Sampling, Target,
    },
};
use symbia_workers::integrations::{
    Accounts, ApiKey, Asker, BudgetTerms, Lease, PriceTerms, RetryOptions, RouterOptions,
};
use uuid::Uuid;
use zeroize::Zeroizing;

const LEASED: &str = "sk-leased-9876543210";

/// Ada's key, and one budget of hers.
struct Books;

#[async_trait]
impl Accounts for Books {
    async fn lease(&self, asker: &Asker<'_>, provider: &str, _named: Option<&str>) -> anyhow::Result<Option<Lease>> {
        let hers = (asker.principal, asker.org, provider) == ("ada", "org", "openai");
        let key = ApiKey::new(Zeroizing::new(LEASED.to_owned()));
        Ok(hers.then(|| Lease { key, credential_id: "cred-1".to_owned(), is_proxy: false }))
    }

    async fn budgets(&self, org: &str) -> anyhow::Result<Arc<[BudgetTerms]>> {
        let terms = BudgetTerms {
            id: "b1".to_owned(),
            scope: BudgetScope::User,
            subject: Some("ada".to_owned()),
            period: BudgetPeriod::Total,
            unit: BudgetUnit::Requests,
            limit: 5,
        };
        Ok(if org == "org" { Arc::from([terms]) } else { Arc::from([]) })
    }

    async fn scopes(&self, _key: &str) -> anyhow::Result<Option<Arc<[String]>>> {
        Ok(Some(Arc::from([])))
    }

    async fn price(&self, _provider: &str, _model: &str) -> anyhow::Result<Option<PriceTerms>> {
        Ok(Some(PriceTerms {
            input: 1_000_000,
            output: 2_000_000,
            cached_input: None,
            version: 7,
            ..PriceTerms::default()
        }))
    }
}

fn retry() -> RetryOptions {
    RetryOptions { first_wait: Duration::from_millis(20), failures: u32::MAX, ..RetryOptions::default() }
}

async fn house(retry: RetryOptions, accounts: Option<Arc<dyn Accounts>>) -> (House, Upstream, SubjectKey) {
    let upstream = Upstream::start(Mode::Answers(vec!["4"])).await;
    let options = RouterOptions { retry, ..RouterOptions::default() };
    let house = House::open_with(Model::OpenAi(upstream.options().into()), options, accounts).await;
    let key = SubjectKey::generate("ada");
    house.secrets.put_subject_key(&key).await.unwrap();
    (house, upstream, key)
}

fn refuses(status: u16, headers: &[(&'static str, &'static str)]) -> Mode {
    Mode::Refuses(status, headers.to_vec(), json!({ "error": { "message": "no", "type": "x" } }))
}

/// Asks, and gives what is in the log when the request has its end.
async fn ask(house: &House, key: &SubjectKey, stream: bool, fallbacks: &[&str]) -> Vec<CompletionEvent> {
    let (to, request) = request(key, stream, fallbacks);
    house.command(&to, &request, &ada()).await;
    ended(house, &to).await
}

fn request(key: &SubjectKey, stream: bool, fallbacks: &[&str]) -> (AggregateRef, CompletionCommand) {
    let id = Uuid::new_v4().to_string();
    let to = AggregateRef::new(Service::Integrations, org(), "completion", &id).unwrap();
    let request = RequestCompletion {
        request_id: id,
        provider: None,
        model: Some("first".to_owned()),
        operation: "chat.completions".to_owned(),
        messages: vec![PromptMessage::text(PromptRole::User, key.seal("what is 2+2?"))],
        sampling: Sampling::default(),
        stream,
        credential_id: None,
        idempotency_key: None,
        deadline: None,
        context: CompletionContext::default(),
        prompt_digest: key.digest("what is 2+2?"),
        options: None,
        fallbacks: fallbacks.iter().map(|m| Target { provider: None, model: Some((*m).to_owned()) }).collect(),
    };
    (to, request.into())
}

async fn ended(house: &House, to: &AggregateRef) -> Vec<CompletionEvent> {
    let ended = async {
        loop {
            let events: Vec<CompletionEvent> = house.events(to).await.into_iter().map(|(_, e)| e).collect();
            let end = events.last().is_some_and(|e| {
                ["completed", "failed", "cancelled"]
                    .iter()
                    .any(|end| e.event_type().contains(&format!("completion-{end}.")))
            });
            if end {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, ended).await.expect("an end")
}

fn kinds(events: &[CompletionEvent]) -> Vec<String> {
    let name =
        |e: &CompletionEvent| e.event_type().split('.').nth(3).unwrap().trim_start_matches("completion-").to_owned();
    events.iter().map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_tried_again_as_the_provider_wants_and_what_will_not_is_not() {
    let (house, upstream, key) = house(retry(), None).await;
    // Its wish to wait is honoured, and told.
    upstream.first([refuses(429, &[("retry-after", "1")]), refuses(503, &[])]);
    let events = ask(&house, &key, false, &[]).await;
    let tried = [
        "requested",
        "attempt-started",
        "attempt-failed",
        "attempt-started",
        "attempt-failed",
        "attempt-started",
        "completed",
    ];
    assert_eq!(kinds(&events), tried);
    let waits: Vec<_> = events
        .iter()
        .filter_map(|e| match e {
            CompletionEvent::CompletionAttemptFailed(e) => Some((e.category, e.retry_after_ms.unwrap())),
            _ => None,
        })
        .collect();
    assert_eq!(waits[0], (ErrorCategory::RateLimit, 1000));
    assert!(waits[1].0 == ErrorCategory::Provider && waits[1].1 < 1000, "{waits:?}");
    assert_eq!(upstream.asked().len(), 3);

    // Three times, and no more.
    upstream.set(refuses(500, &[]));
    let events = ask(&house, &key, false, &[]).await;
    let Some(CompletionEvent::CompletionFailed(failed)) = events.last() else { panic!("{events:?}") };
    assert_eq!((failed.attempts, failed.category, upstream.asked().len()), (3, ErrorCategory::Provider, 3));

    // Not for a request that is wrong, a key that is, or a wait that is too long.
    for (mode, category) in [
        (refuses(400, &[]), ErrorCategory::Validation),
        (refuses(401, &[]), ErrorCategory::Auth),
        (refuses(429, &[("retry-after", "3600")]), ErrorCategory::RateLimit),
    ] {
        upstream.set(mode);
        let events = ask(&house, &key, false, &[]).await;
        let Some(CompletionEvent::CompletionFailed(failed)) = events.last() else { panic!("{events:?}") };
        assert_eq!((failed.attempts, failed.category), (1, category));
        if category == ErrorCategory::RateLimit {
            assert_eq!(failed.retry_after_ms, Some(3_600_000));
        }
    }
    // Nor when a reader has a part of it already.
    upstream.set(Mode::Says("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"half\"}}]}\n\n"));
    let events = ask(&house, &key, true, &[]).await;
    assert_eq!(kinds(&events), ["requested", "attempt-started", "failed"]);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_is_asked_when_the_first_is_at_fault() {
    let (house, upstream, key) = house(retry(), None).await;
    upstream.first([refuses(401, &[])]);
    let events = ask(&house, &key, false, &["second"]).await;
    let Some(CompletionEvent::CompletionCompleted(done)) = events.last() else { panic!("{events:?}") };
    assert_eq!((done.attempts, done.requested_model.as_deref()), (2, Some("first")));
    let models: Vec<_> = upstream.asked().into_iter().map(|asked| asked.body["model"].clone()).collect();
    assert_eq!(models, ["first", "second"]);
    // Not when the request itself is wrong.
    upstream.first([refuses(400, &[])]);
    assert_eq!(kinds(&ask(&house, &key, false, &["second"]).await), ["requested", "attempt-started", "failed"]);
    assert_eq!(upstream.asked().len(), 1);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_fails_again_and_again_is_left_alone() {
    let (house, upstream, key) = house(RetryOptions { retries: 0, failures: 2, ..retry() }, None).await;
    upstream.set(refuses(500, &[]));
    for _ in 0..2 {
        ask(&house, &key, false, &[]).await;
    }
    assert_eq!(upstream.asked().len(), 2);
    let events = ask(&house, &key, false, &[]).await;
    let Some(CompletionEvent::CompletionFailed(failed)) = events.last() else { panic!("{events:?}") };
    assert_eq!(failed.code.as_deref(), Some("circuit_open"));
    assert!(failed.retry_after_ms.is_some_and(|wait| wait > 1000));
    upstream.set(Mode::Answers(vec!["4"]));
    let events = ask(&house, &key, false, &["second"]).await;
    assert_eq!(kinds(&events).last().unwrap(), "completed", "another model has a circuit of its own");
    assert_eq!(upstream.asked().len(), 1);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lent_key_is_used_and_stands_nowhere() {
    let (house, upstream, key) = house(retry(), Some(Arc::new(Books))).await;
    let budget = AggregateRef::new(Service::Integrations, org(), "budget", "b1").unwrap();
    house.command(&budget, &BudgetCommand::from(set(100)), &Actor::system("test")).await;
    upstream.first([Mode::Refuses(500, Vec::new(), json!({ "error": { "message": format!("bad {LEASED}") } }))]);
    let events = ask(&house, &key, false, &[]).await;
    let Some(CompletionEvent::CompletionCompleted(done)) = events.last() else { panic!("{events:?}") };
    assert_eq!((done.credential_id.as_deref(), done.credential_source.as_deref()), (Some("cred-1"), Some("personal")));
    let cost = done.cost.unwrap();
    assert_eq!((cost.input_micros, cost.output_micros, cost.total_micros, cost.price_version), (11, 14, 25, 7));
    for asked in upstream.asked() {
        assert_eq!(asked.headers["authorization"], format!("Bearer {LEASED}"));
    }
    for event in &events {
        let data = event.to_data().unwrap().get().to_owned();
        assert!(!data.contains(LEASED) && !data.contains(KEY), "{data}");
        if let CompletionEvent::CompletionAttemptFailed(e) = event {
            let message = key.open(e.message.as_ref().unwrap()).unwrap();
            assert!(message.contains("[REDACTED]") && !message.contains(LEASED), "{message}");
        }
    }
    house.close().await;
}

fn set(limit: u64) -> SetBudget {
    SetBudget {
        budget_id: "b1".to_owned(),
        org_id: "org".to_owned(),
        scope: BudgetScope::User,
        subject: Some("ada".to_owned()),
        period: BudgetPeriod::Total,
        unit: BudgetUnit::Requests,
        limit,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_once_do_not_overspend_a_budget_and_a_refusal_says_what_was_counted() {
    let (house, upstream, key) = house(retry(), Some(Arc::new(Books))).await;
    let budget = AggregateRef::new(Service::Integrations, org(), "budget", "b1").unwrap();
    house.command(&budget, &BudgetCommand::from(set(5)), &Actor::system("test")).await;
    let ends = join_all((0..20).map(|_| ask(&house, &key, false, &[]))).await;
    let completed = ends.iter().filter(|events| kinds(events).last().unwrap() == "completed").count();
    assert_eq!((completed, upstream.asked().len()), (5, 5));
    for events in &ends {
        let Some(CompletionEvent::CompletionFailed(failed)) = events.last() else { continue };
        assert_eq!((failed.category, failed.code.as_deref()), (ErrorCategory::Quota, Some("budget_exceeded")));
        let message = key.open(failed.message.as_ref().unwrap()).unwrap();
        assert!(message.starts_with("the budget of user ada, 5 requests in all is used up: "), "{message}");
    }
    // What was kept is settled, each once.
    let settled = async {
        loop {
            let events: Vec<BudgetEvent> = house.events(&budget).await.into_iter().map(|(_, e)| e).collect();
            let settled: Vec<u64> = events
                .iter()
                .filter_map(|e| match e {
                    BudgetEvent::BudgetSettled(e) => Some(e.spent),
                    _ => None,
                })
                .collect();
            if settled.len() == 5 {
                let exhausted = events.iter().filter(|e| matches!(e, BudgetEvent::BudgetExhausted(_))).count();
                return (settled, exhausted);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (settled, exhausted) = tokio::time::timeout(SOON, settled).await.expect("five settlements");
    assert_eq!((settled, exhausted), (vec![1, 2, 3, 4, 5], 1));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_worked_on_where_it_is_sent_and_taken_over_when_that_process_dies() {
    let (house, upstream, key) = house(retry(), None).await;
    let (to, asked) = request(&key, false, &[]);
    let _here = house.front(to.clone(), asked);
    assert_eq!(kinds(&ended(&house, &to).await), ["requested", "attempt-started", "completed"]);
    let commits: Vec<_> = house.events::<CompletionEvent>(&to).await.into_iter().map(|(e, _)| e.commandid).collect();
    assert!(commits[0] == commits[1] && commits[1] != commits[2], "asked for and begun at once: {commits:?}");
    assert_eq!(upstream.asked().len(), 1);

    // The other router has it from the log, and asks whether somebody is at it.
    upstream.set(Mode::Paced(vec!["4"; 400], Duration::from_millis(100)));
    let mut questions = house.client.subscribe("symbia.gateway.router.*").await.unwrap();
    house.client.flush().await.unwrap();
    let (to, asked) = request(&key, true, &[]);
    let mut here = house.front(to.clone(), asked);
    for _ in 0..3 {
        let question = tokio::time::timeout(SOON, questions.next()).await.unwrap().unwrap();
        assert_eq!(question.payload, to.id.as_bytes());
    }
    assert_eq!((upstream.asked().len(), house.events::<CompletionEvent>(&to).await.len()), (1, 2));
    upstream.set(Mode::Answers(vec!["4"]));
    here.kill();
    let events = ended(&house, &to).await;
    assert_eq!(kinds(&events), ["requested", "attempt-started", "attempt-failed", "attempt-started", "completed"]);
    assert_eq!(upstream.asked().len(), 1);
    house.close().await;
}
