//! Looking up entries of the secret store: what is asked for while a look-up is under way goes together in the next one, so
//! that many who speak at once cost the database one question.

use std::collections::{HashMap, HashSet};

use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::sync::{mpsc, oneshot};

/// Askers whose questions go together at most.
const TOGETHER: usize = 256;

/// An entry, as it is kept.
#[derive(Clone, sqlx::FromRow)]
pub(crate) struct Row {
    #[sqlx(rename = "ref")]
    pub reference: String,
    pub nonce: Option<Vec<u8>>,
    pub wrapped: Option<Vec<u8>>,
    pub kek_version: i32,
}

struct Asked {
    kind: &'static str,
    references: Vec<String>,
    found: oneshot::Sender<Result<Vec<Row>, sqlx::Error>>,
}

/// Looks entries up, on a connection of its own. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Lookups(mpsc::UnboundedSender<Asked>);

impl Lookups {
    pub fn open(database: PgConnectOptions) -> Self {
        let (sender, asked) = mpsc::unbounded_channel();
        tokio::spawn(run(database, asked));
        Lookups(sender)
    }

    /// The entries of a kind under these references, as they are after the question was put.
    pub async fn find(&self, kind: &'static str, references: &[String]) -> Result<Vec<Row>, sqlx::Error> {
        let (found, answer) = oneshot::channel();
        let asked = Asked { kind, references: references.to_vec(), found };
        self.0.send(asked).map_err(|_| sqlx::Error::WorkerCrashed)?;
        answer.await.unwrap_or(Err(sqlx::Error::WorkerCrashed))
    }
}

async fn run(database: PgConnectOptions, mut asked: mpsc::UnboundedReceiver<Asked>) {
    let (mut connection, mut together) = (None, Vec::new());
    while asked.recv_many(&mut together, TOGETHER).await > 0 {
        let mut kinds: HashMap<&str, Vec<Asked>> = HashMap::new();
        for one in together.drain(..) {
            kinds.entry(one.kind).or_default().push(one);
        }
        for (kind, askers) in kinds {
            let wanted: HashSet<&String> = askers.iter().flat_map(|one| &one.references).collect();
            let found = look(&mut connection, &database, kind, wanted.into_iter().cloned().collect()).await;
            answer(askers, found);
        }
    }
}

async fn look(
    connection: &mut Option<PgConnection>,
    database: &PgConnectOptions,
    kind: &str,
    references: Vec<String>,
) -> Result<Vec<Row>, sqlx::Error> {
    let select = "SELECT ref, nonce, wrapped, kek_version FROM vault.secrets WHERE kind = $1 AND ref = ANY($2)";
    loop {
        let (mut taken, fresh) = match connection.take() {
            Some(kept) => (kept, false),
            None => (PgConnection::connect_with(database).await?, true),
        };
        match sqlx::query_as(select).bind(kind).bind(&references).fetch_all(&mut taken).await {
            Ok(rows) => {
                *connection = Some(taken);
                return Ok(rows);
            }
            // Since it was used last, the server has ended it.
            Err(error) if ended(&error) && !fresh => {}
            Err(error) => return Err(error),
        }
    }
}

fn answer(askers: Vec<Asked>, found: Result<Vec<Row>, sqlx::Error>) {
    let found = found.map(|rows| rows.into_iter().map(|row| (row.reference.clone(), row)).collect::<HashMap<_, _>>());
    for Asked { references, found: asker, .. } in askers {
        // Whoever does not wait any more needs no answer.
        _ = asker.send(match &found {
            Ok(rows) => Ok(references.iter().filter_map(|reference| rows.get(reference).cloned()).collect()),
            Err(error) => Err(sqlx::Error::Protocol(error.to_string())),
        });
    }
}

// Whether a connection turned out to be one no longer: it broke, or the server says that it stops (class 57P of SQLSTATE).
fn ended(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57P")),
        _ => false,
    }
}
