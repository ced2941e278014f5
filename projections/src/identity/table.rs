//! Rows of one table that a batch of events touches: loaded by key, changed in memory, written back with one statement.
//! A row travels as JSON, so that its struct is the only list of its columns.

use std::collections::BTreeMap;

use serde::{Serialize, de::DeserializeOwned};
use sqlx::{AssertSqlSafe, PgConnection, types::Json};
use symbia_events::Event;

use crate::FoldError;

/// A row, with the name of its table; its fields are the table's columns.
pub(super) trait Row: Serialize + DeserializeOwned + Send + Unpin + 'static {
    const TABLE: &'static str;
    fn id(&self) -> &str;
}

/// Rows by id; `None` = gone.
pub(super) struct Table<R>(BTreeMap<String, Option<R>>);

impl<R: Row> Table<R> {
    /// Loads the rows that have one of the values in one of the columns.
    pub async fn load(conn: &mut PgConnection, by: &[(&'static str, Vec<String>)]) -> Result<Self, sqlx::Error> {
        let mut table = Table(BTreeMap::new());
        for (column, values) in by.iter().filter(|(_, values)| !values.is_empty()) {
            let select = format!("SELECT to_jsonb(t) FROM {} t WHERE {column} = ANY($1)", R::TABLE);
            let rows: Vec<Json<R>> =
                sqlx::query_scalar(AssertSqlSafe(select)).bind(values).fetch_all(&mut *conn).await?;
            table.0.extend(rows.into_iter().map(|Json(row)| (row.id().to_owned(), Some(row))));
        }
        Ok(table)
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut R> {
        self.0.get_mut(id)?.as_mut()
    }

    /// Adds a row unless it stands; true when it was added.
    pub fn add(&mut self, row: R) -> bool {
        let slot = self.0.entry(row.id().to_owned()).or_default();
        let free = slot.is_none();
        slot.get_or_insert(row);
        free
    }

    /// Ids of the rows that are meant.
    pub fn ids(&self, which: impl Fn(&R) -> bool) -> Vec<String> {
        self.0.values().flatten().filter(|row| which(row)).map(|row| row.id().to_owned()).collect()
    }

    /// Removes rows and tells how many.
    pub fn remove(&mut self, which: impl Fn(&R) -> bool) -> i64 {
        let gone = self.0.values_mut().filter_map(|row| row.take_if(|row| which(row))).count();
        i64::try_from(gone).unwrap_or(i64::MAX)
    }

    pub async fn save(self, conn: &mut PgConnection) -> Result<(), FoldError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = self.0.keys().cloned().collect();
        let rows: Vec<R> = self.0.into_values().flatten().collect();
        let delete = format!("DELETE FROM {} WHERE id = ANY($1)", R::TABLE);
        sqlx::query(AssertSqlSafe(delete)).bind(ids).execute(&mut *conn).await?;
        // JSONB holds every character but this one.
        let rows = serde_json::to_string(&rows).map_err(|e| FoldError::Event(e.to_string()))?;
        let rows = rows.replace("\\u0000", "\\ufffd");
        let insert = format!("INSERT INTO {0} SELECT * FROM jsonb_populate_recordset(NULL::{0}, $1::jsonb)", R::TABLE);
        sqlx::query(AssertSqlSafe(insert)).bind(rows).execute(conn).await?;
        Ok(())
    }
}

/// Whether an organization is gone with an event, and what belongs to it with it.
pub(super) fn deletes_organization(event: &Event) -> bool {
    event.event_type.starts_with("symbia.identity.organization.organization-deleted.")
}

/// The same of a user.
pub(super) fn deletes_user(event: &Event) -> bool {
    event.event_type.starts_with("symbia.identity.user.user-deleted.")
}

/// Changes a counter; a change by nothing still makes its row.
pub(super) async fn count(conn: &mut PgConnection, name: &str, by: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO stats (org_id, name, value) VALUES ('global', $1, $2)
         ON CONFLICT (org_id, name) DO UPDATE SET value = stats.value + excluded.value",
    )
    .bind(name)
    .bind(by)
    .execute(conn)
    .await?;
    Ok(())
}
