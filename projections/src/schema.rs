//! Schemas: roles, migrations, and the refusal of a database that a newer build has changed.

use std::cmp::Ordering;

use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, raw_sql};

use crate::{Migration, Projection};

/// Role of those who query: it sees only what the context of its transaction opens.
pub const READER: &str = "symbia_reader";
/// Role of those who fold.
pub const PROJECTOR: &str = "symbia_projector";

const CONTEXT: &[Migration] =
    &[Migration { version: 1, name: "context", sql: include_str!("../../migrations/symbia/0001_context.sql") }];
const VAULT: &[Migration] = &[
    Migration { version: 1, name: "vault", sql: include_str!("../../migrations/vault/0001_vault.sql") },
    Migration { version: 2, name: "items", sql: include_str!("../../migrations/vault/0002_items.sql") },
    Migration { version: 3, name: "authors", sql: include_str!("../../migrations/vault/0003_authors.sql") },
];
const BOOKKEEPING: &str = include_str!("../../migrations/symbia/bookkeeping.sql");

// Roles belong to the cluster: another database's migration may be making them at this moment.
const ROLES: &str = "
    DO $$ DECLARE wanted text; BEGIN
        FOREACH wanted IN ARRAY ARRAY['symbia_reader', 'symbia_projector'] LOOP
            BEGIN
                IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
                    EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOINHERIT', wanted);
                END IF;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
            END;
            IF NOT pg_has_role(current_user, wanted, 'MEMBER') THEN
                EXECUTE format('GRANT %I TO CURRENT_USER', wanted);
            END IF;
        END LOOP;
    END $$;
    CREATE SCHEMA IF NOT EXISTS symbia;
    CREATE TABLE IF NOT EXISTS symbia.migration (
        schema text NOT NULL, version int NOT NULL, name text NOT NULL, checksum text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (schema, version));";

/// Nobody has migrated this database yet (PostgreSQL, appendix A).
const UNDEFINED_TABLE: &str = "42P01";
/// Held while a database is migrated.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('symbia:migrate', 0))";

/// Why a database cannot be migrated.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A newer build was here.
    #[error(
        "schema '{schema}' of this database is at version {found}, this build knows versions up to {known}: run the newer build, or drop the schema and rebuild it from the log"
    )]
    Newer {
        /// The schema.
        schema: String,
        /// Its version.
        found: i32,
        /// The newest version this build knows.
        known: i32,
    },
    /// This build's steps have not all been applied.
    #[error("schema '{schema}' of this database is at version {found}, this build needs {known}: run `symbia migrate`")]
    Older {
        /// The schema.
        schema: String,
        /// Its version.
        found: i32,
        /// The version this build needs.
        known: i32,
    },
    /// A step that was applied has another text now.
    #[error(
        "migration {version} ({name}) of schema '{schema}' was changed after it was applied: add a new step instead"
    )]
    Changed {
        /// The schema.
        schema: String,
        /// The step.
        version: i32,
        /// Its name.
        name: String,
    },
    /// The role that connects may not make roles.
    #[error(
        "the database user may not create the roles symbia_reader and symbia_projector: let an administrator run \"CREATE ROLE symbia_reader NOLOGIN; CREATE ROLE symbia_projector NOLOGIN; GRANT symbia_reader, symbia_projector TO <user>\""
    )]
    Roles,
    /// The database refused a statement or was away.
    #[error("the schema '{schema}' cannot be migrated: {source}")]
    Database {
        /// The schema.
        schema: String,
        /// What it said.
        source: sqlx::Error,
    },
}

fn failed(schema: &str) -> impl Fn(sqlx::Error) -> MigrateError {
    move |source| MigrateError::Database { schema: schema.to_owned(), source }
}

/// What a migration did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migrated {
    /// Steps applied, as `<schema> <version> <name>`.
    pub applied: Vec<String>,
    /// Projections that had rows before a step was applied: rebuild them, so that old events reach what is new.
    pub to_rebuild: Vec<String>,
}

/// Brings a database to this build's schemas: roles, shared functions, the secret store, and every projection's tables. All
/// or nothing, one at a time; a database of a newer build is refused.
pub async fn migrate(pool: &PgPool, projections: &[&dyn Projection]) -> Result<Migrated, MigrateError> {
    let mut tx = pool.begin().await.map_err(failed("symbia"))?;
    raw_sql(LOCK).execute(&mut *tx).await.map_err(failed("symbia"))?;
    raw_sql(ROLES).execute(&mut *tx).await.map_err(|e| {
        match e.as_database_error().and_then(|d| d.code()).as_deref() {
            Some("42501") => MigrateError::Roles,
            _ => failed("symbia")(e),
        }
    })?;
    let mut done = Migrated::default();
    step(&mut tx, "symbia", CONTEXT, &mut done).await?;
    step(&mut tx, "vault", VAULT, &mut done).await?;
    for projection in projections {
        let name = projection.name();
        let from = version(&mut tx, name).await?;
        if from == 0 {
            raw_sql(AssertSqlSafe(format!("CREATE SCHEMA {name}; SET LOCAL search_path TO {name}")))
                .execute(&mut *tx)
                .await
                .map_err(failed(name))?;
            raw_sql(BOOKKEEPING).execute(&mut *tx).await.map_err(failed(name))?;
        }
        let before = done.applied.len();
        step(&mut tx, name, projection.migrations(), &mut done).await?;
        if from > 0 && done.applied.len() > before {
            done.to_rebuild.push(name.to_owned());
        }
        finish(&mut tx, *projection, name).await.map_err(failed(name))?;
    }
    tx.commit().await.map_err(failed("symbia"))?;
    Ok(done)
}

/// Refuses a database whose schemas are not those of this build, older or newer; changes nothing.
pub async fn check(pool: &PgPool, projections: &[&dyn Projection]) -> Result<(), MigrateError> {
    let mut conn = pool.acquire().await.map_err(failed("symbia"))?;
    let own = [("symbia", CONTEXT), ("vault", VAULT)].into_iter();
    for (schema, steps) in own.chain(projections.iter().map(|p| (p.name(), p.migrations()))) {
        let found = match version(&mut conn, schema).await {
            Err(MigrateError::Database { source: sqlx::Error::Database(e), .. })
                if e.code().as_deref() == Some(UNDEFINED_TABLE) =>
            {
                0
            }
            found => found?,
        };
        let (schema, known) = (schema.to_owned(), newest(steps));
        match found.cmp(&known) {
            Ordering::Less => return Err(MigrateError::Older { schema, found, known }),
            Ordering::Equal => {}
            Ordering::Greater => return Err(MigrateError::Newer { schema, found, known }),
        }
    }
    Ok(())
}

fn newest(steps: &[Migration]) -> i32 {
    steps.iter().map(|m| m.version).max().unwrap_or(0)
}

async fn version(conn: &mut PgConnection, schema: &str) -> Result<i32, MigrateError> {
    sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM symbia.migration WHERE schema = $1")
        .bind(schema)
        .fetch_one(conn)
        .await
        .map_err(failed(schema))
}

async fn step(
    conn: &mut PgConnection,
    schema: &str,
    steps: &[Migration],
    done: &mut Migrated,
) -> Result<(), MigrateError> {
    let found = version(conn, schema).await?;
    let known = newest(steps);
    if found > known {
        return Err(MigrateError::Newer { schema: schema.to_owned(), found, known });
    }
    raw_sql(AssertSqlSafe(format!("CREATE SCHEMA IF NOT EXISTS {schema}; SET LOCAL search_path TO {schema}")))
        .execute(&mut *conn)
        .await
        .map_err(failed(schema))?;
    for migration in steps {
        let checksum: String = Sha256::digest(migration.sql).iter().map(|b| format!("{b:02x}")).collect();
        let applied: Option<String> =
            sqlx::query_scalar("SELECT checksum FROM symbia.migration WHERE schema = $1 AND version = $2")
                .bind(schema)
                .bind(migration.version)
                .fetch_optional(&mut *conn)
                .await
                .map_err(failed(schema))?;
        match applied {
            Some(applied) if applied == checksum => continue,
            Some(_) => {
                return Err(MigrateError::Changed {
                    schema: schema.to_owned(),
                    version: migration.version,
                    name: migration.name.to_owned(),
                });
            }
            None => {}
        }
        raw_sql(migration.sql).execute(&mut *conn).await.map_err(failed(schema))?;
        sqlx::query("INSERT INTO symbia.migration (schema, version, name, checksum) VALUES ($1, $2, $3, $4)")
            .bind(schema)
            .bind(migration.version)
            .bind(migration.name)
            .bind(checksum)
            .execute(&mut *conn)
            .await
            .map_err(failed(schema))?;
        done.applied.push(format!("{schema} {} {}", migration.version, migration.name));
    }
    Ok(())
}

/// Creates an empty schema with a projection's tables beside the live one, under another name.
pub async fn create_shadow(
    conn: &mut PgConnection,
    projection: &dyn Projection,
    schema: &str,
) -> Result<(), sqlx::Error> {
    let mut tx = conn.begin().await?;
    let create =
        format!("DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}; SET LOCAL search_path TO {schema}");
    raw_sql(AssertSqlSafe(create)).execute(&mut *tx).await?;
    raw_sql(BOOKKEEPING).execute(&mut *tx).await?;
    for migration in projection.migrations() {
        raw_sql(migration.sql).execute(&mut *tx).await?;
    }
    finish(&mut tx, projection, schema).await?;
    tx.commit().await
}

async fn finish(conn: &mut PgConnection, projection: &dyn Projection, schema: &str) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT symbia.protect($1)").bind(schema).execute(&mut *conn).await?;
    let services: Vec<&str> = projection.services().iter().map(|s| s.name()).collect();
    raw_sql("SET LOCAL ROLE symbia_projector").execute(&mut *conn).await?;
    let insert = format!("INSERT INTO {schema}.checkpoint (service) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING");
    sqlx::query(AssertSqlSafe(insert)).bind(services).execute(&mut *conn).await?;
    raw_sql("SET LOCAL ROLE NONE").execute(&mut *conn).await?;
    Ok(())
}
