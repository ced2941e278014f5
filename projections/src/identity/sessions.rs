//! Sessions as the identity routes need them.

use sqlx::PgConnection;
use time::OffsetDateTime;

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Session {
    /// Id.
    pub id: String,
    /// Whose.
    pub principal_id: String,
    /// `user` or `agent`.
    pub principal_type: String,
    /// How the principal signed in.
    pub method: String,
    /// From where, `None` when the person's key was destroyed.
    pub client_ip: Option<String>,
    /// With what, `None` when the person's key was destroyed.
    pub user_agent: Option<String>,
    /// How often it was refreshed.
    pub generation: i32,
    /// When it began.
    pub created_at: OffsetDateTime,
    /// When it was last refreshed.
    pub refreshed_at: OffsetDateTime,
    /// When it ends by itself.
    pub expires_at: Option<OffsetDateTime>,
    /// When it was ended.
    pub revoked_at: Option<OffsetDateTime>,
    /// Why.
    pub revoked_reason: Option<String>,
    /// What the principal's sessions must be younger than.
    pub cut_off: Option<OffsetDateTime>,
}

impl Session {
    /// Whether it was ended, alone or with all others of its principal.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.revoked_at.is_some() || self.cut_off.is_some_and(|before| self.created_at <= before)
    }

    /// Whether its tokens are accepted at a time.
    #[must_use]
    pub fn is_live(&self, at: OffsetDateTime) -> bool {
        !self.is_revoked() && self.expires_at.is_some_and(|end| end > at)
    }
}

/// A session by id, also when it has ended.
pub async fn session(conn: &mut PgConnection, id: &str) -> Result<Option<Session>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, principal_id, principal_type, method, client_ip, user_agent, generation, created_at, refreshed_at,
                expires_at, revoked_at, revoked_reason,
                (SELECT before FROM identity.session_cutoffs c WHERE c.principal_id = sessions.principal_id) AS cut_off
         FROM identity.sessions WHERE id = $1",
    )
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// The sessions of a principal that live at a time, the newest first.
pub async fn sessions_of(
    conn: &mut PgConnection,
    principal_id: &str,
    at: OffsetDateTime,
) -> Result<Vec<Session>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, principal_id, principal_type, method, client_ip, user_agent, generation, created_at, refreshed_at,
                expires_at, revoked_at, revoked_reason,
                (SELECT before FROM identity.session_cutoffs c WHERE c.principal_id = sessions.principal_id) AS cut_off
         FROM identity.sessions WHERE principal_id = $1 AND revoked_at IS NULL AND expires_at > $2
           AND NOT EXISTS (SELECT FROM identity.session_cutoffs c
                           WHERE c.principal_id = sessions.principal_id AND sessions.created_at <= c.before)
         ORDER BY created_at DESC",
    )
    .bind(principal_id)
    .bind(at)
    .fetch_all(conn)
    .await
}
