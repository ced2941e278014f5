//! The keys that open what people wrote, as the secret store knew them a moment ago.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use symbia_events::{Personal, SubjectKey, UnsealError};
use symbia_projections::secrets::{SecretError, SecretStore};

/// Reads keys from the secret store. Cheap to clone.
#[derive(Clone)]
pub struct ContentKeys(SecretStore);

impl ContentKeys {
    /// Keys of a store.
    #[must_use]
    pub fn new(store: SecretStore) -> Self {
        ContentKeys(store)
    }

    /// A key; `None` when there is none, or no longer.
    pub async fn key(&self, kid: &str) -> Result<Option<SubjectKey>, SecretError> {
        Ok(self.0.recent_subject_key(kid).await?.map(Arc::unwrap_or_clone))
    }

    /// The keys of these ids that there are; [`kids`] collects them.
    pub async fn opener(&self, kids: Vec<String>) -> Result<Opener, SecretError> {
        Ok(Opener(self.0.recent_subject_keys(&kids).await?))
    }
}

/// The ids of the keys that these texts are sealed with.
pub fn kids<'t>(sealed: impl IntoIterator<Item = &'t Personal>) -> Vec<String> {
    sealed.into_iter().map(|text| text.kid.clone()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Opens texts with the keys at hand.
pub struct Opener(HashMap<String, Arc<SubjectKey>>);

impl Opener {
    /// One of the keys.
    #[must_use]
    pub fn key(&self, kid: &str) -> Option<&SubjectKey> {
        self.0.get(kid).map(AsRef::as_ref)
    }

    /// The text, unless its key is gone or it was changed.
    pub fn open(&self, sealed: &Personal) -> Result<String, UnsealError> {
        let wrong = || UnsealError::WrongKey { kid: sealed.kid.clone(), alg: sealed.alg.clone() };
        self.0.get(&sealed.kid).ok_or_else(wrong)?.open(sealed)
    }
}
