//! Tenants, schemas and secrets: what the database itself does not let through.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use sqlx::{AssertSqlSafe, Row, raw_sql};
use support::{SOON, World, database, kek, pool};
use symbia_events::SubjectKey;
use symbia_projections::{
    MigrateError, Projection, Scope,
    identity::Identity,
    migrate,
    secrets::{KeyEncryptionKey, SecretError, SecretStore},
};
use zeroize::Zeroizing;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_nothing_of_another_tenant_in_any_table_and_writes_nothing() {
    let world = World::start().await;
    let projector = world.projector().start();
    let mut log = world.person("ada").await;
    log.extend(world.person("eve").await);
    let last = world.publish(log).await;
    assert!(projector.wait_for(last, SOON).await);
    let reader = world.reader();
    // What tells ada's rows from eve's in each table.
    let of_ada = [
        ("users", "id = 'ada'"),
        ("organizations", "id = 'org-ada'"),
        ("memberships", "org_id = 'org-ada'"),
        ("sessions", "principal_id = 'ada'"),
        ("audit_trail", "org_id = 'org-ada'"),
        ("stats", "org_id = 'org-ada'"),
    ];
    assert_eq!(of_ada.map(|(table, _)| table), world.identity.tables());
    let eve = Scope::member("org-eve".parse().unwrap(), "eve");
    let ada = Scope::member("org-ada".parse().unwrap(), "ada");
    for (table, rows) in of_ada {
        for (scope, sees) in [(&eve, false), (&Scope::default(), false), (&ada, true), (&Scope::platform(), true)] {
            let mut tx = reader.read(scope).await.unwrap();
            let select = format!("SELECT count(*) FROM identity.{table} WHERE {rows}");
            let seen: i64 = sqlx::query_scalar(AssertSqlSafe(select)).fetch_one(&mut *tx).await.unwrap();
            assert_eq!(seen > 0, sees, "{table} as {scope:?}");
        }
        let all = format!("SELECT count(*) FROM identity.{table}");
        let unscoped: i64 = sqlx::query_scalar(AssertSqlSafe(all)).fetch_one(reader.pool()).await.unwrap();
        assert_eq!(unscoped, 0, "{table} without a scope, also after another scope on the same connection");
        for write in
            [format!("DELETE FROM identity.{table}"), format!("UPDATE identity.{table} SET org_id = 'org-eve'")]
        {
            let written = sqlx::query(AssertSqlSafe(write)).execute(reader.pool()).await;
            let code = written.unwrap_err().into_database_error().and_then(|e| e.code().map(|c| c.into_owned()));
            assert_eq!(code.as_deref(), Some("42501"), "{table}");
        }
    }
    let vault = sqlx::query("SELECT * FROM vault.secrets").execute(reader.pool()).await;
    assert!(vault.is_err());
    let open: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'identity'::regnamespace AND c.relkind = 'r'
         AND NOT (c.relrowsecurity AND c.relforcerowsecurity)",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    assert_eq!(open, Vec::<String>::new(), "row-level security is forced everywhere");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrating_twice_changes_nothing_and_a_newer_or_changed_schema_is_refused() {
    let (server, _dir) = database().await;
    let pool = pool(&server).await;
    migrate(&pool, &[]).await.unwrap();
    let identity = Identity::new(SecretStore::open(pool.clone(), kek()).await.unwrap());
    let projections: [&dyn Projection; 1] = [&identity];
    let (one, two) = tokio::join!(migrate(&pool, &projections), migrate(&pool, &projections));
    let applied = [one.unwrap().applied, two.unwrap().applied].concat();
    assert_eq!(applied, ["identity 1 identity"]);

    raw_sql("UPDATE symbia.migration SET checksum = 'x' WHERE schema = 'identity'").execute(&pool).await.unwrap();
    let changed = migrate(&pool, &projections).await.unwrap_err();
    assert!(matches!(&changed, MigrateError::Changed { schema, version: 1, .. } if schema == "identity"));
    raw_sql("INSERT INTO symbia.migration VALUES ('identity', 7, 'later', '')").execute(&pool).await.unwrap();
    let newer = migrate(&pool, &projections).await.unwrap_err();
    assert!(matches!(&newer, MigrateError::Newer { found: 7, known: 1, .. }));
    assert!(newer.to_string().contains("run the newer build"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_written_once_wrapped_and_gone_when_destroyed() {
    let (server, _dir) = database().await;
    let pool = pool(&server).await;
    migrate(&pool, &[]).await.unwrap();
    let store = SecretStore::open(pool.clone(), kek()).await.unwrap();
    let hash = Zeroizing::new("$2b$12$hash".to_owned());
    store.put_secret("pw", &hash).await.unwrap();
    store.put_secret("pw", &hash).await.unwrap();
    let other = store.put_secret("pw", &Zeroizing::new("other".to_owned())).await;
    assert!(matches!(other, Err(SecretError::Taken(_))));
    assert_eq!(store.secret("pw").await.unwrap(), Some(hash.clone()));
    let key = SubjectKey::generate("ada");
    store.put_subject_key(&key).await.unwrap();
    let sealed = key.seal("Ada");
    assert_eq!(store.subject_key("ada").await.unwrap().unwrap().open(&sealed).unwrap(), "Ada");

    let rows = sqlx::query("SELECT wrapped FROM vault.secrets").fetch_all(&pool).await.unwrap();
    for row in rows {
        let wrapped: Vec<u8> = row.get(0);
        assert!(!wrapped.windows(hash.len()).any(|w| w == hash.as_bytes()));
        assert!(!wrapped.windows(32).any(|w| w == key.bytes()));
    }
    // An entry moved to another reference does not open there.
    raw_sql("INSERT INTO vault.secrets (kind, ref, nonce, wrapped) SELECT kind, 'stolen', nonce, wrapped FROM vault.secrets WHERE ref = 'pw'")
        .execute(&pool)
        .await
        .unwrap();
    assert!(matches!(store.secret("stolen").await, Err(SecretError::Corrupt(_))));

    assert!(store.destroy_subject_key("ada").await.unwrap());
    assert!(!store.destroy_subject_key("ada").await.unwrap());
    assert!(store.subject_key("ada").await.unwrap().is_none());
    assert!(matches!(store.put_subject_key(&key).await, Err(SecretError::Destroyed(_))));
    let foreign =
        KeyEncryptionKey::new(&Zeroizing::new(std::array::from_fn(|i| u8::try_from(i * 3).unwrap()))).unwrap();
    assert!(matches!(SecretStore::open(pool, foreign).await, Err(SecretError::OtherKey { .. })));
    assert!(matches!(KeyEncryptionKey::new(&Zeroizing::new([7; 32])), Err(SecretError::WeakKey)));
    assert!(!format!("{store:?}").contains("0, 1, 2"));
}
