//! One batch, one transaction: rows, checkpoint and quarantine change together or not at all.

use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Postgres, Transaction};
use symbia_events::Service;

use crate::{FoldError, FoldEvent, Projection};

/// Messages `after + 1 ..= last` of one service's stream, verified.
#[derive(Debug)]
pub(crate) struct Batch {
    pub service: Service,
    pub after: u64,
    pub last: u64,
    pub events: Vec<FoldEvent>,
    pub rejected: Vec<Rejected>,
}

/// Something that is not folded, and why.
#[derive(Clone, Debug)]
pub(crate) struct Rejected {
    pub service: Service,
    pub sequence: u64,
    /// The event's aggregate version; 0 = the whole message.
    pub version: u32,
    pub subject: String,
    pub reason: String,
    pub payload: Vec<u8>,
}

impl Batch {
    /// Adds the messages that come right behind it.
    pub fn append(&mut self, next: Batch) {
        self.last = next.last;
        self.events.extend(next.events);
        self.rejected.extend(next.rejected);
    }
}

#[derive(Debug)]
pub(crate) enum Committed {
    /// The batch is in; these were put aside.
    Advanced(Vec<Rejected>),
    /// The checkpoint stands elsewhere: another projector was faster, or a rebuilt schema was swapped in.
    Elsewhere,
}

/// Begins a transaction of the projector in a schema. Losing its tail at a crash of the database is harmless: rows and
/// checkpoint are lost together and folded again. Rows are looked up by key only: a plan that was made when a table was
/// empty, and is kept, must not read the whole table for each batch once it is not. What a plan without an index is said to
/// cost then must not have it compiled, either.
pub(crate) async fn begin<'c>(
    conn: &'c mut PgConnection,
    schema: &str,
) -> Result<Transaction<'c, Postgres>, sqlx::Error> {
    let begin = format!(
        "BEGIN; SET LOCAL synchronous_commit = off; SET LOCAL enable_seqscan = off; SET LOCAL jit = off; \
         SET LOCAL ROLE symbia_projector; SET LOCAL search_path TO {schema}"
    );
    conn.begin_with(AssertSqlSafe(begin)).await
}

/// Folds verified events, the messages `after + 1 ..= last` of a stream, into a projection's tables as its projector does:
/// rows and checkpoint in one transaction. False when the checkpoint does not stand at `after`.
pub async fn fold_batch(
    pool: &PgPool,
    projection: &dyn Projection,
    (service, after, last): (Service, u64, u64),
    events: Vec<FoldEvent>,
) -> Result<bool, FoldError> {
    let batch = Batch { service, after, last, events, rejected: Vec::new() };
    let mut conn = pool.acquire().await?;
    Ok(matches!(commit(&mut conn, projection, projection.name(), &batch).await?, Committed::Advanced(_)))
}

/// Folds a batch into a schema, exactly once whoever else tries.
pub(crate) async fn commit(
    conn: &mut PgConnection,
    projection: &dyn Projection,
    schema: &str,
    batch: &Batch,
) -> Result<Committed, FoldError> {
    let mut tx = begin(conn, schema).await?;
    if !advance(&mut tx, batch).await? {
        return Ok(Committed::Elsewhere);
    }
    let mut rejected = batch.rejected.clone();
    match fold_all(&mut tx, projection, &batch.events).await {
        Ok(()) => {}
        Err(error) if error.is_poison() => {
            tx.rollback().await?;
            tx = begin(conn, schema).await?;
            if !advance(&mut tx, batch).await? {
                return Ok(Committed::Elsewhere);
            }
            bisect(&mut tx, projection, &batch.events, &mut rejected).await?;
        }
        Err(error) => return Err(error),
    }
    quarantine(&mut tx, &rejected).await?;
    tx.commit().await?;
    Ok(Committed::Advanced(rejected))
}

// First in the transaction: whoever comes second waits for this row and then finds it changed.
async fn advance(conn: &mut PgConnection, batch: &Batch) -> Result<bool, sqlx::Error> {
    let update = "UPDATE checkpoint SET sequence = $3, updated_at = now() WHERE service = $1 AND sequence = $2";
    let updated = sqlx::query(update)
        .bind(batch.service.name())
        .bind(sql(batch.after))
        .bind(sql(batch.last))
        .execute(conn)
        .await?;
    Ok(updated.rows_affected() == 1)
}

async fn fold_all(conn: &mut PgConnection, projection: &dyn Projection, events: &[FoldEvent]) -> Result<(), FoldError> {
    if events.is_empty() { Ok(()) } else { projection.fold(conn, events).await }
}

/// Folds what can be folded and puts aside what cannot, halving the batch behind savepoints, in order.
async fn bisect(
    conn: &mut PgConnection,
    projection: &dyn Projection,
    events: &[FoldEvent],
    rejected: &mut Vec<Rejected>,
) -> Result<(), FoldError> {
    let mut parts = vec![events];
    while let Some(part) = parts.pop() {
        let mut savepoint = conn.begin().await?;
        match fold_all(&mut savepoint, projection, part).await {
            Ok(()) => savepoint.commit().await?,
            Err(error) if error.is_poison() => {
                savepoint.rollback().await?;
                if let [event] = part {
                    rejected.push(Rejected::event(event, &error));
                } else {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Rejected {
    fn event(event: &FoldEvent, error: &FoldError) -> Self {
        let subject = event.event.aggregate().map(|a| a.event_subject()).unwrap_or_default();
        Rejected {
            service: event.position.service,
            sequence: event.position.sequence,
            version: event.event.aggregateversion,
            subject,
            reason: error.to_string(),
            payload: serde_json::to_vec(&event.event).unwrap_or_default(),
        }
    }
}

async fn quarantine(conn: &mut PgConnection, rejected: &[Rejected]) -> Result<(), sqlx::Error> {
    for entry in rejected {
        let insert = "INSERT INTO quarantine (service, sequence, version, subject, reason, payload)
                      VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
        sqlx::query(insert)
            .bind(entry.service.name())
            .bind(sql(entry.sequence))
            .bind(i64::from(entry.version))
            .bind(&entry.subject)
            .bind(entry.reason.replace('\0', ""))
            .bind(&entry.payload)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// A stream sequence as PostgreSQL holds it.
pub(crate) fn sql(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}
