//! Completions: folding their events, and reading them. What was asked and answered stays in the log, sealed.

mod passed;

use std::collections::BTreeMap;

use sqlx::{FromRow, PgConnection, types::Json};
use symbia_events::{
    DomainEvent, Event,
    integrations::{
        CompletionContext, CompletionEvent, Cost, EmbeddingEvent, ImageEvent, PassthroughEvent, Spent, TaskEvent, Usage,
    },
};
use time::OffsetDateTime;

use crate::{
    FoldError, FoldEvent,
    columns::{name_of, text, write_columns},
};

/// A completion.
#[derive(Clone, Debug, Default, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
struct Row {
    org_id: String,
    id: String,
    conversation_id: Option<String>,
    run_id: Option<String>,
    provider: Option<String>,
    model: Option<String>,
    status: String,
    attempts: i32,
    prompt_tokens: Option<i64>,
    completion_tokens: Option<i64>,
    estimated: Option<bool>,
    finish_reason: Option<String>,
    queue_ms: Option<i64>,
    ttft_ms: Option<i64>,
    total_ms: Option<i64>,
    tokens_per_sec: Option<f64>,
    error_category: Option<String>,
    error_code: Option<String>,
    requested_at: Option<OffsetDateTime>,
    ended_at: Option<OffsetDateTime>,
    operation: String,
    user_id: Option<String>,
    assistant_id: Option<String>,
    credential_id: Option<String>,
    credential_source: Option<String>,
    input_cost_micros: Option<i64>,
    cost_micros: Option<i64>,
    key_id: Option<String>,
    tags: Json<Vec<String>>,
}

/// One request to a model.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Completion {
    pub id: String,
    pub provider: Option<String>,
    pub model: Option<String>,
    /// `requested`, `running`, `completed`, `failed` or `cancelled`.
    pub status: String,
    pub attempts: i32,
    pub prompt_tokens: Option<i64>,
    pub completion_tokens: Option<i64>,
    /// Tokens counted by us, not by the provider.
    pub estimated: Option<bool>,
    pub finish_reason: Option<String>,
    pub queue_ms: Option<i64>,
    pub ttft_ms: Option<i64>,
    pub total_ms: Option<i64>,
    pub tokens_per_sec: Option<f64>,
    pub error_category: Option<String>,
    pub error_code: Option<String>,
    pub requested_at: OffsetDateTime,
    pub ended_at: Option<OffsetDateTime>,
    pub operation: String,
    /// Whose keys and budgets count.
    pub user_id: Option<String>,
    pub assistant_id: Option<String>,
    pub credential_id: Option<String>,
    /// `personal`, `org-wide` or `none`.
    pub credential_source: Option<String>,
    /// Millionths of a US dollar; none where no price is known.
    pub cost_micros: Option<i64>,
    /// The API key that it was asked with.
    pub key_id: Option<String>,
    /// Words of the asker's own.
    pub tags: Json<Vec<String>>,
}

/// The completions of a rule run, in the order of asking.
pub async fn completions_of_run(
    conn: &mut PgConnection,
    org: &str,
    run_id: &str,
) -> Result<Vec<Completion>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM integrations.completions WHERE org_id = $1 AND run_id = $2 ORDER BY requested_at, id")
        .bind(org)
        .bind(run_id)
        .fetch_all(conn)
        .await
}

/// One request by its id.
pub async fn completion(conn: &mut PgConnection, org: &str, id: &str) -> Result<Option<Completion>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM integrations.completions WHERE org_id = $1 AND id = $2")
        .bind(org)
        .bind(id)
        .fetch_optional(conn)
        .await
}

type Rows = BTreeMap<(String, String), Option<Row>>;

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    let (mut changes, mut rows) = (Vec::with_capacity(events.len()), Rows::new());
    for FoldEvent { event, .. } in events {
        let change = match event.aggregatetype.as_str() {
            CompletionEvent::AGGREGATE => Change::Completion(event.decode()?),
            EmbeddingEvent::AGGREGATE => Change::Embedding(event.decode()?),
            ImageEvent::AGGREGATE => Change::Image(event.decode()?),
            TaskEvent::AGGREGATE => Change::Task(event.decode()?),
            PassthroughEvent::AGGREGATE => Change::Passthrough(event.decode()?),
            _ => continue,
        };
        changes.push((event, change));
        rows.entry((event.orgid.to_string(), event.aggregateid.clone())).or_default();
    }
    if changes.is_empty() {
        return Ok(());
    }
    let (orgs, ids): (Vec<String>, Vec<String>) = rows.keys().cloned().unzip();
    let select =
        "SELECT t.* FROM completions t JOIN unnest($1::text[], $2::text[]) AS k (org_id, id) USING (org_id, id)";
    for row in sqlx::query_as::<_, Row>(select).bind(orgs).bind(ids).fetch_all(&mut *conn).await? {
        rows.insert((row.org_id.clone(), row.id.clone()), Some(row));
    }
    for (event, change) in changes {
        let row = rows.entry((event.orgid.to_string(), event.aggregateid.clone())).or_default();
        match change {
            Change::Completion(change) => apply(row, event, change),
            Change::Embedding(change) => InOnePiece::of_embedding(event, change).apply(row, event),
            Change::Image(change) => InOnePiece::of_image(event, change).apply(row, event),
            Change::Task(change) => InOnePiece::of_task(event, change).apply(row, event),
            Change::Passthrough(change) => passed::apply(row, event, change),
        }
    }
    save(conn, rows.into_values().flatten().collect()).await
}

#[allow(clippy::large_enum_variant, reason = "each is moved once")]
enum Change {
    Completion(CompletionEvent),
    Embedding(EmbeddingEvent),
    Image(ImageEvent),
    Task(TaskEvent),
    Passthrough(PassthroughEvent),
}

pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn apply(row: &mut Option<Row>, event: &Event, change: CompletionEvent) {
    if let CompletionEvent::CompletionRequested(e) = change {
        row.get_or_insert_with(|| Row {
            provider: e.provider.map(text),
            model: e.model.map(text),
            operation: text(e.operation),
            ..Row::requested(event, e.context, e.requested_by)
        });
        return;
    }
    let Some(row) = row else { return };
    match change {
        CompletionEvent::CompletionRequested(_)
        | CompletionEvent::CompletionAdmitted(_)
        | CompletionEvent::CompletionGuarded(_)
        | CompletionEvent::CompletionPartialKept(_)
        | CompletionEvent::CompletionForgotten(_) => {}
        CompletionEvent::CompletionAttemptStarted(e) => {
            row.credential_id = e.credential_id.map(text);
            row.credential_source = Some(text(e.credential_source));
            "running".clone_into(&mut row.status);
            row.attempts = i32::try_from(e.attempt).unwrap_or(i32::MAX);
            row.provider = Some(text(e.provider));
            row.model = Some(text(e.model));
        }
        CompletionEvent::CompletionAttemptFailed(e) => row.failed(name_of(e.category), e.code),
        CompletionEvent::CompletionCompleted(e) => {
            let Spent { usage, cost } = Spent { usage: e.usage, cost: e.cost }.and(e.hedged);
            row.end(event, "completed", Some(usage));
            row.provider = Some(text(e.provider));
            row.model = Some(text(e.model));
            row.finish_reason = Some(name_of(e.finish_reason));
            row.queue_ms = Some(int(e.timing.queue_ms));
            row.ttft_ms = e.timing.ttft_ms.map(int);
            row.total_ms = Some(int(e.timing.total_ms));
            row.tokens_per_sec = e.timing.tokens_per_sec;
            row.costs(cost);
            (row.error_category, row.error_code) = (None, None);
        }
        CompletionEvent::CompletionFailed(e) => {
            let (usage, cost) = with_hedged(e.usage, e.cost, e.hedged);
            row.end(event, "failed", usage);
            row.costs(cost);
            row.failed(name_of(e.category), e.code);
        }
        CompletionEvent::CompletionCancelled(e) => {
            let (usage, cost) = with_hedged(e.usage, None, e.hedged);
            row.end(event, "cancelled", usage);
            row.costs(cost);
            row.error_code = Some(text(e.reason));
        }
    }
}

fn with_hedged(usage: Option<Usage>, cost: Option<Cost>, hedged: Option<Spent>) -> (Option<Usage>, Option<Cost>) {
    let spent = Spent { usage: usage.unwrap_or_default(), cost }.and(hedged);
    (usage.map(|_| spent.usage).or(hedged.map(|hedged| hedged.usage)), spent.cost)
}

/// What becomes of a request that one model answers in one piece.
enum InOnePiece {
    Requested(Box<Row>),
    Completed {
        provider: String,
        model: String,
        usage: Usage,
        cost: Option<Cost>,
        total_ms: u64,
        credential_id: Option<String>,
        credential_source: String,
    },
    /// It may have taken something all the same.
    Failed {
        category: String,
        code: Option<String>,
        usage: Option<Usage>,
        cost: Option<Cost>,
    },
}

impl InOnePiece {
    fn of_embedding(event: &Event, change: EmbeddingEvent) -> Self {
        match change {
            EmbeddingEvent::EmbeddingRequested(e) => InOnePiece::Requested(Box::new(Row {
                provider: e.provider.map(text),
                model: e.model.map(text),
                operation: "embeddings".to_owned(),
                ..Row::requested(event, e.context, e.requested_by)
            })),
            EmbeddingEvent::EmbeddingCompleted(e) => InOnePiece::Completed {
                provider: e.provider,
                model: e.model,
                usage: e.usage,
                cost: e.cost,
                total_ms: e.total_ms,
                credential_id: e.credential_id,
                credential_source: e.credential_source,
            },
            EmbeddingEvent::EmbeddingFailed(e) => {
                InOnePiece::Failed { category: name_of(e.category), code: e.code, usage: None, cost: None }
            }
        }
    }

    fn of_image(event: &Event, change: ImageEvent) -> Self {
        match change {
            ImageEvent::ImageRequested(e) => InOnePiece::Requested(Box::new(Row {
                provider: e.provider.map(text),
                model: e.model.map(text),
                operation: "images.generations".to_owned(),
                ..Row::requested(event, e.context, e.requested_by)
            })),
            ImageEvent::ImageCompleted(e) => InOnePiece::Completed {
                provider: e.provider,
                model: e.model,
                usage: e.usage,
                cost: e.cost,
                total_ms: e.total_ms,
                credential_id: e.credential_id,
                credential_source: e.credential_source,
            },
            ImageEvent::ImageFailed(e) => {
                InOnePiece::Failed { category: name_of(e.category), code: e.code, usage: e.usage, cost: e.cost }
            }
        }
    }

    fn of_task(event: &Event, change: TaskEvent) -> Self {
        match change {
            TaskEvent::TaskRequested(e) => InOnePiece::Requested(Box::new(Row {
                provider: e.provider.map(text),
                model: e.model.map(text),
                operation: e.kind.operation().to_owned(),
                ..Row::requested(event, e.context, e.requested_by)
            })),
            TaskEvent::TaskCompleted(e) => InOnePiece::Completed {
                provider: e.provider,
                model: e.model,
                usage: e.usage,
                cost: e.cost,
                total_ms: e.total_ms,
                credential_id: e.credential_id,
                credential_source: e.credential_source,
            },
            TaskEvent::TaskFailed(e) => {
                InOnePiece::Failed { category: name_of(e.category), code: e.code, usage: e.usage, cost: e.cost }
            }
        }
    }

    fn apply(self, to: &mut Option<Row>, event: &Event) {
        match (self, to) {
            (InOnePiece::Requested(row), to) => _ = to.get_or_insert(*row),
            (_, None) => {}
            (
                InOnePiece::Completed { provider, model, usage, cost, total_ms, credential_id, credential_source },
                Some(row),
            ) => {
                row.attempts = 1;
                row.end(event, "completed", Some(usage));
                row.provider = Some(text(provider));
                row.model = Some(text(model));
                row.total_ms = Some(int(total_ms));
                row.credential_id = credential_id.map(text);
                row.credential_source = Some(text(credential_source));
                row.costs(cost);
            }
            (InOnePiece::Failed { category, code, usage, cost }, Some(row)) => {
                row.attempts = 1;
                row.end(event, "failed", usage);
                row.costs(cost);
                row.failed(category, code);
            }
        }
    }
}

impl Row {
    fn requested(event: &Event, context: CompletionContext, by: String) -> Self {
        Row {
            org_id: event.orgid.to_string(),
            id: event.aggregateid.clone(),
            conversation_id: context.conversation_id.map(text),
            run_id: context.rule_run_id.map(text),
            user_id: Some(text(context.user_id.unwrap_or(by))),
            assistant_id: context.assistant_id.map(text),
            key_id: context.key_id.map(text),
            tags: Json(context.tags.into_iter().map(text).collect()),
            status: "requested".to_owned(),
            requested_at: Some(event.time),
            ..Row::default()
        }
    }

    fn costs(&mut self, cost: Option<Cost>) {
        self.input_cost_micros = cost.map(|cost| int(cost.input_micros));
        self.cost_micros = cost.map(|cost| int(cost.total_micros));
    }

    fn end(&mut self, event: &Event, status: &str, usage: Option<Usage>) {
        status.clone_into(&mut self.status);
        self.ended_at = Some(event.time);
        if let Some(usage) = usage {
            self.prompt_tokens = Some(int(usage.prompt_tokens));
            self.completion_tokens = Some(int(usage.completion_tokens));
            self.estimated = Some(usage.estimated);
        }
    }

    fn failed(&mut self, category: String, code: Option<String>) {
        self.error_category = Some(category);
        self.error_code = code.map(text);
    }
}

async fn save(conn: &mut PgConnection, rows: Vec<Row>) -> Result<(), FoldError> {
    write_columns!(
        conn,
        rows,
        (
            org_id,
            id,
            conversation_id,
            run_id,
            provider,
            model,
            status,
            attempts,
            prompt_tokens,
            completion_tokens,
            estimated,
            finish_reason,
            queue_ms,
            ttft_ms,
            total_ms,
            tokens_per_sec,
            error_category,
            error_code,
            requested_at,
            ended_at,
            operation,
            user_id,
            assistant_id,
            credential_id,
            credential_source,
            input_cost_micros,
            cost_micros,
            key_id,
            tags
        ),
        "INSERT INTO completions (org_id, id, conversation_id, run_id, provider, model, status, attempts, prompt_tokens,
                                  completion_tokens, estimated, finish_reason, queue_ms, ttft_ms, total_ms,
                                  tokens_per_sec, error_category, error_code, requested_at, ended_at, operation,
                                  user_id, assistant_id, credential_id, credential_source, input_cost_micros, cost_micros,
                                  key_id, tags)
         SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                              $8::int[], $9::bigint[], $10::bigint[], $11::boolean[], $12::text[], $13::bigint[],
                              $14::bigint[], $15::bigint[], $16::double precision[], $17::text[], $18::text[],
                              $19::timestamptz[], $20::timestamptz[], $21::text[], $22::text[], $23::text[], $24::text[],
                              $25::text[], $26::bigint[], $27::bigint[], $28::text[], $29::jsonb[])
         ON CONFLICT (org_id, id) DO UPDATE SET provider = excluded.provider, model = excluded.model,
             status = excluded.status, attempts = excluded.attempts, prompt_tokens = excluded.prompt_tokens,
             completion_tokens = excluded.completion_tokens, estimated = excluded.estimated,
             finish_reason = excluded.finish_reason, queue_ms = excluded.queue_ms, ttft_ms = excluded.ttft_ms,
             total_ms = excluded.total_ms, tokens_per_sec = excluded.tokens_per_sec,
             error_category = excluded.error_category, error_code = excluded.error_code, ended_at = excluded.ended_at,
             credential_id = excluded.credential_id, credential_source = excluded.credential_source,
             input_cost_micros = excluded.input_cost_micros, cost_micros = excluded.cost_micros"
    );
    Ok(())
}
