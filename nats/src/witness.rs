//! Who asked for what they may not, and who used an operator's right elsewhere: told to the log at once, and in bounded numbers.
//!
//! The first thing about a principal is told immediately. What follows within [`QUIET`] is counted and told together, so that
//! nobody floods the log by asking again and again. What cannot be told now, the broker being away, is kept for the next time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::join_all;
use symbia_commands::{
    Actor, CommandEnvelope,
    identity::{AccessCommand, AccessKind, AccessNote, NOTE_TEXT_MAX, NOTES_MAX, NoteAccess},
};
use symbia_events::{AggregateRef, CommandId, KeyRing, OrgId, Service, check_token};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::mpsc;

use crate::bus::CommandBus;

/// Between two commands about the same principal.
pub const QUIET: Duration = Duration::from_secs(60);
/// Different things about a principal between two commands; more are counted as one.
const DIFFERENT: usize = NOTES_MAX - 2;
/// Principals kept in mind; what is told of more is lost.
const PRINCIPALS: usize = 10_000;
const QUEUE: usize = 1024;
const LOOK: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
/// Stands for the operations that are not told one by one.
const OTHERS: &str = "*";

/// The codes of refusals that mean a missing right, and not a missing thing or a wrong value.
pub const DENIALS: [&str; 13] = [
    "FORBIDDEN",
    "ORG_ACCESS_DENIED",
    "INSUFFICIENT_ROLE",
    "INSUFFICIENT_SCOPE",
    "MISSING_CAPABILITY",
    "SUPERADMIN_REQUIRED",
    "USER_PRINCIPAL_REQUIRED",
    "AGENT_PRINCIPAL_REQUIRED",
    "WRONG_TENANT",
    "NODE_OWNED",
    "AGENT_ID_MISMATCH",
    "SOURCE_NOT_OWNED",
    "SIGNATURE_INVALID",
];

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who.
    pub principal: String,
    /// The organization that it was about.
    pub org: Option<String>,
    /// Type of the command, or method and route of the request.
    pub operation: String,
    /// What.
    pub kind: AccessKind,
}

/// Tells the log what was seen. Cheap to clone; it ends, with everything told, when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Witness(mpsc::Sender<Seen>);

impl Witness {
    /// A witness that sends over a bus.
    #[must_use]
    pub fn open(bus: CommandBus, keys: Arc<KeyRing>) -> Self {
        let (sender, seen) = mpsc::channel(QUEUE);
        tokio::spawn(run(bus, keys, seen));
        Witness(sender)
    }

    /// Takes note; does not wait.
    pub fn tell(&self, seen: Seen) {
        if let Err(error) = self.0.try_send(seen) {
            tracing::warn!(%error, "a refused access is not noted");
        }
    }
}

async fn run(bus: CommandBus, keys: Arc<KeyRing>, mut seen: mpsc::Receiver<Seen>) {
    let mut book = Book::default();
    let mut looks = tokio::time::interval(LOOK);
    loop {
        let open = tokio::select! {
            next = seen.recv() => match next {
                Some(next) => {
                    book.note(next, OffsetDateTime::now_utc());
                    true
                }
                None => false,
            },
            _ = looks.tick() => true,
        };
        let due = if open { book.due(OffsetDateTime::now_utc()) } else { book.rest() };
        let sent = join_all(due.into_iter().map(|note| send(&bus, &keys, note))).await;
        sent.into_iter().flatten().for_each(|unsent| book.keep(unsent));
        if !open {
            return;
        }
    }
}

// Gives back what could not be told.
async fn send(bus: &CommandBus, keys: &KeyRing, note: NoteAccess) -> Option<NoteAccess> {
    let address = AggregateRef::new(Service::Identity, OrgId::global(), "access", note.principal_id.as_str()).ok()?;
    let (id, actor, now) = (CommandId::random(), Actor::service("identity"), OffsetDateTime::now_utc());
    let command = AccessCommand::from(note.clone());
    let envelope = CommandEnvelope::new(keys, &address, &command, &actor, id, now).ok()?;
    match bus.send(&address, &envelope, PATIENCE).await {
        Ok(outcome) => {
            if let Some(rejection) = outcome.rejection {
                tracing::error!(principal = note.principal_id, %rejection, "refused accesses are not noted");
            }
            None
        }
        Err(error) => {
            tracing::warn!(principal = note.principal_id, %error, "refused accesses are not noted yet");
            Some(note)
        }
    }
}

/// What is known of each principal and not told yet.
#[derive(Default)]
struct Book(HashMap<String, Page>);

#[derive(Default)]
struct Page {
    quiet_until: Option<OffsetDateTime>,
    notes: Vec<AccessNote>,
}

impl Page {
    fn add(&mut self, note: AccessNote) {
        let same =
            |a: &AccessNote, b: &AccessNote| (&a.kind, &a.org_id, &a.operation) == (&b.kind, &b.org_id, &b.operation);
        if let Some(held) = self.notes.iter_mut().find(|held| same(held, &note)) {
            held.count = held.count.saturating_add(note.count);
            held.last_at = note.last_at;
            return;
        }
        if self.notes.len() < DIFFERENT || note.operation == OTHERS {
            self.notes.push(note);
            return;
        }
        let code = "FORBIDDEN".to_owned();
        self.add(AccessNote { kind: AccessKind::Denied { code }, org_id: None, operation: OTHERS.to_owned(), ..note });
    }
}

impl Book {
    fn note(&mut self, seen: Seen, now: OffsetDateTime) {
        // An OAuth client's id is a URL, which addresses nothing.
        let principal = if check_token(&seen.principal).is_ok() { seen.principal } else { "client".to_owned() };
        if self.0.len() >= PRINCIPALS && !self.0.contains_key(&principal) {
            tracing::warn!(principal, "a refused access is not noted: too many principals at once");
            return;
        }
        let at = now.format(&Rfc3339).unwrap_or_default();
        let short = |text: String| text.chars().take(NOTE_TEXT_MAX).collect::<String>();
        let kind = match seen.kind {
            AccessKind::Denied { code } => AccessKind::Denied { code: short(code) },
            AccessKind::CrossTenant { reason } => AccessKind::CrossTenant { reason: short(reason) },
        };
        self.0.entry(principal).or_default().add(AccessNote {
            kind,
            org_id: seen.org.filter(|org| check_token(org).is_ok()),
            operation: short(seen.operation),
            count: 1,
            first_at: at.clone(),
            last_at: at,
        });
    }

    // Principals of whom nothing was told lately, and nothing is to be told, are forgotten.
    fn due(&mut self, now: OffsetDateTime) -> Vec<NoteAccess> {
        self.0.retain(|_, page| !page.notes.is_empty() || page.quiet_until.is_some_and(|until| until > now));
        let pages = self.0.iter_mut();
        let due = pages.filter(|(_, page)| !page.notes.is_empty() && page.quiet_until.is_none_or(|until| until <= now));
        due.map(|(principal, page)| {
            page.quiet_until = Some(now + QUIET);
            NoteAccess { principal_id: principal.clone(), notes: std::mem::take(&mut page.notes) }
        })
        .collect()
    }

    fn rest(&mut self) -> Vec<NoteAccess> {
        let told = self.0.drain().filter(|(_, page)| !page.notes.is_empty());
        told.map(|(principal_id, page)| NoteAccess { principal_id, notes: page.notes }).collect()
    }

    fn keep(&mut self, unsent: NoteAccess) {
        let page = self.0.entry(unsent.principal_id).or_default();
        let newer = std::mem::take(&mut page.notes);
        unsent.notes.into_iter().chain(newer).for_each(|note| page.add(note));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn denied(principal: &str, operation: &str) -> Seen {
        let kind = AccessKind::Denied { code: "FORBIDDEN".to_owned() };
        Seen { principal: principal.to_owned(), org: None, operation: operation.to_owned(), kind }
    }

    fn counts(notes: &NoteAccess) -> Vec<(&str, u32)> {
        notes.notes.iter().map(|note| (note.operation.as_str(), note.count)).collect()
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_of_the_minute_together() {
        let mut book = Book::default();
        book.note(denied("eve", "GET /a"), NOW);
        assert_eq!(counts(&book.due(NOW)[0]), [("GET /a", 1)]);
        for operation in ["GET /a", "GET /b", "GET /a"] {
            book.note(denied("eve", operation), NOW);
        }
        assert!(book.due(NOW + QUIET / 2).is_empty());
        // Nobody else waits for her minute.
        book.note(denied("bob", "GET /c"), NOW);
        assert_eq!(book.due(NOW + QUIET / 2).len(), 1);
        assert_eq!(counts(&book.due(NOW + QUIET)[0]), [("GET /a", 2), ("GET /b", 1)]);
        assert!(book.due(NOW + QUIET * 3).is_empty() && book.0.is_empty());
    }

    #[test]
    fn whoever_tries_everything_fills_no_more_than_a_command() {
        let mut book = Book::default();
        for n in 0..1000 {
            book.note(denied("eve", &format!("GET /{n}")), NOW);
        }
        let told = book.due(NOW).remove(0);
        assert!(told.notes.len() <= NOTES_MAX);
        assert_eq!(told.notes.iter().map(|note| note.count).sum::<u32>(), 1000);
    }

    #[test]
    fn what_could_not_be_told_is_told_later_and_at_the_end() {
        let mut book = Book::default();
        book.note(denied("eve", "GET /a"), NOW);
        let unsent = book.due(NOW).remove(0);
        book.note(denied("eve", "GET /a"), NOW);
        book.keep(unsent);
        assert_eq!(counts(&book.rest()[0]), [("GET /a", 2)]);
    }

    #[test]
    fn texts_are_cut_and_what_is_no_address_has_a_common_one() {
        let mut book = Book::default();
        book.note(denied("https://client.test/x", &"x".repeat(1000)), NOW);
        let told = book.due(NOW).remove(0);
        assert_eq!((told.principal_id.as_str(), told.notes[0].operation.len()), ("client", NOTE_TEXT_MAX));
    }
}
