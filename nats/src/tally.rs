//! Notes of what may happen again and again, told to the log in bounded numbers.
//!
//! The first note about somebody is told immediately. What follows within [`QUIET`] is counted and told together, so that
//! nobody floods the log by trying again. What cannot be told now, the broker being away, is kept for the next time.

use std::{
    collections::HashMap,
    fmt::{Debug, Display},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use symbia_commands::{Actor, CommandEnvelope, DomainCommand};
use symbia_events::{AggregateRef, CommandId, KeyRing};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use crate::bus::CommandBus;

/// Between two commands about the same.
pub const QUIET: Duration = Duration::from_secs(60);
/// Of whom something is kept in mind; what is told of more is lost.
const ABOUT_MAX: usize = 10_000;
const QUEUE: usize = 1024;
const LOOK: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// Something that is counted.
pub trait Note: Clone + Debug + Send + Sync + Sized + 'static {
    /// Whom it is about: one command tells of one of these.
    type About: Clone + Debug + Display + Eq + Hash + Send + Sync + 'static;
    /// What tells it.
    type Command: DomainCommand + Send + Sync;
    /// Different notes of one command; more are counted as one.
    const DIFFERENT: usize;
    /// The service that tells it.
    const BY: &'static str;

    /// Whether another note says the same.
    fn is_same(&self, other: &Self) -> bool;
    /// It happened again, as the later note says.
    fn again(&mut self, later: &Self);
    /// Without what tells it from others: for what happens in too many ways.
    fn unspecific(&self) -> Self;
    /// The command, and where it goes; none when it can go nowhere.
    fn command(about: &Self::About, notes: Vec<Self>) -> Option<(AggregateRef, Self::Command)>;
}

/// Takes notes and tells the log. Cheap to clone; it ends, with everything told, when the last clone is dropped.
#[derive(Debug)]
pub struct Tally<N: Note>(mpsc::Sender<(N::About, N)>);

impl<N: Note> Clone for Tally<N> {
    fn clone(&self) -> Self {
        Tally(self.0.clone())
    }
}

impl<N: Note> Tally<N> {
    /// A tally that sends over a bus.
    #[must_use]
    pub fn open(bus: CommandBus, keys: Arc<KeyRing>) -> Self {
        let (sender, noted) = mpsc::channel(QUEUE);
        tokio::spawn(run(bus, keys, noted));
        Tally(sender)
    }

    /// Takes note; does not wait.
    pub fn note(&self, about: N::About, note: N) {
        if let Err(error) = self.0.try_send((about, note)) {
            tracing::warn!(%error, "a refusal is not noted");
        }
    }
}

async fn run<N: Note>(bus: CommandBus, keys: Arc<KeyRing>, mut noted: mpsc::Receiver<(N::About, N)>) {
    let mut book = Book::default();
    let mut looks = tokio::time::interval(LOOK);
    loop {
        let open = tokio::select! {
            next = noted.recv() => match next {
                Some((about, note)) => {
                    book.note(about, note);
                    true
                }
                None => false,
            },
            _ = looks.tick() => true,
        };
        let due = if open { book.due(OffsetDateTime::now_utc()) } else { book.rest() };
        let sent = join_all(due.into_iter().map(|(about, notes)| send(&bus, &keys, about, notes))).await;
        sent.into_iter().flatten().for_each(|(about, unsent)| book.keep(about, unsent));
        if !open {
            return;
        }
    }
}

// Gives back what could not be told.
async fn send<N: Note>(bus: &CommandBus, keys: &KeyRing, about: N::About, notes: Vec<N>) -> Option<(N::About, Vec<N>)> {
    let (address, command) = N::command(&about, notes.clone())?;
    let (id, actor, now) = (CommandId::random(), Actor::service(N::BY), OffsetDateTime::now_utc());
    let envelope = CommandEnvelope::new(keys, &address, &command, &actor, id, now).ok()?;
    match bus.send(&address, &envelope, PATIENCE).await {
        Ok(outcome) => {
            if let Some(rejection) = outcome.rejection {
                tracing::error!(%about, %rejection, "refusals are not noted");
            }
            None
        }
        Err(error) => {
            tracing::warn!(%about, %error, "refusals are not noted yet");
            Some((about, notes))
        }
    }
}

/// What is known of each and not told yet.
struct Book<N: Note>(HashMap<N::About, Page<N>>);

struct Page<N> {
    quiet_until: Option<OffsetDateTime>,
    notes: Vec<N>,
}

impl<N: Note> Default for Book<N> {
    fn default() -> Self {
        Book(HashMap::new())
    }
}

impl<N> Default for Page<N> {
    fn default() -> Self {
        Page { quiet_until: None, notes: Vec::new() }
    }
}

impl<N: Note> Page<N> {
    fn add(&mut self, note: N) {
        if let Some(held) = self.notes.iter_mut().find(|held| held.is_same(&note)) {
            return held.again(&note);
        }
        if self.notes.len() < N::DIFFERENT {
            return self.notes.push(note);
        }
        let rest = note.unspecific();
        match self.notes.iter_mut().find(|held| held.is_same(&rest)) {
            Some(held) => held.again(&rest),
            None => self.notes.push(rest),
        }
    }
}

impl<N: Note> Book<N> {
    fn note(&mut self, about: N::About, note: N) {
        if self.0.len() >= ABOUT_MAX && !self.0.contains_key(&about) {
            tracing::warn!(%about, "a refusal is not noted: too many principals at once");
            return;
        }
        self.0.entry(about).or_default().add(note);
    }

    // Those of whom nothing was told lately, and nothing is to be told, are forgotten.
    fn due(&mut self, now: OffsetDateTime) -> Vec<(N::About, Vec<N>)> {
        self.0.retain(|_, page| !page.notes.is_empty() || page.quiet_until.is_some_and(|until| until > now));
        let pages = self.0.iter_mut();
        let due = pages.filter(|(_, page)| !page.notes.is_empty() && page.quiet_until.is_none_or(|until| until <= now));
        due.map(|(about, page)| {
            page.quiet_until = Some(now + QUIET);
            (about.clone(), std::mem::take(&mut page.notes))
        })
        .collect()
    }

    fn rest(&mut self) -> Vec<(N::About, Vec<N>)> {
        let told = self.0.drain().filter(|(_, page)| !page.notes.is_empty());
        told.map(|(about, page)| (about, page.notes)).collect()
    }

    fn keep(&mut self, about: N::About, unsent: Vec<N>) {
        let page = self.0.entry(about).or_default();
        let newer = std::mem::take(&mut page.notes);
        unsent.into_iter().chain(newer).for_each(|note| page.add(note));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use symbia_commands::network::RefusalsCommand;

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    /// What was done, and how often.
    #[derive(Clone, Debug, PartialEq)]
    struct Tried(&'static str, u32);

    impl Note for Tried {
        type About = String;
        type Command = RefusalsCommand;
        const DIFFERENT: usize = 3;
        const BY: &'static str = "network";

        fn is_same(&self, other: &Self) -> bool {
            self.0 == other.0
        }

        fn again(&mut self, later: &Self) {
            self.1 += later.1;
        }

        fn unspecific(&self) -> Self {
            Tried("*", self.1)
        }

        fn command(_: &String, _: Vec<Self>) -> Option<(AggregateRef, RefusalsCommand)> {
            None
        }
    }

    fn note(book: &mut Book<Tried>, who: &str, what: &'static str) {
        book.note(who.to_owned(), Tried(what, 1));
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_of_the_minute_together() {
        let mut book = Book::default();
        note(&mut book, "eve", "a");
        assert_eq!(book.due(NOW), [("eve".to_owned(), vec![Tried("a", 1)])]);
        for what in ["a", "b", "a"] {
            note(&mut book, "eve", what);
        }
        assert!(book.due(NOW + QUIET / 2).is_empty());
        // Nobody else waits for her minute.
        note(&mut book, "bob", "c");
        assert_eq!(book.due(NOW + QUIET / 2).len(), 1);
        assert_eq!(book.due(NOW + QUIET)[0].1, [Tried("a", 2), Tried("b", 1)]);
        assert!(book.due(NOW + QUIET * 3).is_empty() && book.0.is_empty());
    }

    #[test]
    fn whoever_tries_everything_fills_no_more_than_a_command() {
        let mut book = Book::default();
        for _ in 0..200 {
            ["a", "b", "c", "d", "e"].into_iter().for_each(|what| note(&mut book, "eve", what));
        }
        let told = book.due(NOW).remove(0).1;
        assert_eq!(told, [Tried("a", 200), Tried("b", 200), Tried("c", 200), Tried("*", 400)]);
    }

    #[test]
    fn what_could_not_be_told_is_told_later_and_at_the_end() {
        let mut book = Book::default();
        note(&mut book, "eve", "a");
        let (who, unsent) = book.due(NOW).remove(0);
        note(&mut book, "eve", "a");
        book.keep(who, unsent);
        assert_eq!(book.rest()[0].1, [Tried("a", 2)]);
    }
}
