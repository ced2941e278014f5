//! A database that is not there, or that a newer build has changed.

use anyhow::ensure;
use sqlx::{Connection, PgConnection};
use symbia_tests::{binary::Installation, cluster::TestServers};

use crate::Tested;

const PASSWORD: &str = "password-CANARY-41d8";

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there_is_named_without_its_password() -> Tested {
    let (house, servers) = (Installation::new()?, TestServers::start().await?);
    let nats = servers.nats_url();
    let away = format!("postgres://ada:{PASSWORD}@127.0.0.1:1/symbia");
    let unknown = servers.database_url().replace("/symbia?", "/elsewhere?");
    let foreign = format!("postgres://ada:{PASSWORD}@127.0.0.1:{}/symbia", servers.database.port());
    for (url, named) in [
        (away.as_str(), "127.0.0.1:1"),
        ("mysql://127.0.0.1/symbia", "DATABASE_URL"),
        (unknown.as_str(), "elsewhere"),
        (foreign.as_str(), "ada"),
    ] {
        let said = house.run_with(&["migrate"], &[("SYMBIA_NATS_URL", &nats), ("DATABASE_URL", url)])?.expect(1)?;
        ensure!(said.err.contains(named), "{named} is missing: {}", said.err);
        ensure!(!said.err.contains(PASSWORD) && !said.out.contains(PASSWORD), "{said:?}");
    }
    let nowhere = [("SYMBIA_NATS_URL", "nats://127.0.0.1:1"), ("DATABASE_URL", &servers.database_url())];
    let said = house.run_with(&["migrate"], &nowhere)?.expect(1)?;
    ensure!(said.err.contains("NATS at 127.0.0.1:1"), "{}", said.err);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_a_newer_build_is_left_alone() -> Tested {
    let (house, servers) = (Installation::new()?, TestServers::start().await?);
    let (nats, database) = (servers.nats_url(), servers.database_url());
    let variables = [("SYMBIA_NATS_URL", nats.as_str()), ("DATABASE_URL", database.as_str())];
    house.run_with(&["migrate"], &variables)?.expect(0)?;
    let mut connection = PgConnection::connect(&database).await?;
    let newer = "INSERT INTO symbia.migration (schema, version, name, checksum) VALUES ('identity', 999, 'later', '')";
    sqlx::raw_sql(newer).execute(&mut connection).await?;
    for role in ["migrate", "project", "serve"] {
        let said = house.run_with(&[role], &variables)?.expect(1)?;
        for part in ["'identity'", "999", "run the newer build"] {
            ensure!(said.err.contains(part), "{role}: {part} is missing: {}", said.err);
        }
    }
    let count: i64 =
        sqlx::query_scalar("SELECT count(*) FROM symbia.migration WHERE schema = 'identity' AND version > 900")
            .fetch_one(&mut connection)
            .await?;
    ensure!(count == 1);
    Ok(())
}
