//! What was used: requests that have their end, counted and summed. Each has one row and one end, so none counts twice.

use sqlx::{AssertSqlSafe, FromRow, PgConnection, Postgres, postgres::PgArguments, query::QueryAs};
use time::OffsetDateTime;

use super::Completion;

/// Which requests.
#[derive(Clone, Debug)]
pub struct Filter<'a> {
    /// Of this organization.
    pub org: &'a str,
    /// Since then.
    pub since: OffsetDateTime,
    /// Only of this user.
    pub user: Option<&'a str>,
    /// Only at this provider.
    pub provider: Option<&'a str>,
    /// Only with this API key.
    pub key: Option<&'a str>,
    /// Only of this model.
    pub model: Option<&'a str>,
    /// Only those that are `requested`, `running`, `completed`, `failed` or `cancelled`.
    pub status: Option<&'a str>,
    /// Only those with this word.
    pub tag: Option<&'a str>,
}

impl<'a> Filter<'a> {
    /// A query with what filters calls of APIs as well as its first four parameters: organization, beginning, user and provider.
    pub(super) fn bind<O>(
        &self,
        query: QueryAs<'a, Postgres, O, PgArguments>,
    ) -> QueryAs<'a, Postgres, O, PgArguments> {
        query.bind(self.org).bind(self.since).bind(self.user).bind(self.provider)
    }

    // All of it, as the first eight.
    fn bind_all<O>(&self, query: QueryAs<'a, Postgres, O, PgArguments>) -> QueryAs<'a, Postgres, O, PgArguments> {
        self.bind(query).bind(self.key).bind(self.model).bind(self.status).bind(self.tag)
    }
}

/// Sums over requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, FromRow)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Summary {
    pub requests: i64,
    pub succeeded: i64,
    pub prompt_tokens: i64,
    pub completion_tokens: i64,
    /// Millionths of a US dollar, of the requests whose price is known.
    pub cost_micros: i64,
    pub avg_ms: f64,
    pub users: i64,
}

/// The same for those of one user, API key, assistant, model or provider.
#[derive(Clone, Debug, PartialEq, FromRow)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Grouped {
    /// Which one; none for what has none.
    pub key: Option<String>,
    #[sqlx(flatten)]
    pub summary: Summary,
    pub last_at: Option<OffsetDateTime>,
}

const SUMS: &str = "count(*) AS requests, count(*) FILTER (WHERE status = 'completed') AS succeeded,
    coalesce(sum(prompt_tokens), 0)::bigint AS prompt_tokens,
    coalesce(sum(completion_tokens), 0)::bigint AS completion_tokens,
    coalesce(sum(cost_micros), 0)::bigint AS cost_micros,
    coalesce(avg(extract(epoch FROM ended_at - requested_at) * 1000), 0)::float8 AS avg_ms,
    count(DISTINCT user_id) AS users";
const CHOSEN: &str = "FROM integrations.completions
    WHERE org_id = $1 AND requested_at >= $2
      AND ($3::text IS NULL OR user_id = $3) AND ($4::text IS NULL OR provider = $4)
      AND ($5::text IS NULL OR key_id = $5) AND ($6::text IS NULL OR model = $6) AND ($7::text IS NULL OR status = $7)
      AND ($8::text IS NULL OR (tags <> '[]' AND tags ? $8))";

/// Sums over all of them.
pub async fn summary(conn: &mut PgConnection, filter: &Filter<'_>) -> Result<Summary, sqlx::Error> {
    let select = format!("SELECT {SUMS} {CHOSEN} AND ended_at IS NOT NULL");
    filter.bind_all(sqlx::query_as(AssertSqlSafe(select))).fetch_one(conn).await
}

/// Sums for each `user_id`, `key_id`, `assistant_id`, `model` or `provider`, those with most requests first.
pub async fn usage_by(
    conn: &mut PgConnection,
    column: &'static str,
    filter: &Filter<'_>,
    limit: i64,
) -> Result<Vec<Grouped>, sqlx::Error> {
    let select = format!(
        "SELECT {column} AS key, {SUMS}, max(ended_at) AS last_at {CHOSEN} AND ended_at IS NOT NULL
         GROUP BY {column} ORDER BY count(*) DESC, {column} LIMIT $9"
    );
    filter.bind_all(sqlx::query_as(AssertSqlSafe(select))).bind(limit).fetch_all(conn).await
}

/// The requests themselves, ended or not, the newest first.
pub async fn executions(
    conn: &mut PgConnection,
    filter: &Filter<'_>,
    limit: i64,
    offset: i64,
) -> Result<Vec<Completion>, sqlx::Error> {
    let select = format!("SELECT * {CHOSEN} ORDER BY requested_at DESC, id LIMIT $9 OFFSET $10");
    filter.bind_all(sqlx::query_as(AssertSqlSafe(select))).bind(limit).bind(offset).fetch_all(conn).await
}
