//! Plans.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Number;
use sqlx::{PgConnection, types::Json};
use symbia_events::{Event, identity::PlanEvent};
use time::{OffsetDateTime, serde::rfc3339};

use super::super::table::{Row, Table};

/// A plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Plan {
    pub id: String,
    pub org_id: String,
    pub name: String,
    pub features: Vec<String>,
    pub limits: BTreeMap<String, Number>,
    pub price_cents: i64,
    /// No organization gets it any more.
    pub retired: bool,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

impl Row for Plan {
    const TABLE: &'static str = "plans";
    fn id(&self) -> &str {
        &self.id
    }
}

impl Plan {
    /// A limit; `None` when there is none. The original and its seeds name some limits differently.
    #[must_use]
    pub fn limit(&self, names: &[&str]) -> Option<u32> {
        let limit = names.iter().find_map(|name| self.limits.get(*name))?.as_f64()?;
        // A negative number is no limit; the cast saturates.
        (limit >= 0.0).then_some(limit as u32)
    }

    /// Most members of an organization that has it.
    #[must_use]
    pub fn member_limit(&self) -> Option<u32> {
        self.limit(&["members", "users"])
    }
}

pub(super) fn apply(plans: &mut Table<Plan>, event: &Event, change: PlanEvent) {
    match change {
        PlanEvent::PlanCreated(e) => {
            plans.add(Plan {
                id: event.aggregateid.clone(),
                org_id: event.orgid.to_string(),
                name: e.name,
                features: e.features,
                limits: e.limits,
                price_cents: e.price_cents.into(),
                retired: false,
                created_at: event.time,
            });
        }
        PlanEvent::PlanUpdated(e) => {
            let Some(plan) = plans.get_mut(&event.aggregateid) else { return };
            (plan.name, plan.features, plan.limits) = (e.name, e.features, e.limits);
            plan.price_cents = e.price_cents.into();
        }
        PlanEvent::PlanRetired(_) => {
            if let Some(plan) = plans.get_mut(&event.aggregateid) {
                plan.retired = true;
            }
        }
    }
}

/// A plan by id, also a retired one.
pub async fn plan(conn: &mut PgConnection, id: &str) -> Result<Option<Plan>, sqlx::Error> {
    one(conn, "SELECT to_jsonb(p) FROM identity.plans p WHERE id = $1", id).await
}

/// A plan that organizations can get, by name.
pub async fn plan_by_name(conn: &mut PgConnection, name: &str) -> Result<Option<Plan>, sqlx::Error> {
    one(conn, "SELECT to_jsonb(p) FROM identity.plans p WHERE name = $1 AND NOT retired", name).await
}

async fn one(conn: &mut PgConnection, select: &'static str, key: &str) -> Result<Option<Plan>, sqlx::Error> {
    let found: Option<Json<Plan>> = sqlx::query_scalar(select).bind(key).fetch_optional(conn).await?;
    Ok(found.map(|Json(plan)| plan))
}

/// The plans that organizations can get, the oldest first, behind the given one.
pub async fn plans(
    conn: &mut PgConnection,
    after: Option<(OffsetDateTime, &str)>,
    limit: i64,
) -> Result<Vec<Plan>, sqlx::Error> {
    let (at, id) = after.unwrap_or((OffsetDateTime::UNIX_EPOCH, ""));
    let found: Vec<Json<Plan>> = sqlx::query_scalar(
        "SELECT to_jsonb(p) FROM identity.plans p WHERE NOT retired AND (created_at, id) > ($1, $2)
         ORDER BY created_at, id LIMIT $3",
    )
    .bind(at)
    .bind(id)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(found.into_iter().map(|Json(plan)| plan).collect())
}
