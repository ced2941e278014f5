//! The secret store: subject keys and secrets by reference, each wrapped under a key-encryption key (identity.md §8.3).
//!
//! It is no projection: what is destroyed here is gone, which is how a person is erased from the log (DESIGN §3).

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use aes_gcm::{
    Aes256Gcm, Nonce,
    aead::{Aead, KeyInit, Payload},
};
use sha2::{Digest, Sha256};
use sqlx::{PgPool, postgres::PgConnectOptions};
use symbia_events::SubjectKey;
use zeroize::Zeroizing;

use crate::lookups::{Lookups, Row};

/// Subject keys kept in mind, and for how long: one that was destroyed elsewhere opens nothing any more soon after.
const KNOWN_MAX: u64 = 20_000;
const KNOWN_FOR: Duration = Duration::from_secs(5);

const SUBJECT_KEY: &str = "subject-key";
const SECRET: &str = "secret";

/// Why a secret cannot be kept or given.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The key-encryption key has no entropy.
    #[error("the key-encryption key is a constant or a text: give 32 random bytes")]
    WeakKey,
    /// The store was filled under another key.
    #[error(
        "the secret store was made under key-encryption key {stored}, not {given}: give the key of this installation, it cannot be made again"
    )]
    OtherKey {
        /// Id of the key it was made under.
        stored: String,
        /// Id of the key given.
        given: String,
    },
    /// An entry is wrapped under a key that was not given.
    #[error("an entry is wrapped under version {0} of the key-encryption key: give that key too, as a former one")]
    MissingKey(i32),
    /// The reference holds another value; a reference is written once.
    #[error("reference '{0}' holds another secret: use a new reference for a new value")]
    Taken(String),
    /// The reference was destroyed.
    #[error("reference '{0}' was destroyed and is not used again")]
    Destroyed(String),
    /// An entry was changed outside of us.
    #[error("the entry '{0}' of the secret store does not open: it was changed; restore it from a backup")]
    Corrupt(String),
    /// The value cannot be wrapped.
    #[error("the secret '{0}' cannot be wrapped")]
    Wrap(String),
    /// The database refused or was away.
    #[error("the secret store cannot be reached: {0}")]
    Database(#[from] sqlx::Error),
}

#[derive(Clone)]
pub(crate) struct Kek {
    id: String,
    cipher: Aes256Gcm,
}

/// The key that wraps all others, and those that did before it. `Debug` shows ids only.
#[derive(Clone)]
pub struct KeyEncryptionKey {
    active: Kek,
    former: Vec<Kek>,
}

impl KeyEncryptionKey {
    /// The key of an installation: 32 random bytes.
    pub fn new(key: &Zeroizing<[u8; 32]>) -> Result<Self, SecretError> {
        // A text that somebody thought of, or a published default: of random bytes, one in a hundred trillion reads as one.
        let text = key.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
        if text || key.iter().all(|byte| *byte == key[0]) {
            return Err(SecretError::WeakKey);
        }
        let digest = Sha256::new_with_prefix(b"symbia/kek-id/").chain_update(key.as_ref()).finalize();
        let id = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(KeyEncryptionKey { active: Kek { id, cipher: Aes256Gcm::new((&**key).into()) }, former: Vec::new() })
    }

    /// With a key that was active before it: what that one wrapped is opened, and wrapped anew.
    #[must_use]
    pub fn following(mut self, former: KeyEncryptionKey) -> Self {
        self.former.push(former.active);
        self.former.extend(former.former);
        self
    }
}

impl Kek {
    pub(crate) fn wrap(&self, kind: &str, reference: &str, value: &[u8]) -> Result<([u8; 12], Vec<u8>), SecretError> {
        let nonce: [u8; 12] = rand::random();
        let aad = self.context(kind, reference);
        let wrapped = self.cipher.encrypt(&Nonce::from(nonce), Payload { msg: value, aad: &aad });
        Ok((nonce, wrapped.map_err(|_| SecretError::Wrap(reference.to_owned()))?))
    }

    pub(crate) fn unwrap(
        &self,
        kind: &str,
        reference: &str,
        nonce: &[u8],
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        let corrupt = || SecretError::Corrupt(reference.to_owned());
        let nonce: [u8; 12] = nonce.try_into().map_err(|_| corrupt())?;
        let aad = self.context(kind, reference);
        let value = self.cipher.decrypt(&Nonce::from(nonce), Payload { msg: wrapped, aad: &aad });
        Ok(Zeroizing::new(value.map_err(|_| corrupt())?))
    }

    // An entry opens only in its own place.
    fn context(&self, kind: &str, reference: &str) -> Vec<u8> {
        format!("v1\0{}\0{kind}\0{reference}", self.id).into_bytes()
    }
}

impl fmt::Debug for KeyEncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyEncryptionKey").field(&self.active.id).finish()
    }
}

#[derive(sqlx::FromRow)]
struct StaleRow {
    kind: String,
    #[sqlx(flatten)]
    row: Row,
}

/// Keys and secrets by reference. Writing the same value under the same reference again changes nothing.
#[derive(Clone)]
pub struct SecretStore {
    pub(crate) pool: PgPool,
    lookups: Lookups,
    keks: Arc<HashMap<i32, Kek>>,
    pub(crate) version: i32,
    known: moka::sync::Cache<String, Arc<SubjectKey>>,
}

impl fmt::Debug for SecretStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretStore").field("version", &self.version).finish_non_exhaustive()
    }
}

impl SecretStore {
    /// Opens the store of a migrated database. The first key it is opened with is its key until one follows it that comes
    /// with it; what the former one wrapped is then wrapped anew.
    pub async fn open(pool: PgPool, kek: KeyEncryptionKey) -> Result<Self, SecretError> {
        let KeyEncryptionKey { active, former } = kek;
        let first = "INSERT INTO vault.key_encryption (version, kek_id) VALUES (1, $1) ON CONFLICT DO NOTHING";
        sqlx::query(first).bind(&active.id).execute(&pool).await?;
        let mut stored = Self::versions(&pool).await?;
        let newest = stored.last().cloned().unwrap_or_default();
        if newest.1 != active.id {
            let foreign = !former.iter().any(|kek| kek.id == newest.1) || stored.iter().any(|(_, id)| *id == active.id);
            if foreign {
                return Err(SecretError::OtherKey { stored: newest.1, given: active.id });
            }
            let next = "INSERT INTO vault.key_encryption (version, kek_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
            sqlx::query(next).bind(newest.0 + 1).bind(&active.id).execute(&pool).await?;
            stored = Self::versions(&pool).await?;
        }
        let version = stored.iter().find(|(_, id)| *id == active.id).map_or(1, |(version, _)| *version);
        let mut given: HashMap<String, Kek> = former.into_iter().map(|kek| (kek.id.clone(), kek)).collect();
        given.insert(active.id.clone(), active);
        let keks = stored.into_iter().filter_map(|(version, id)| Some((version, given.remove(&id)?))).collect();
        let known = moka::sync::Cache::builder().max_capacity(KNOWN_MAX).time_to_live(KNOWN_FOR).build();
        let lookups = Lookups::open(PgConnectOptions::clone(&pool.connect_options()));
        let store = SecretStore { pool, lookups, keks: Arc::new(keks), version, known };
        store.wrap_anew().await?;
        Ok(store)
    }

    async fn versions(pool: &PgPool) -> Result<Vec<(i32, String)>, sqlx::Error> {
        sqlx::query_as("SELECT version, kek_id FROM vault.key_encryption ORDER BY version").fetch_all(pool).await
    }

    pub(crate) fn kek(&self, version: i32) -> Result<&Kek, SecretError> {
        self.keks.get(&version).ok_or(SecretError::MissingKey(version))
    }

    // Each entry by itself: whoever reads meanwhile finds the old wrapping or the new one.
    async fn wrap_anew(&self) -> Result<(), SecretError> {
        let stale = "SELECT kind, ref, nonce, wrapped, kek_version FROM vault.secrets
                     WHERE kek_version <> $1 AND destroyed IS NULL";
        let rows: Vec<StaleRow> = sqlx::query_as(stale).bind(self.version).fetch_all(&self.pool).await?;
        for StaleRow { kind, row } in rows {
            let Some(value) = self.unwrap(&kind, &row)? else { continue };
            let (nonce, wrapped) = self.kek(self.version)?.wrap(&kind, &row.reference, &value)?;
            let update = "UPDATE vault.secrets SET nonce = $3, wrapped = $4, kek_version = $5
                          WHERE kind = $1 AND ref = $2 AND kek_version = $6 AND destroyed IS NULL";
            sqlx::query(update)
                .bind(&kind)
                .bind(&row.reference)
                .bind(&nonce[..])
                .bind(wrapped)
                .bind(self.version)
                .bind(row.kek_version)
                .execute(&self.pool)
                .await?;
        }
        self.wrap_items_anew().await
    }

    fn unwrap(&self, kind: &str, row: &Row) -> Result<Option<Zeroizing<Vec<u8>>>, SecretError> {
        let (Some(nonce), Some(wrapped)) = (&row.nonce, &row.wrapped) else { return Ok(None) };
        self.kek(row.kek_version)?.unwrap(kind, &row.reference, nonce, wrapped).map(Some)
    }

    /// Keeps a person's key, before anything is sealed with it.
    pub async fn put_subject_key(&self, key: &SubjectKey) -> Result<(), SecretError> {
        self.put(SUBJECT_KEY, key.kid(), key.bytes()).await
    }

    /// A person's key; `None` when there is none, or no longer.
    pub async fn subject_key(&self, kid: &str) -> Result<Option<SubjectKey>, SecretError> {
        let row = self.lookups.find(SUBJECT_KEY, &[kid.to_owned()]).await?.pop();
        row.map_or(Ok(None), |row| self.open_subject_key(row))
    }

    /// The keys of several people; those that do not exist, were destroyed or do not open are missing: one damaged entry
    /// must not keep the others from being read.
    pub async fn subject_keys(&self, kids: &[String]) -> Result<HashMap<String, SubjectKey>, SecretError> {
        if kids.is_empty() {
            return Ok(HashMap::new());
        }
        let mut keys = HashMap::with_capacity(kids.len());
        for row in self.lookups.find(SUBJECT_KEY, kids).await? {
            match self.open_subject_key(row) {
                Ok(Some(key)) => _ = keys.insert(key.kid().to_owned(), key),
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "a person's data cannot be read"),
            }
        }
        Ok(keys)
    }

    /// [`SecretStore::subject_keys`] for who reads what is sealed, batch after batch: as they were up to five seconds ago.
    pub async fn recent_subject_keys(&self, kids: &[String]) -> Result<HashMap<String, Arc<SubjectKey>>, SecretError> {
        let known = |kid: &String| Some((kid.clone(), self.known.get(kid)?));
        let mut keys: HashMap<_, _> = kids.iter().filter_map(known).collect();
        let wanted: Vec<String> = kids.iter().filter(|kid| !keys.contains_key(*kid)).cloned().collect();
        for (kid, key) in self.subject_keys(&wanted).await? {
            let key = keys.entry(kid.clone()).or_insert(Arc::new(key));
            self.known.insert(kid, Arc::clone(key));
        }
        Ok(keys)
    }

    /// [`SecretStore::subject_key`], as it was up to five seconds ago.
    pub async fn recent_subject_key(&self, kid: &str) -> Result<Option<Arc<SubjectKey>>, SecretError> {
        if let Some(key) = self.known.get(kid) {
            return Ok(Some(key));
        }
        let key = self.subject_key(kid).await?.map(Arc::new);
        if let Some(key) = &key {
            self.known.insert(kid.to_owned(), Arc::clone(key));
        }
        Ok(key)
    }

    /// Has all keys looked up again: some were destroyed elsewhere.
    pub fn forget_recent(&self) {
        self.known.invalidate_all();
    }

    fn open_subject_key(&self, row: Row) -> Result<Option<SubjectKey>, SecretError> {
        let Some(bytes) = self.unwrap(SUBJECT_KEY, &row)? else { return Ok(None) };
        match bytes.as_slice().try_into() {
            Ok(bytes) => Ok(Some(SubjectKey::from_bytes(row.reference, bytes))),
            Err(_) => Err(SecretError::Corrupt(row.reference)),
        }
    }

    /// Destroys a person's key: what is sealed under it can never be read again. True when there was one.
    pub async fn destroy_subject_key(&self, kid: &str) -> Result<bool, SecretError> {
        self.destroy(SUBJECT_KEY, kid).await
    }

    /// Destroys the keys of a conversation: its own (`kid`), and those of its authors. How many there were.
    pub async fn destroy_conversation_keys(&self, kid: &str) -> Result<u64, SecretError> {
        let authors = "UPDATE vault.secrets SET nonce = NULL, wrapped = NULL, destroyed = now()
                       WHERE kind = $1 AND strpos(ref, '>') > 0 AND split_part(ref, '>', 1) = $2 AND destroyed IS NULL";
        let authors = sqlx::query(authors).bind(SUBJECT_KEY).bind(kid).execute(&self.pool).await?.rows_affected();
        self.known.invalidate_all();
        Ok(authors + u64::from(self.destroy(SUBJECT_KEY, kid).await?))
    }

    /// Destroys the keys of an author in the conversations of an organization, those of a generation below `generation`. How
    /// many there were.
    pub async fn destroy_author_keys(&self, org: &str, author: &str, generation: u32) -> Result<u64, SecretError> {
        let destroy = "UPDATE vault.secrets SET nonce = NULL, wrapped = NULL, destroyed = now()
                       WHERE kind = $1 AND strpos(ref, '>') > 0 AND split_part(ref, '>', 2) = $2
                         AND starts_with(ref, $3) AND destroyed IS NULL
                         AND coalesce(nullif(split_part(ref, '>', 3), '')::bigint, 0) < $4";
        let destroyed = sqlx::query(destroy)
            .bind(SUBJECT_KEY)
            .bind(author)
            .bind(format!("conversation:{org}:"))
            .bind(i64::from(generation))
            .execute(&self.pool)
            .await?;
        self.known.invalidate_all();
        Ok(destroyed.rows_affected())
    }

    /// The organizations in whose conversations an author has said something that can still be read.
    pub async fn orgs_of_author(&self, author: &str) -> Result<Vec<String>, SecretError> {
        let orgs = "SELECT DISTINCT split_part(ref, ':', 2) FROM vault.secrets
                    WHERE kind = $1 AND strpos(ref, '>') > 0 AND split_part(ref, '>', 2) = $2
                      AND starts_with(ref, 'conversation:') AND destroyed IS NULL";
        Ok(sqlx::query_scalar(orgs).bind(SUBJECT_KEY).bind(author).fetch_all(&self.pool).await?)
    }

    /// Keeps a secret (a password's hash, say) under a new reference.
    pub async fn put_secret(&self, reference: &str, value: &Zeroizing<String>) -> Result<(), SecretError> {
        self.put(SECRET, reference, value.as_bytes()).await
    }

    /// A secret; `None` when there is none, or no longer.
    pub async fn secret(&self, reference: &str) -> Result<Option<Zeroizing<String>>, SecretError> {
        let Some(row) = self.lookups.find(SECRET, &[reference.to_owned()]).await?.pop() else { return Ok(None) };
        let Some(mut value) = self.unwrap(SECRET, &row)? else { return Ok(None) };
        let text = String::from_utf8(std::mem::take(&mut *value));
        Ok(Some(Zeroizing::new(text.map_err(|_| SecretError::Corrupt(reference.to_owned()))?)))
    }

    /// Destroys a secret. True when there was one.
    pub async fn destroy_secret(&self, reference: &str) -> Result<bool, SecretError> {
        self.destroy(SECRET, reference).await
    }

    async fn put(&self, kind: &'static str, reference: &str, value: &[u8]) -> Result<(), SecretError> {
        let (nonce, wrapped) = self.kek(self.version)?.wrap(kind, reference, value)?;
        let insert = "INSERT INTO vault.secrets (kind, ref, nonce, wrapped, kek_version) VALUES ($1, $2, $3, $4, $5)
                      ON CONFLICT DO NOTHING";
        let inserted = sqlx::query(insert)
            .bind(kind)
            .bind(reference)
            .bind(&nonce[..])
            .bind(wrapped)
            .bind(self.version)
            .execute(&self.pool)
            .await?;
        if inserted.rows_affected() == 1 {
            return Ok(());
        }
        let kept = self.lookups.find(kind, &[reference.to_owned()]).await?.pop();
        match kept.map(|row| self.unwrap(kind, &row)).transpose()?.flatten() {
            Some(kept) if kept.as_slice() == value => Ok(()),
            Some(_) => Err(SecretError::Taken(reference.to_owned())),
            None => Err(SecretError::Destroyed(reference.to_owned())),
        }
    }

    async fn destroy(&self, kind: &str, reference: &str) -> Result<bool, SecretError> {
        let destroy = "UPDATE vault.secrets SET nonce = NULL, wrapped = NULL, destroyed = now()
                       WHERE kind = $1 AND ref = $2 AND destroyed IS NULL";
        let destroyed = sqlx::query(destroy).bind(kind).bind(reference).execute(&self.pool).await?;
        self.known.invalidate_all();
        Ok(destroyed.rows_affected() == 1)
    }
}
