//! Budgets: folding their events, and reading them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection, types::Json};
use symbia_events::{DomainEvent, Event, integrations::BudgetEvent};
use time::OffsetDateTime;

use super::completions::int;
use crate::{
    FoldError, FoldEvent,
    columns::{name_of, text},
};

/// A budget, and what it came to.
#[derive(Clone, Debug, PartialEq, FromRow, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Budget {
    pub org_id: String,
    pub id: String,
    /// `org`, `user`, `key`, `assistant` or `model`.
    pub scope: String,
    pub subject: Option<String>,
    /// `minute`, `day`, `month`, `total` or `parallel`.
    pub period: String,
    /// `micros`, `tokens` or `requests`.
    pub unit: String,
    pub limit: i64,
    /// The period that `spent` belongs to.
    pub window: Option<String>,
    pub spent: i64,
    /// What is kept for requests under way.
    pub reserved: Json<BTreeMap<String, u64>>,
    pub updated_at: OffsetDateTime,
    /// Requests that it refused, as a limit of a minute or of what is under way.
    pub refused: i64,
    pub refused_at: Option<OffsetDateTime>,
}

/// The budgets of an organization, the widest first.
pub async fn budgets(conn: &mut PgConnection, org: &str) -> Result<Vec<Budget>, sqlx::Error> {
    let select = "SELECT * FROM integrations.budgets WHERE org_id = $1
                  ORDER BY array_position(ARRAY['org', 'user', 'key', 'assistant', 'model'], scope), subject, id LIMIT 1000";
    sqlx::query_as(select).bind(org).fetch_all(conn).await
}

/// A budget by its id.
pub async fn budget(conn: &mut PgConnection, org: &str, id: &str) -> Result<Option<Budget>, sqlx::Error> {
    let select = "SELECT * FROM integrations.budgets WHERE org_id = $1 AND id = $2";
    sqlx::query_as(select).bind(org).bind(id).fetch_optional(conn).await
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    let mut rows: BTreeMap<(String, String), Option<Budget>> = BTreeMap::new();
    let mut changes = Vec::new();
    for FoldEvent { event, .. } in events.iter().filter(|e| e.event.aggregatetype == BudgetEvent::AGGREGATE) {
        changes.push((event, event.decode::<BudgetEvent>()?));
        rows.entry((event.orgid.to_string(), event.aggregateid.clone())).or_default();
    }
    if changes.is_empty() {
        return Ok(());
    }
    let (orgs, ids): (Vec<String>, Vec<String>) = rows.keys().cloned().unzip();
    let select = "SELECT t.* FROM budgets t JOIN unnest($1::text[], $2::text[]) AS k (org_id, id) USING (org_id, id)";
    for row in sqlx::query_as::<_, Budget>(select).bind(orgs).bind(ids).fetch_all(&mut *conn).await? {
        rows.insert((row.org_id.clone(), row.id.clone()), Some(row));
    }
    for (event, change) in changes {
        let row = rows.entry((event.orgid.to_string(), event.aggregateid.clone())).or_default();
        apply(row, event, change);
    }
    // A handful: every request of an organization goes through the same few.
    for ((org, id), row) in rows {
        match row {
            Some(row) => save(conn, row).await?,
            None => {
                sqlx::query("DELETE FROM budgets WHERE org_id = $1 AND id = $2")
                    .bind(org)
                    .bind(id)
                    .execute(&mut *conn)
                    .await?;
            }
        }
    }
    Ok(())
}

fn apply(row: &mut Option<Budget>, event: &Event, change: BudgetEvent) {
    if let BudgetEvent::BudgetSet(e) = change {
        let budget = row.get_or_insert_with(|| Budget {
            org_id: event.orgid.to_string(),
            id: event.aggregateid.clone(),
            scope: name_of(e.scope),
            subject: e.subject.map(text),
            period: name_of(e.period),
            unit: name_of(e.unit),
            limit: 0,
            window: None,
            spent: 0,
            reserved: Json::default(),
            updated_at: event.time,
            refused: 0,
            refused_at: None,
        });
        budget.limit = int(e.limit);
        budget.updated_at = event.time;
        return;
    }
    if let BudgetEvent::BudgetRemoved(_) = change {
        *row = None;
        return;
    }
    let Some(budget) = row else { return };
    budget.updated_at = event.time;
    match change {
        BudgetEvent::BudgetReserved(e) => _ = budget.reserved.insert(e.request_id, e.amount),
        BudgetEvent::BudgetSettled(e) => {
            budget.reserved.remove(&e.request_id);
            budget.spent = int(e.spent);
            budget.window = Some(text(e.window));
        }
        BudgetEvent::BudgetReset(_) => budget.spent = 0,
        BudgetEvent::RateLimitExceeded(e) => {
            budget.refused = budget.refused.saturating_add(int(e.refused));
            budget.refused_at = Some(event.time);
        }
        BudgetEvent::BudgetSet(_) | BudgetEvent::BudgetExhausted(_) | BudgetEvent::BudgetRemoved(_) => {}
    }
}

async fn save(conn: &mut PgConnection, row: Budget) -> Result<(), sqlx::Error> {
    let upsert = r#"INSERT INTO budgets (org_id, id, scope, subject, period, unit, "limit", "window", spent, reserved, updated_at,
                                         refused, refused_at)
                    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
                    ON CONFLICT (org_id, id) DO UPDATE SET "limit" = excluded."limit", "window" = excluded."window",
                        spent = excluded.spent, reserved = excluded.reserved, updated_at = excluded.updated_at,
                        refused = excluded.refused, refused_at = excluded.refused_at"#;
    sqlx::query(upsert)
        .bind(row.org_id)
        .bind(row.id)
        .bind(row.scope)
        .bind(row.subject)
        .bind(row.period)
        .bind(row.unit)
        .bind(row.limit)
        .bind(row.window)
        .bind(row.spent)
        .bind(row.reserved)
        .bind(row.updated_at)
        .bind(row.refused)
        .bind(row.refused_at)
        .execute(conn)
        .await
        .map(|_| ())
}
