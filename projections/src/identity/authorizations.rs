//! Authorizations of clients: how their events change the rows, and reading them.

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json};
use symbia_events::{DomainEvent, identity::AuthorizationEvent};
use time::{OffsetDateTime, serde::rfc3339};

use super::table::{Row, Table, deletes_user};
use crate::{FoldError, FoldEvent};

/// What a client may do in a person's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// Id.
    pub id: String,
    /// Always `global`.
    pub org_id: String,
    /// The person.
    pub user_id: String,
    /// The client.
    pub client_id: String,
    /// A ceiling.
    pub scopes: Vec<String>,
    /// For which resource its tokens are.
    pub resource: String,
    /// The session that its code became.
    pub session_id: Option<String>,
    /// When the person agreed.
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

impl Row for Authorization {
    const TABLE: &'static str = "authorizations";
    fn id(&self) -> &str {
        &self.id
    }
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    let ids = |which: &dyn Fn(&FoldEvent) -> bool| -> Vec<String> {
        events.iter().filter(|e| which(e)).map(|e| e.event.aggregateid.clone()).collect()
    };
    let own = ids(&|e| e.event.aggregatetype == AuthorizationEvent::AGGREGATE);
    let gone = ids(&|e| deletes_user(&e.event));
    if own.is_empty() && gone.is_empty() {
        return Ok(());
    }
    let mut rows = Table::<Authorization>::load(conn, &[("id", own), ("user_id", gone)]).await?;
    for FoldEvent { event, .. } in events {
        if deletes_user(event) {
            rows.remove(|row| row.user_id == event.aggregateid);
        }
        if event.aggregatetype != AuthorizationEvent::AGGREGATE {
            continue;
        }
        let change = event.decode()?;
        let named = match &change {
            AuthorizationEvent::AuthorizationGranted(e) => &e.authorization_id,
            AuthorizationEvent::AuthorizationRedeemed(e) => &e.authorization_id,
            AuthorizationEvent::AuthorizationReuseDetected(e) => &e.authorization_id,
        };
        if *named != event.aggregateid {
            return Err(FoldError::Event(format!("a {} of {} that names {named}", event.event_type, event.subject)));
        }
        match change {
            AuthorizationEvent::AuthorizationGranted(e) => {
                rows.add(Authorization {
                    id: e.authorization_id,
                    org_id: event.orgid.to_string(),
                    user_id: e.user_id,
                    client_id: e.client_id,
                    scopes: e.scopes,
                    resource: e.resource,
                    session_id: None,
                    created_at: event.time,
                });
            }
            AuthorizationEvent::AuthorizationRedeemed(e) => {
                if let Some(row) = rows.get_mut(&e.authorization_id) {
                    row.session_id = Some(e.session_id);
                }
            }
            AuthorizationEvent::AuthorizationReuseDetected(_) => {}
        }
    }
    rows.save(conn).await
}

/// An authorization by id.
pub async fn authorization_by_id(conn: &mut PgConnection, id: &str) -> Result<Option<Authorization>, sqlx::Error> {
    let select = "SELECT to_jsonb(a) FROM identity.authorizations a WHERE id = $1";
    let row: Option<Json<Authorization>> = sqlx::query_scalar(select).bind(id).fetch_optional(conn).await?;
    Ok(row.map(|Json(row)| row))
}

/// The authorization of a client's session.
pub async fn authorization_of(conn: &mut PgConnection, session: &str) -> Result<Option<Authorization>, sqlx::Error> {
    let select = "SELECT to_jsonb(a) FROM identity.authorizations a WHERE session_id = $1";
    let row: Option<Json<Authorization>> = sqlx::query_scalar(select).bind(session).fetch_optional(conn).await?;
    Ok(row.map(|Json(row)| row))
}
