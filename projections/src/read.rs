//! Reading: connections that see only what the asker may see (platform.md §7.5).

use std::{
    fmt,
    ops::{Deref, DerefMut},
    time::{Duration, Instant},
};

use deadpool::{
    Runtime,
    managed::{Manager, Metrics, Object, Pool, PoolError, RecycleResult},
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, postgres::PgConnectOptions};
use symbia_events::{InvalidToken, OrgId, check_token};

/// How long a reader waits for a connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// A connection whose scope was set so recently is given to the same scope again without a question to the server, which would
/// have told that it is gone.
const FRESH: Duration = Duration::from_millis(500);

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

    // Tokens hold no quotes, so that they can stand in the statement.
    fn set(&self) -> Result<String, InvalidToken> {
        let user = self.user.as_deref().map(check_token).transpose()?.unwrap_or_default();
        let org = self.org.as_ref().map(OrgId::as_str).unwrap_or_default();
        let bypass = if self.bypass { "on" } else { "off" };
        Ok(format!("SET symbia.org_id = '{org}'; SET symbia.user_id = '{user}'; SET symbia.bypass = '{bypass}'"))
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
///
/// A scope is set for the session when a connection is taken, and a connection is given back as it is: the transaction that
/// would end the scope, and the test that a pool of sqlx makes of what comes back, are a round trip each, for every question.
/// Nobody gets a connection but with a scope of their own; who asks again at once finds it set.
#[derive(Clone, Debug)]
pub struct ReadPool(Pool<Connect>);

struct Connect(PgConnectOptions);

/// A connection, and the scope that was set last, when.
#[derive(Debug)]
struct Connected {
    connection: PgConnection,
    set: Option<(String, Instant)>,
}

impl Connected {
    // Whatever ends this call early leaves a connection without a scope.
    async fn enter(&mut self, set: &str) -> Result<(), sqlx::Error> {
        let last = self.set.take();
        if let Some((last, at)) = last.filter(|(last, at)| last == set && at.elapsed() < FRESH) {
            self.set = Some((last, at));
            return Ok(());
        }
        self.connection.execute(AssertSqlSafe(set.to_owned())).await?;
        self.set = Some((set.to_owned(), Instant::now()));
        Ok(())
    }
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect").field("database", &self.0.get_database()).finish_non_exhaustive()
    }
}

impl Manager for Connect {
    type Type = Connected;
    type Error = sqlx::Error;

    async fn create(&self) -> Result<Connected, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&self.0).await?;
        connection.execute("SET ROLE symbia_reader; SET jit = off; SET default_transaction_read_only = on").await?;
        Ok(Connected { connection, set: None })
    }

    // Setting the scope is the test.
    async fn recycle(&self, _: &mut Connected, _: &Metrics) -> RecycleResult<sqlx::Error> {
        Ok(())
    }
}

/// A connection that sees what a scope may see, until it is dropped.
pub struct Reading(Object<Connect>);

impl Deref for Reading {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0.connection
    }
}

impl DerefMut for Reading {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0.connection
    }
}

impl ReadPool {
    /// A pool that connects when it is first used.
    #[must_use]
    #[expect(clippy::expect_used, reason = "building fails for timeouts without a runtime alone")]
    pub fn new(options: PgConnectOptions, max_connections: u32) -> Self {
        let size = usize::try_from(max_connections).unwrap_or(usize::MAX);
        let pool = Pool::builder(Connect(options)).max_size(size).runtime(Runtime::Tokio1);
        let pool = pool.wait_timeout(Some(PATIENCE)).create_timeout(Some(PATIENCE)).build();
        ReadPool(pool.expect("a runtime is given"))
    }

    /// A connection for reading, in which the scope holds.
    pub async fn read(&self, scope: &Scope) -> Result<Reading, ReadError> {
        let set = scope.set()?;
        let mut dead = 0;
        loop {
            let mut connection = self.0.get().await.map_err(|error| match error {
                PoolError::Backend(error) => error,
                PoolError::Timeout(_) => sqlx::Error::PoolTimedOut,
                _ => sqlx::Error::PoolClosed,
            })?;
            match connection.enter(&set).await {
                Ok(()) => return Ok(Reading(connection)),
                // Since it was used last, the server has ended it, or who used it was cut short; so it may be with all others.
                Err(_) if dead < self.0.status().max_size => dead += 1,
                Err(error) => return Err(error.into()),
            }
            drop(Object::take(connection));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_that_would_break_out_of_the_statement_is_refused() {
        assert!(Scope::user("x'; RESET ROLE; --").set().is_err());
        let set = Scope::member("acme".parse().unwrap(), "ada").set().unwrap();
        assert!(set.contains("symbia.org_id = 'acme'") && set.contains("symbia.bypass = 'off'"));
    }
}
