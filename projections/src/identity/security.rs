//! How an account is guarded beside its password: address, lock, second factor; and blocked identifiers.

use sqlx::PgConnection;
use symbia_events::identity::{SignInEvent, UserEvent};
use time::OffsetDateTime;

use super::fold::instant;
use super::fold::{Keys, text};
use crate::FoldEvent;

/// Adds the row, or changes the named columns of it.
macro_rules! set {
    ($conn:expr, $event:expr, $($column:literal = $value:expr),+ $(,)?) => {{
        let columns = [$($column),+];
        let places = (3..columns.len() + 3).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ");
        let updates = columns.map(|c| format!("{c} = excluded.{c}")).join(", ");
        let sql = format!(
            "INSERT INTO user_security (user_id, org_id, {}) VALUES ($1, $2, {places}) ON CONFLICT (user_id) DO UPDATE SET {updates}",
            columns.join(", "),
        );
        // The names are the literals above.
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(&$event.event.aggregateid)
            .bind($event.event.orgid.as_str())
            $(.bind($value))+
            .execute(&mut *$conn)
            .await?;
    }};
}

pub(super) async fn user(
    conn: &mut PgConnection,
    event: &FoldEvent,
    change: &UserEvent,
    keys: &Keys,
) -> Result<(), sqlx::Error> {
    const NONE: Option<String> = None;
    const NEVER: Option<OffsetDateTime> = None;
    match change {
        UserEvent::EmailChangeRequested(e) => {
            set!(conn, event, "pending_email" = keys.open(&e.new_email), "pending_until" = instant(&e.expires_at));
        }
        UserEvent::UserEmailChanged(_) | UserEvent::UserEmailVerified(_) => {
            set!(conn, event, "email_verified" = true, "pending_email" = NONE, "pending_until" = NEVER);
        }
        UserEvent::UserLocked(e) => {
            let until = e.until.as_deref().and_then(instant);
            let reason = text(e.reason.clone());
            set!(conn, event, "locked_at" = event.event.time, "locked_until" = until, "lock_reason" = reason);
        }
        UserEvent::UserUnlocked(_) => {
            set!(conn, event, "locked_at" = NEVER, "locked_until" = NEVER, "lock_reason" = NONE);
        }
        UserEvent::MfaEnrolled(e) => {
            set!(
                conn,
                event,
                "mfa_secret_ref" = text(e.secret_ref.clone()),
                "mfa_confirmed" = false,
                "recovery_left" = 0
            );
        }
        UserEvent::MfaConfirmed(e) => {
            let left = i32::try_from(e.recovery_hashes.len()).unwrap_or(i32::MAX);
            set!(
                conn,
                event,
                "mfa_secret_ref" = text(e.secret_ref.clone()),
                "mfa_confirmed" = true,
                "recovery_left" = left
            );
        }
        UserEvent::RecoveryCodeUsed(e) => {
            sqlx::query("UPDATE user_security SET recovery_left = recovery_left - 1 WHERE user_id = $1")
                .bind(&e.user_id)
                .execute(conn)
                .await?;
        }
        UserEvent::MfaRemoved(_) => {
            set!(conn, event, "mfa_secret_ref" = NONE, "mfa_confirmed" = false, "recovery_left" = 0);
        }
        UserEvent::UserDeleted(e) => {
            sqlx::query("DELETE FROM user_security WHERE user_id = $1").bind(&e.user_id).execute(conn).await?;
        }
        _ => {}
    }
    Ok(())
}

pub(super) async fn sign_in(
    conn: &mut PgConnection,
    event: &FoldEvent,
    change: &SignInEvent,
) -> Result<(), sqlx::Error> {
    match change {
        SignInEvent::SignInFailed(_) => {}
        SignInEvent::SignInBlocked(e) => {
            sqlx::query(
                "INSERT INTO sign_in_blocks (identifier_key, org_id, until) VALUES ($1, $2, $3)
                 ON CONFLICT (identifier_key) DO UPDATE SET until = excluded.until",
            )
            .bind(&e.identifier_key)
            .bind(event.event.orgid.as_str())
            .bind(instant(&e.until).unwrap_or(event.event.time))
            .execute(conn)
            .await?;
        }
        SignInEvent::SignInUnblocked(e) => {
            let delete = sqlx::query("DELETE FROM sign_in_blocks WHERE identifier_key = $1");
            delete.bind(&e.identifier_key).execute(conn).await?;
        }
    }
    Ok(())
}

/// How an account is guarded.
#[derive(Clone, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Security {
    /// The address was confirmed.
    pub email_verified: bool,
    /// The address that waits for its confirmation.
    pub pending_email: Option<String>,
    /// Until when it can be confirmed.
    pub pending_until: Option<OffsetDateTime>,
    /// Since when the account is locked.
    pub locked_at: Option<OffsetDateTime>,
    /// Until when; without it, until it is unlocked.
    pub locked_until: Option<OffsetDateTime>,
    /// Why.
    pub lock_reason: Option<String>,
    /// Where the secret store keeps the second factor's secret.
    pub mfa_secret_ref: Option<String>,
    /// Whether signing in takes the second factor.
    pub mfa_confirmed: bool,
    /// Recovery codes that were not used.
    pub recovery_left: i32,
}

impl Security {
    /// Whether the account is locked at a time.
    #[must_use]
    pub fn is_locked(&self, at: OffsetDateTime) -> bool {
        self.locked_at.is_some() && self.locked_until.is_none_or(|until| until > at)
    }
}

/// How an account is guarded, by user id.
pub async fn security(conn: &mut PgConnection, user_id: &str) -> Result<Security, sqlx::Error> {
    let row = sqlx::query_as(
        "SELECT email_verified, pending_email, pending_until, locked_at, locked_until, lock_reason, mfa_secret_ref,
                mfa_confirmed, recovery_left
         FROM identity.user_security WHERE user_id = $1",
    );
    Ok(row.bind(user_id).fetch_optional(conn).await?.unwrap_or_default())
}

/// Until when nobody signs in under an identifier.
pub async fn sign_in_block(
    conn: &mut PgConnection,
    identifier_key: &str,
    at: OffsetDateTime,
) -> Result<Option<OffsetDateTime>, sqlx::Error> {
    sqlx::query_scalar("SELECT until FROM identity.sign_in_blocks WHERE identifier_key = $1 AND until > $2")
        .bind(identifier_key)
        .bind(at)
        .fetch_optional(conn)
        .await
}
