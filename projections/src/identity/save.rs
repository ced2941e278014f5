//! Writing the touched rows: for each table one statement that removes and one that inserts or updates.

use sqlx::PgConnection;

use super::state::{Rows, State};
use crate::FoldError;

/// Ids of rows that are gone, and the rows that stand.
fn split<T>(rows: Rows<T>) -> (Vec<String>, Vec<T>) {
    let (mut gone, mut kept) = (Vec::new(), Vec::with_capacity(rows.len()));
    for (id, row) in rows {
        match row {
            Some(row) => kept.push(row),
            None => gone.push(id),
        }
    }
    (gone, kept)
}

/// Splits rows into one array per column and binds them in order.
macro_rules! write {
    ($conn:expr, $rows:expr, $table:literal, ($($field:ident),+), $sql:literal) => {{
        let (gone, rows) = split($rows);
        if !gone.is_empty() {
            sqlx::query(concat!("DELETE FROM ", $table, " WHERE id = ANY($1)")).bind(gone).execute(&mut *$conn).await?;
        }
        if !rows.is_empty() {
            $( let mut $field = Vec::with_capacity(rows.len()); )+
            for row in rows {
                $( $field.push(row.$field); )+
            }
            sqlx::query($sql)$( .bind($field) )+.execute(&mut *$conn).await?;
        }
    }};
}

impl State {
    pub(super) async fn save(self, conn: &mut PgConnection) -> Result<(), FoldError> {
        write!(
            conn, self.users, "users",
            (id, org_id, email, email_key, name, password_ref, password_algo, is_super_admin, created_at, updated_at, deleted),
            "INSERT INTO users (id, org_id, email, email_key, name, password_ref, password_algo, is_super_admin, created_at,
                                updated_at, deleted)
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                                  $8::bool[], $9::timestamptz[], $10::timestamptz[], $11::bool[])
             ON CONFLICT (id) DO UPDATE SET email = excluded.email, email_key = excluded.email_key, name = excluded.name,
                 password_ref = excluded.password_ref, password_algo = excluded.password_algo,
                 is_super_admin = excluded.is_super_admin, updated_at = excluded.updated_at, deleted = excluded.deleted"
        );
        write!(
            conn,
            self.organizations,
            "organizations",
            (id, org_id, name, slug, plan_id, created_at),
            "INSERT INTO organizations (id, org_id, name, slug, plan_id, created_at)
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, slug = excluded.slug, plan_id = excluded.plan_id,
                 created_at = excluded.created_at"
        );
        write!(
            conn,
            self.memberships,
            "memberships",
            (id, org_id, user_id, role, created_at),
            "INSERT INTO memberships (id, org_id, user_id, role, created_at)
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
             ON CONFLICT (id) DO UPDATE SET org_id = excluded.org_id, user_id = excluded.user_id, role = excluded.role,
                 created_at = excluded.created_at"
        );
        write!(
            conn, self.sessions, "sessions",
            (id, org_id, principal_id, principal_type, method, client_ip, user_agent, generation, created_at, refreshed_at,
             expires_at, revoked_at, revoked_reason),
            "INSERT INTO sessions (id, org_id, principal_id, principal_type, method, client_ip, user_agent, generation,
                                   created_at, refreshed_at, expires_at, revoked_at, revoked_reason)
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                                  $8::int[], $9::timestamptz[], $10::timestamptz[], $11::timestamptz[],
                                  $12::timestamptz[], $13::text[])
             ON CONFLICT (id) DO UPDATE SET principal_id = excluded.principal_id, principal_type = excluded.principal_type,
                 method = excluded.method, client_ip = excluded.client_ip, user_agent = excluded.user_agent,
                 generation = excluded.generation, created_at = excluded.created_at,
                 refreshed_at = excluded.refreshed_at, expires_at = excluded.expires_at,
                 revoked_at = excluded.revoked_at, revoked_reason = excluded.revoked_reason"
        );
        let (mut orgs, mut names, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for ((org, name), by) in self.counts {
            orgs.push(org);
            names.push(name);
            values.push(by);
        }
        sqlx::query(
            "INSERT INTO stats (org_id, name, value) SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])
             ON CONFLICT (org_id, name) DO UPDATE SET value = stats.value + excluded.value",
        )
        .bind(orgs)
        .bind(names)
        .bind(values)
        .execute(conn)
        .await?;
        Ok(())
    }
}
