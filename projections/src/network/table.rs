//! Rows of one table that a batch of events touches: loaded by tenant and id, changed in memory, written back with one
//! statement. A row travels as JSON, so that its struct is the only list of its columns.

use std::collections::BTreeMap;

use serde::{Serialize, de::DeserializeOwned};
use sqlx::{AssertSqlSafe, PgConnection, types::Json};

use crate::FoldError;

/// Tenant and id.
pub(super) type Key = (String, String);

/// A row, with the name of its table; its fields are the table's columns.
pub(super) trait Row: Serialize + DeserializeOwned + Send + Unpin + 'static {
    const TABLE: &'static str;
    fn key(&self) -> Key;
}

/// Rows by key; `None` = there is none, or no longer.
pub(super) struct Table<R>(BTreeMap<Key, Option<R>>);

impl<R> Default for Table<R> {
    fn default() -> Self {
        Table(BTreeMap::new())
    }
}

impl<R: Row> Table<R> {
    /// Says that a row will be needed.
    pub fn touch(&mut self, key: &Key) {
        self.0.entry(key.clone()).or_default();
    }

    /// The row of a key that was touched.
    pub fn slot(&mut self, key: &Key) -> &mut Option<R> {
        self.0.entry(key.clone()).or_default()
    }

    /// Loads what was touched.
    pub async fn load(&mut self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        let (orgs, ids): (Vec<String>, Vec<String>) = self.0.keys().cloned().unzip();
        let select = format!(
            "SELECT to_jsonb(t) FROM {} t JOIN unnest($1::text[], $2::text[]) AS k (org_id, id) USING (org_id, id)",
            R::TABLE
        );
        let rows: Vec<Json<R>> = sqlx::query_scalar(AssertSqlSafe(select)).bind(orgs).bind(ids).fetch_all(conn).await?;
        self.0.extend(rows.into_iter().map(|Json(row)| (row.key(), Some(row))));
        Ok(())
    }

    pub async fn save(self, conn: &mut PgConnection) -> Result<(), FoldError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let (orgs, ids): (Vec<String>, Vec<String>) = self.0.keys().cloned().unzip();
        let rows: Vec<R> = self.0.into_values().flatten().collect();
        let delete = format!(
            "DELETE FROM {} t USING unnest($1::text[], $2::text[]) AS k (org_id, id)
             WHERE t.org_id = k.org_id AND t.id = k.id",
            R::TABLE
        );
        sqlx::query(AssertSqlSafe(delete)).bind(orgs).bind(ids).execute(&mut *conn).await?;
        // JSONB holds every character but this one.
        let rows = serde_json::to_string(&rows).map_err(|e| FoldError::Event(e.to_string()))?;
        let rows = rows.replace("\\u0000", "\\ufffd");
        let insert = format!("INSERT INTO {0} SELECT * FROM jsonb_populate_recordset(NULL::{0}, $1::jsonb)", R::TABLE);
        sqlx::query(AssertSqlSafe(insert)).bind(rows).execute(conn).await?;
        Ok(())
    }
}
