//! Pending invitations.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json};
use symbia_events::{Event, SubjectKey, identity::MemberInvited};
use time::{OffsetDateTime, serde::rfc3339};

use super::{
    super::table::{Row, Table},
    instant,
};

/// An invitation that was neither accepted nor revoked; it may have expired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as in the events")]
pub struct Invitation {
    pub id: String,
    pub org_id: String,
    /// `None` when its key was destroyed.
    pub email: Option<String>,
    pub role: String,
    pub invited_by: String,
    pub token_hash: String,
    #[serde(with = "rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

impl Row for Invitation {
    const TABLE: &'static str = "invitations";
    fn id(&self) -> &str {
        &self.id
    }
}

pub(super) fn invited(
    invitations: &mut Table<Invitation>,
    event: &Event,
    e: MemberInvited,
    keys: &HashMap<String, SubjectKey>,
) {
    invitations.add(Invitation {
        id: e.invitation_id,
        org_id: event.orgid.to_string(),
        email: keys.get(&e.email.kid).and_then(|key| key.open(&e.email).ok()),
        role: e.role,
        invited_by: e.by,
        token_hash: e.token_hash,
        expires_at: instant(Some(&e.expires_at)),
        created_at: event.time,
    });
}

/// The pending invitations of an organization, the oldest first.
pub async fn invitations(conn: &mut PgConnection, org_id: &str) -> Result<Vec<Invitation>, sqlx::Error> {
    let found: Vec<Json<Invitation>> =
        sqlx::query_scalar("SELECT to_jsonb(i) FROM identity.invitations i WHERE org_id = $1 ORDER BY created_at, id")
            .bind(org_id)
            .fetch_all(conn)
            .await?;
    Ok(found.into_iter().map(|Json(invitation)| invitation).collect())
}

/// A pending invitation of an organization.
pub async fn invitation(conn: &mut PgConnection, org_id: &str, id: &str) -> Result<Option<Invitation>, sqlx::Error> {
    let found: Option<Json<Invitation>> =
        sqlx::query_scalar("SELECT to_jsonb(i) FROM identity.invitations i WHERE org_id = $1 AND id = $2")
            .bind(org_id)
            .bind(id)
            .fetch_optional(conn)
            .await?;
    Ok(found.map(|Json(invitation)| invitation))
}

/// The pending invitation that a token is for, by the token's hash.
pub async fn invitation_by_token(conn: &mut PgConnection, token_hash: &str) -> Result<Option<Invitation>, sqlx::Error> {
    let found: Option<Json<Invitation>> =
        sqlx::query_scalar("SELECT to_jsonb(i) FROM identity.invitations i WHERE token_hash = $1")
            .bind(token_hash)
            .fetch_optional(conn)
            .await?;
    Ok(found.map(|Json(invitation)| invitation))
}
