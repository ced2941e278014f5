//! Where participants from outside are told of what they are asked: folded one by one, since they are few.

use sqlx::{FromRow, PgConnection};
use symbia_events::{Event, messaging::WebhookEvent};
use time::OffsetDateTime;

use crate::{FoldError, columns::text};

/// Where a participant is told.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Webhook {
    pub org_id: String,
    /// Whose.
    pub id: String,
    pub url: String,
    /// Where the secret is kept that signs what is sent.
    pub secret_ref: String,
    pub registered_by: String,
    pub registered_at: OffsetDateTime,
}

pub(super) async fn fold(conn: &mut PgConnection, event: &Event, change: WebhookEvent) -> Result<(), FoldError> {
    let (org, id) = (event.orgid.as_str(), &event.aggregateid);
    let query = match change {
        WebhookEvent::WebhookRegistered(e) => sqlx::query(
            "INSERT INTO webhooks (org_id, id, url, secret_ref, registered_by, registered_at)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (org_id, id) DO UPDATE SET url = excluded.url, secret_ref = excluded.secret_ref,
                 registered_by = excluded.registered_by, registered_at = excluded.registered_at",
        )
        .bind(org)
        .bind(id)
        .bind(text(e.url))
        .bind(text(e.secret_ref))
        .bind(text(e.by))
        .bind(event.time),
        WebhookEvent::WebhookRemoved(_) => {
            sqlx::query("DELETE FROM webhooks WHERE org_id = $1 AND id = $2").bind(org).bind(id)
        }
    };
    query.execute(conn).await?;
    Ok(())
}

/// Where these principals of an organization are told; those that have named no address are missing.
pub async fn webhooks_of(
    conn: &mut PgConnection,
    org: &str,
    principals: &[String],
) -> Result<Vec<Webhook>, sqlx::Error> {
    let select = "SELECT * FROM messaging.webhooks WHERE org_id = $1 AND id = ANY($2) ORDER BY id";
    sqlx::query_as(select).bind(org).bind(principals).fetch_all(conn).await
}

/// All of an organization.
pub async fn webhooks(conn: &mut PgConnection, org: &str) -> Result<Vec<Webhook>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM messaging.webhooks WHERE org_id = $1 ORDER BY id").bind(org).fetch_all(conn).await
}
