//! Passwords: bcrypt, off the async threads and never more at once than there are cores (identity.md §4.5).
//!
//! bcrypt ignores what follows the 72nd byte. A longer password is refused rather than hashed first: a hash of a hash
//! would be one more format to keep, and 72 bytes are more than enough.

use std::{sync::Arc, thread};

use tokio::{sync::Semaphore, task::spawn_blocking};
use zeroize::Zeroizing;

use crate::http::{ApiError, Validation};

/// Name of the algorithm in events.
pub const ALGORITHM: &str = "bcrypt";
/// Fewest characters of a new password.
const MIN_CHARACTERS: usize = 8;
/// Most bytes, in UTF-8.
const MAX_BYTES: usize = 72;

/// Hashes and checks passwords. Cheap to clone.
#[derive(Clone)]
pub struct Passwords {
    cost: u32,
    /// A hash that no password has: checking against it takes as long as checking against a real one.
    nobody: Arc<Zeroizing<String>>,
    cores: Arc<Semaphore>,
}

impl Passwords {
    /// With bcrypt's cost, which is brought within 4 to 31.
    #[must_use]
    pub fn new(cost: u32) -> Self {
        let cost = cost.clamp(4, 31);
        let nobody = format!("$2b${cost:02}${}{}", "symbiaNobodyHasThis...", "......NoPasswordGivesThisHash..");
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Passwords { cost, nobody: Arc::new(Zeroizing::new(nobody)), cores: Arc::new(Semaphore::new(cores)) }
    }

    /// The rules for a new password.
    pub fn check(rules: &mut Validation, path: &str, password: &str) {
        rules.check(password.chars().count() >= MIN_CHARACTERS, path, "length", "must have at least 8 characters");
        rules.check(
            password.len() <= MAX_BYTES,
            path,
            "length",
            "must have at most 72 bytes in UTF-8: the rest would not count",
        );
    }

    /// The hash of a password.
    ///
    /// # Errors
    /// 500 when the hash cannot be made.
    pub async fn hash(&self, password: Zeroizing<String>) -> Result<Zeroizing<String>, ApiError> {
        let cost = self.cost;
        let hash = self.run(move || bcrypt::hash(password.as_bytes(), cost)).await?;
        hash.map(Zeroizing::new).map_err(ApiError::internal)
    }

    /// Whether a password gives a hash; without a hash it does not, and finding out takes as long.
    ///
    /// # Errors
    /// 500 when the hash is none.
    pub async fn verify(&self, password: Zeroizing<String>, hash: Option<Zeroizing<String>>) -> Result<bool, ApiError> {
        let known = hash.is_some() && password.len() <= MAX_BYTES;
        let hash = hash.unwrap_or_else(|| Zeroizing::new((**self.nobody).clone()));
        let fits = self.run(move || bcrypt::verify(password.as_bytes(), &hash)).await?;
        Ok(fits.map_err(ApiError::internal)? && known)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
        let turn = Arc::clone(&self.cores).acquire_owned().await.map_err(ApiError::internal)?;
        // The turn ends with the work, also when the caller went away before.
        let work = move || {
            let result = work();
            drop(turn);
            result
        };
        spawn_blocking(work).await.map_err(ApiError::internal)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::time::Instant;

    use super::*;

    fn text(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    #[tokio::test]
    async fn an_unknown_account_costs_the_same_work_and_never_matches() {
        let passwords = Passwords::new(8);
        let hash = passwords.hash(text("correct horse")).await.unwrap();
        assert!(passwords.verify(text("correct horse"), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify(text("wrong horse"), Some(hash.clone())).await.unwrap());
        let began = Instant::now();
        passwords.verify(text("wrong horse"), Some(hash)).await.unwrap();
        let known = began.elapsed();
        let began = Instant::now();
        assert!(!passwords.verify(text("wrong horse"), None).await.unwrap());
        // Work, not a shortcut: a refused dummy would take microseconds.
        assert!(began.elapsed() * 4 > known);
    }

    #[test]
    fn short_and_overlong_passwords_are_refused_by_name() {
        for (password, fits) in
            [("1234567", false), ("12345678", true), (&"ü".repeat(36), true), (&"ü".repeat(37), false)]
        {
            let mut rules = Validation::new();
            Passwords::check(&mut rules, "password", password);
            assert_eq!(rules.finish().is_ok(), fits, "{password}");
        }
    }
}
