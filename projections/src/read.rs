//! Reading: connections that see only what the asker may see (platform.md §7.5).

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, Executor, PgPool, Postgres, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use symbia_events::{InvalidToken, OrgId, check_token};

/// Who asks. An empty scope sees no rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The tenant asked about.
    pub org: Option<OrgId>,
    /// The acting principal.
    pub user: Option<String>,
    /// Sees every tenant: operators, and the platform for itself.
    pub bypass: bool,
}

impl Scope {
    /// The platform asking for itself.
    #[must_use]
    pub fn platform() -> Self {
        Scope { bypass: true, ..Scope::default() }
    }

    /// A principal asking about what is its own.
    pub fn user(user: impl Into<String>) -> Self {
        Scope { user: Some(user.into()), ..Scope::default() }
    }

    /// A principal asking about an organization.
    pub fn member(org: OrgId, user: impl Into<String>) -> Self {
        Scope { org: Some(org), user: Some(user.into()), bypass: false }
    }

    // Tokens hold no quotes, so that they can stand in the statement that begins the transaction.
    fn begin(&self) -> Result<String, InvalidToken> {
        let user = self.user.as_deref().map(check_token).transpose()?.unwrap_or_default();
        let org = self.org.as_ref().map(OrgId::as_str).unwrap_or_default();
        let bypass = if self.bypass { "on" } else { "off" };
        Ok(format!(
            "BEGIN READ ONLY; SET LOCAL symbia.org_id = '{org}'; SET LOCAL symbia.user_id = '{user}'; \
             SET LOCAL symbia.bypass = '{bypass}'"
        ))
    }
}

/// Why nothing can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The principal's id is none.
    #[error(transparent)]
    Principal(#[from] InvalidToken),
    /// The database refused or is away.
    #[error("the read models cannot be read: {0}")]
    Database(#[from] sqlx::Error),
}

/// Connections in the reader's role.
#[derive(Clone, Debug)]
pub struct ReadPool(PgPool);

impl ReadPool {
    /// A pool that connects when it is first used.
    #[must_use]
    pub fn new(options: PgConnectOptions, max_connections: u32) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(Duration::from_secs(5))
            // Beginning a transaction is the test.
            .test_before_acquire(false)
            .after_connect(|conn, _| {
                Box::pin(async move { conn.execute("SET ROLE symbia_reader; SET jit = off").await.map(|_| ()) })
            })
            .connect_lazy_with(options);
        ReadPool(pool)
    }

    /// A read-only transaction in which the scope holds. It ends when it is dropped.
    pub async fn read(&self, scope: &Scope) -> Result<Transaction<'static, Postgres>, ReadError> {
        let begin = scope.begin()?;
        let mut dead = 0;
        loop {
            match self.0.begin_with(AssertSqlSafe(begin.clone())).await {
                // Since it was used last, the server has ended it; so it may have all others.
                Err(error) if ended(&error) && dead < self.0.options().get_max_connections() => dead += 1,
                begun => return Ok(begun?),
            }
        }
    }

    /// The pool itself: a statement outside of [`ReadPool::read`] has no scope and sees no tenant's rows.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.0
    }
}

/// Whether a connection turned out to be one no longer: it broke, or the server says that it stops (class 57P of SQLSTATE).
pub(crate) fn ended(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57P")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_that_would_break_out_of_the_statement_is_refused() {
        assert!(Scope::user("x'; RESET ROLE; --").begin().is_err());
        let begin = Scope::member("acme".parse().unwrap(), "ada").begin().unwrap();
        assert!(begin.contains("symbia.org_id = 'acme'") && begin.contains("symbia.bypass = 'off'"));
    }
}
