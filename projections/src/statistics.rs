//! What the planner knows of tables that grow quickly while they are young.
//!
//! Every plan is kept, and one that was made for an empty table takes any index whose first column fits: of a few rows, all
//! cost the same. It then reads all of an organization's rows for each key, until the server gathers statistics by itself, a
//! minute later at best. New statistics have plans made anew.

use sqlx::{AssertSqlSafe, PgConnection, raw_sql};

/// Events after which the tables are looked at for the first time; then each time that they have become twice as many.
const FIRST: usize = 128;
/// Rows of a table from which on the server's own pace will do.
const GROWN: i32 = 100_000;

/// Counts what is folded.
#[derive(Debug)]
pub(crate) struct Statistics {
    folded: usize,
    next: usize,
}

impl Default for Statistics {
    fn default() -> Self {
        Statistics { folded: 0, next: FIRST }
    }
}

impl Statistics {
    /// So many events more are folded: whether it is time to [`gather`].
    pub fn are_due(&mut self, events: usize) -> bool {
        self.folded += events;
        let due = self.folded >= self.next;
        while self.folded >= self.next {
            self.next *= 2;
        }
        due
    }
}

/// Gathers statistics of those young tables of some schemas that have at least doubled since it was done last. For a connection of
/// the tables' owner.
pub(crate) async fn gather(conn: &mut PgConnection, schemas: &[&str]) -> Result<(), sqlx::Error> {
    let outgrown = "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = ANY($1) AND c.relkind = 'r' AND c.reltuples < $2
          AND pg_relation_size(c.oid) > 2 * c.relpages::bigint * current_setting('block_size')::bigint";
    let tables: Vec<String> = sqlx::query_scalar(outgrown).bind(schemas).bind(GROWN).fetch_all(&mut *conn).await?;
    if tables.is_empty() {
        return Ok(());
    }
    // Who gathers them already does it for all.
    let analyze = format!("ANALYZE (SKIP_LOCKED) {}", tables.join(", "));
    raw_sql(AssertSqlSafe(analyze)).execute(conn).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_due_each_time_that_the_events_have_doubled() {
        let mut statistics = Statistics::default();
        let due: Vec<usize> = (1..=1000).filter(|_| statistics.are_due(1)).collect();
        assert_eq!(due, [128, 256, 512]);
        assert!(statistics.are_due(10_000) && !statistics.are_due(1));
    }
}
