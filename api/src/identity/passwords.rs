//! Passwords: bcrypt, on threads of its own that give way to all others, one per core (identity.md §4.5). A storm of log-ins
//! waits in a line of bounded length, and what does not fit is asked to come again: the rest of the service goes on.
//!
//! bcrypt ignores what follows the 72nd byte. A longer password is refused rather than hashed first: a hash of a hash
//! would be one more format to keep, and 72 bytes are more than enough.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, TrySendError},
    },
    thread,
};

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::http::{ApiError, Validation};

/// Name of the algorithm in events.
pub const ALGORITHM: &str = "bcrypt";
/// Fewest characters of a new password.
const MIN_CHARACTERS: usize = 8;
/// How many wait per core before more are turned away: about ten seconds of hashing at bcrypt's cost 10.
const LINE: usize = 128;
/// How much the hashing threads give way (nice).
const GIVE_WAY: i32 = 10;
/// Most bytes, in UTF-8.
const MAX_BYTES: usize = 72;

type Job = Box<dyn FnOnce() + Send>;

/// Hashes and checks passwords. Cheap to clone; its threads end with the last clone.
#[derive(Clone)]
pub struct Passwords {
    cost: u32,
    /// A hash that no password has: checking against it takes as long as checking against a real one.
    nobody: Arc<Zeroizing<String>>,
    line: mpsc::SyncSender<Job>,
}

impl Passwords {
    /// With bcrypt's cost, which is brought within 4 to 31.
    #[must_use]
    pub fn new(cost: u32) -> Self {
        let cost = cost.clamp(4, 31);
        let nobody = format!("$2b${cost:02}${}{}", "symbiaNobodyHasThis...", "......NoPasswordGivesThisHash..");
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Passwords { cost, nobody: Arc::new(Zeroizing::new(nobody)), line: line(cores, cores * LINE) }
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
        let (sender, result) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Who went away needs no hash.
            if !sender.is_closed() {
                let _ = sender.send(work());
            }
        });
        match self.line.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(ApiError::unavailable("Signing in", 5)),
            Err(TrySendError::Disconnected(_)) => return Err(ApiError::internal("no thread hashes passwords")),
        }
        result.await.map_err(|_| ApiError::internal("a thread that hashes passwords ended"))
    }
}

/// Threads that work off a line of at most so many jobs.
fn line(threads: usize, length: usize) -> mpsc::SyncSender<Job> {
    let (sender, jobs) = mpsc::sync_channel::<Job>(length);
    let jobs = Arc::new(Mutex::new(jobs));
    for _ in 0..threads {
        let jobs = Arc::clone(&jobs);
        let work = move || {
            // On Linux this is of the thread alone.
            if rustix::process::nice(GIVE_WAY).is_err() {
                tracing::debug!("the hashing threads cannot give way");
            }
            loop {
                let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(job) = next else { return };
                job();
            }
        };
        if let Err(error) = thread::Builder::new().name("passwords".to_owned()).spawn(work) {
            tracing::error!(%error, "a thread that hashes passwords cannot be started");
        }
    }
    sender
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

    #[tokio::test]
    async fn a_storm_waits_in_a_line_of_bounded_length_and_the_rest_is_turned_away() {
        let mut passwords = Passwords::new(4);
        passwords.line = line(1, 2);
        let (begin, begun) = (Arc::new(std::sync::Barrier::new(2)), Arc::new(std::sync::Barrier::new(2)));
        let (wait, tell) = (Arc::clone(&begin), Arc::clone(&begun));
        let busy = {
            let passwords = passwords.clone();
            tokio::spawn(async move {
                let work = move || {
                    tell.wait();
                    wait.wait();
                };
                passwords.run(work).await
            })
        };
        tokio::task::spawn_blocking(move || begun.wait()).await.unwrap();
        while passwords.line.try_send(Box::new(|| {})).is_ok() {}
        let refused = passwords.run(|| ()).await.unwrap_err();
        assert_eq!((refused.status().as_u16(), refused.code()), (503, "SERVICE_UNAVAILABLE"));
        begin.wait();
        busy.await.unwrap().unwrap();
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
