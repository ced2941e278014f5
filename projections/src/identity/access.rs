//! What decides whether a credential still counts: cut-offs of sessions, the keys that tokens are signed with.
//!
//! These events are rare and their rows depend on nothing else, so each is one statement.

use sqlx::PgConnection;
use symbia_events::identity::{SigningKeyEvent, UserEvent};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    fold::{Change, Keys, text},
    security,
};
use crate::FoldEvent;

fn instant(text: &str, otherwise: OffsetDateTime) -> OffsetDateTime {
    OffsetDateTime::parse(text, &Rfc3339).unwrap_or(otherwise)
}

pub(super) async fn fold(
    conn: &mut PgConnection,
    events: &[FoldEvent],
    changes: &[Change],
    keys: &Keys,
) -> Result<(), sqlx::Error> {
    for (event, change) in events.iter().zip(changes) {
        let at = event.event.time;
        if let Change::User(change) = change {
            security::user(conn, event, change, keys).await?;
        }
        match change {
            Change::User(UserEvent::SessionsRevoked(e)) => {
                cut_off(conn, &e.principal_id, event.event.orgid.as_str(), instant(&e.before, at)).await?;
            }
            Change::User(UserEvent::UserDeleted(e)) => {
                cut_off(conn, &e.user_id, event.event.orgid.as_str(), at).await?;
            }
            Change::SigningKeys(change) => signing_key(conn, event, change).await?,
            Change::SignIn(change) => security::sign_in(conn, event, change).await?,
            _ => {}
        }
    }
    Ok(())
}

/// Sessions of a principal that began at `before` or earlier count no longer. Also for the principals of other aggregates.
pub(super) async fn cut_off(
    conn: &mut PgConnection,
    principal_id: &str,
    org_id: &str,
    before: OffsetDateTime,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO session_cutoffs (principal_id, org_id, before) VALUES ($1, $2, $3)
         ON CONFLICT (principal_id) DO UPDATE SET before = greatest(session_cutoffs.before, excluded.before)",
    )
    .bind(principal_id)
    .bind(org_id)
    .bind(before)
    .execute(conn)
    .await?;
    Ok(())
}

async fn signing_key(conn: &mut PgConnection, event: &FoldEvent, change: &SigningKeyEvent) -> Result<(), sqlx::Error> {
    let at = event.event.time;
    let query = match change {
        SigningKeyEvent::SigningKeyActivated(e) => sqlx::query(
            "INSERT INTO signing_keys (kid, org_id, alg, public_x, private_key_ref, not_before)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (kid) DO NOTHING",
        )
        .bind(text(e.kid.clone()))
        .bind(event.event.orgid.as_str())
        .bind(text(e.alg.clone()))
        .bind(text(e.public_jwk.x.clone()))
        .bind(text(e.private_key_ref.clone()))
        .bind(instant(&e.not_before, at)),
        SigningKeyEvent::SigningKeyRetired(e) => {
            sqlx::query("UPDATE signing_keys SET retired_at = $2, verify_until = $3 WHERE kid = $1")
                .bind(text(e.kid.clone()))
                .bind(instant(&e.retired_at, at))
                .bind(instant(&e.verify_until, at))
        }
    };
    query.execute(conn).await?;
    Ok(())
}

/// A key that tokens are or were signed with.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct SigningKey {
    /// Its id.
    pub kid: String,
    /// Its Ed25519 public key, base64url.
    pub public_x: String,
    /// Where the secret store keeps the private part.
    pub private_key_ref: String,
    /// Since when it signs.
    pub not_before: OffsetDateTime,
    /// Since when it signs no more.
    pub retired_at: Option<OffsetDateTime>,
    /// Until when what it signed counts.
    pub verify_until: Option<OffsetDateTime>,
}

/// The keys whose tokens count at a time, the one that signs first.
pub async fn signing_keys(conn: &mut PgConnection, at: OffsetDateTime) -> Result<Vec<SigningKey>, sqlx::Error> {
    sqlx::query_as(
        "SELECT kid, public_x, private_key_ref, not_before, retired_at, verify_until FROM identity.signing_keys
         WHERE verify_until IS NULL OR verify_until > $1 ORDER BY retired_at DESC NULLS FIRST",
    )
    .bind(at)
    .fetch_all(conn)
    .await
}
