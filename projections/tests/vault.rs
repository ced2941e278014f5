//! The vault: bound entries, and the rotation of the key that wraps their keys.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use symbia_events::SubjectKey;
use symbia_projections::{
    migrate,
    secrets::{KeyEncryptionKey, SecretError, SecretStore},
    vault::ItemContext,
};
use zeroize::Zeroizing;

use support::{database, pool};

fn kek(seed: u8) -> KeyEncryptionKey {
    KeyEncryptionKey::new(&Zeroizing::new(std::array::from_fn(|i| u8::try_from(i).unwrap() ^ seed))).unwrap()
}

fn context() -> ItemContext<'static> {
    ItemContext { credential_id: "c1", owner_id: "ada", org_id: Some("o1"), provider: "openai", version: 1 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_opens_only_for_what_it_was_sealed_for() {
    let (server, _dir) = database().await;
    let pool = pool(&server).await;
    migrate(&pool, &[]).await.unwrap();
    let store = SecretStore::open(pool.clone(), kek(0)).await.unwrap();
    let secret = Zeroizing::new("sk-vault-secret".to_owned());
    store.put_item("r1", &context(), &secret).await.unwrap();
    assert!(matches!(store.put_item("r1", &context(), &secret).await, Err(SecretError::Taken(_))));
    assert_eq!(store.item("r1", &context()).await.unwrap().unwrap(), secret);
    for other in [
        ItemContext { credential_id: "c2", ..context() },
        ItemContext { owner_id: "eve", ..context() },
        ItemContext { org_id: None, ..context() },
        ItemContext { provider: "anthropic", ..context() },
        ItemContext { version: 2, ..context() },
    ] {
        assert!(matches!(store.item("r1", &other).await, Err(SecretError::Corrupt(_))), "{other:?}");
    }
    let rows: Vec<String> = sqlx::query_scalar("SELECT t::text FROM vault.items t").fetch_all(&pool).await.unwrap();
    let hex: String = secret.bytes().map(|b| format!("{b:02x}")).collect();
    assert!(rows.len() == 1 && !rows[0].contains(&hex) && !rows[0].contains("sk-vault"));

    store.put_item("r2", &context(), &secret).await.unwrap();
    assert!(store.destroy_item("r1").await.unwrap() && !store.destroy_item("r1").await.unwrap());
    assert!(store.item("r1", &context()).await.unwrap().is_none());
    assert_eq!(store.destroy_items_of_org("o1").await.unwrap(), 1);
    assert_eq!(store.destroy_items_of_owner("ada").await.unwrap(), 0);
    assert!(matches!(store.put_item("r2", &context(), &secret).await, Err(SecretError::Taken(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_rotation_the_new_key_alone_opens_everything() {
    let (server, _dir) = database().await;
    let pool = pool(&server).await;
    migrate(&pool, &[]).await.unwrap();
    let store = SecretStore::open(pool.clone(), kek(0)).await.unwrap();
    let secret = Zeroizing::new("a secret".to_owned());
    let key = SubjectKey::generate("ada");
    store.put_secret("pw", &secret).await.unwrap();
    store.put_subject_key(&key).await.unwrap();
    store.put_item("r1", &context(), &secret).await.unwrap();

    let foreign = SecretStore::open(pool.clone(), kek(128)).await;
    assert!(matches!(foreign, Err(SecretError::OtherKey { .. })));
    SecretStore::open(pool.clone(), kek(128).following(kek(0))).await.unwrap();
    let versions: Vec<(i32, i32)> = sqlx::query_as(
        "SELECT (SELECT count(*)::int FROM vault.key_encryption), kek_version FROM vault.secrets
         UNION ALL SELECT 0, kek_version FROM vault.items",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(versions, [(2, 2), (2, 2), (0, 2)]);
    let after = SecretStore::open(pool.clone(), kek(128)).await.unwrap();
    assert_eq!(after.secret("pw").await.unwrap().unwrap(), secret);
    assert_eq!(after.item("r1", &context()).await.unwrap().unwrap(), secret);
    assert_eq!(after.subject_key("ada").await.unwrap().unwrap().bytes(), key.bytes());
    // There is no way back to a key that was replaced.
    let back = SecretStore::open(pool, kek(0).following(kek(128))).await;
    assert!(matches!(back, Err(SecretError::OtherKey { .. })));
}
