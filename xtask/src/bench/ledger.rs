//! The aggregate that the benchmark writes: a ledger whose events have 1 KB each.

use serde::{Deserialize, Serialize};
use symbia_commands::{Actor, Aggregate, CommandEnvelope, Decision, Rejection, domain_commands};
use symbia_events::{AggregateRef, CommandId, Context, KeyRing, OrgId, Service, Signed, domain_events, sign_commit};
use symbia_workers::command::Handlers;
use time::OffsetDateTime;

/// Size of an event, envelope and signature included.
const EVENT_BYTES: usize = 1024;

domain_events! {
    /// Events of a ledger.
    LedgerEvent: Logging / "ledger" {
        Noted = "symbia.logging.ledger.noted.v1" { text: String }
    }
}

domain_commands! {
    /// Commands of a ledger.
    LedgerCommand: Logging / "ledger" {
        Note = "symbia.cmd.logging.note.v1" { text: String, times: u32 }
    }
}

/// Counts its notes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    notes: u64,
}

impl Aggregate for Ledger {
    const STATE_VERSION: u32 = 1;
    type Command = LedgerCommand;
    type Event = LedgerEvent;

    fn apply(&mut self, _: &LedgerEvent) {
        self.notes += 1;
    }

    fn decide(&self, command: LedgerCommand, _: &Actor, _: OffsetDateTime) -> Result<Decision<LedgerEvent>, Rejection> {
        let LedgerCommand::Note(note) = command;
        let events = (0..note.times).map(|_| Noted { text: note.text.clone() }.into());
        Ok(Decision { events: events.collect(), claims: Vec::new() })
    }
}

/// A command worker's handlers: ledgers alone.
pub fn handlers() -> Handlers {
    Handlers::default().with::<Ledger>()
}

/// The `index`-th ledger.
pub fn address(index: usize) -> AggregateRef {
    AggregateRef {
        service: Service::Logging,
        tenant: OrgId::global(),
        kind: "ledger".to_owned(),
        id: format!("l{index}"),
    }
}

/// Who writes.
pub fn actor() -> Actor {
    Actor::service("bench")
}

/// The text that makes an event 1 KB.
pub fn text(keys: &KeyRing) -> String {
    let empty = sign(keys, &address(0), 10, &"h".repeat(43), Noted { text: String::new() });
    "x".repeat(EVENT_BYTES.saturating_sub(empty.map_or(0, |signed| signed.bytes.len())))
}

/// The next event of a ledger, signed and chained behind the last.
pub fn sign(
    keys: &KeyRing,
    ledger: &AggregateRef,
    version: u32,
    prevhash: &str,
    note: Noted,
) -> anyhow::Result<Signed> {
    let actor = actor();
    let id = CommandId::random();
    let context = Context {
        actor_id: actor.id,
        actor_type: actor.kind,
        on_behalf_of: None,
        auth_method: actor.auth,
        command_id: id,
        correlation_id: id.to_string(),
        causation_id: id.to_string(),
        traceparent: None,
        data_class: None,
        env: None,
        policy_ref: None,
        at: OffsetDateTime::now_utc(),
    };
    let mut signed = sign_commit(keys, ledger, &context, version, prevhash, &[LedgerEvent::from(note)])?;
    signed.pop().ok_or_else(|| anyhow::anyhow!("no event"))
}

/// A command that notes a text `times` times in one commit.
pub fn command(keys: &KeyRing, ledger: &AggregateRef, text: &str, times: u32) -> anyhow::Result<CommandEnvelope> {
    let note = LedgerCommand::from(Note { text: text.to_owned(), times });
    let (id, now) = (CommandId::random(), OffsetDateTime::now_utc());
    Ok(CommandEnvelope::new(keys, ledger, &note, &actor(), id, now)?)
}
