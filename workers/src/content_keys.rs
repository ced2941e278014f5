//! The keys that open what people wrote, kept in memory for a moment: a destroyed key is forgotten within [`KEPT`].

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use moka::sync::Cache;
use symbia_events::{Personal, SubjectKey, UnsealError};
use symbia_projections::secrets::{SecretError, SecretStore};

/// How long a key is kept.
pub const KEPT: Duration = Duration::from_secs(10);
const MOST: u64 = 10_000;

/// Reads keys from the secret store. Cheap to clone.
#[derive(Clone)]
pub struct ContentKeys {
    store: SecretStore,
    kept: Cache<String, SubjectKey>,
}

impl ContentKeys {
    /// Keys of a store.
    #[must_use]
    pub fn new(store: SecretStore) -> Self {
        ContentKeys { store, kept: Cache::builder().max_capacity(MOST).time_to_live(KEPT).build() }
    }

    /// A key; `None` when there is none, or no longer.
    pub async fn key(&self, kid: &str) -> Result<Option<SubjectKey>, SecretError> {
        if let Some(key) = self.kept.get(kid) {
            return Ok(Some(key));
        }
        let key = self.store.subject_key(kid).await?;
        if let Some(key) = &key {
            self.kept.insert(kid.to_owned(), key.clone());
        }
        Ok(key)
    }

    /// The keys of these ids that there are; [`kids`] collects them.
    pub async fn opener(&self, kids: Vec<String>) -> Result<Opener, SecretError> {
        let (mut keys, mut missing) = (HashMap::with_capacity(kids.len()), Vec::new());
        for kid in kids {
            match self.kept.get(&kid) {
                Some(key) => _ = keys.insert(kid, key),
                None => missing.push(kid),
            }
        }
        for (kid, key) in self.store.subject_keys(&missing).await? {
            self.kept.insert(kid.clone(), key.clone());
            keys.insert(kid, key);
        }
        Ok(Opener(keys))
    }
}

/// The ids of the keys that these texts are sealed with.
pub fn kids<'t>(sealed: impl IntoIterator<Item = &'t Personal>) -> Vec<String> {
    sealed.into_iter().map(|text| text.kid.clone()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Opens texts with the keys at hand.
pub struct Opener(HashMap<String, SubjectKey>);

impl Opener {
    /// One of the keys.
    #[must_use]
    pub fn key(&self, kid: &str) -> Option<&SubjectKey> {
        self.0.get(kid)
    }

    /// The text, unless its key is gone or it was changed.
    pub fn open(&self, sealed: &Personal) -> Result<String, UnsealError> {
        let wrong = || UnsealError::WrongKey { kid: sealed.kid.clone(), alg: sealed.alg.clone() };
        self.0.get(&sealed.kid).ok_or_else(wrong)?.open(sealed)
    }
}
