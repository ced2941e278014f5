//! The event store: load an aggregate, decide, append, and never decide a command twice (DESIGN §3).

use std::{sync::Arc, time::Duration};

use crate::{
    append::{Append, AppendError, Appender, Grouping},
    history::History,
    read::{self, ReadError, Stored},
    snapshot::Snapshots,
};
use async_nats::Client;
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor, Aggregate, ClaimChange, CommandEnvelope, Decision, DomainCommand, EventRef, MAX_SKEW, Outcome,
    OutcomeStatus, Rejection, TenantRule, check_address, claim,
};
use symbia_events::{
    AggregateRef, CommandId, Context, DecodeError, DomainEvent, EncodeError, Event, GENESIS, KeyRing, MAX_DATA,
    Position, Signed, canonical, commit, sign_commit, sign_data,
};
use time::OffsetDateTime;

/// How often a decision is taken anew after the aggregate moved on, or an append repeated that got no answer.
const ATTEMPTS: usize = 8;

/// How a store is set up.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Whether commits are grouped: right where the broker syncs each write.
    pub grouping: Grouping,
    /// Aggregates kept in memory.
    pub cache: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions { grouping: Grouping::Group, cache: 100_000 }
    }
}

/// The store failed; whether the command was done is open until it is repeated.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The log cannot be written now.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The log cannot be read now.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log holds something that must not be believed.
    #[error("{aggregate}, stream sequence {sequence}: {error}; run `symbia audit verify`")]
    Untrusted {
        /// The aggregate.
        aggregate: String,
        /// Where.
        sequence: u64,
        /// Why.
        error: DecodeError,
    },
    /// The events cannot be written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// An aggregate's state with what is needed to append to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Loaded<A> {
    /// The state.
    pub state: A,
    /// Events folded into it.
    pub version: u32,
    /// Stream sequence of its last message; 0 = it has none.
    pub sequence: u64,
    /// Hash of its last event.
    pub last_hash: String,
    pub(crate) commands: History,
}

impl<A: Aggregate> Default for Loaded<A> {
    fn default() -> Self {
        Loaded {
            state: A::default(),
            version: 0,
            sequence: 0,
            last_hash: GENESIS.to_owned(),
            commands: History::default(),
        }
    }
}

impl<A: Aggregate> Loaded<A> {
    /// Whether a commit comes right behind what is folded.
    fn is_followed_by(&self, commit: &[Signed]) -> bool {
        let follows =
            |first: &Signed| first.event.aggregateversion == self.version + 1 && first.event.prevhash == self.last_hash;
        commit.first().is_some_and(follows)
    }

    fn fold(&mut self, commit: &[Signed], sequence: u64) -> Result<(), DecodeError> {
        let Some(first) = commit.first().map(|first| &first.event) else { return Ok(()) };
        for signed in commit {
            let event = &signed.event;
            if event.aggregateversion != self.version + 1 || event.prevhash != self.last_hash {
                return Err(DecodeError::Envelope(format!(
                    "event {} (version {}) does not follow version {} of its chain",
                    event.id, event.aggregateversion, self.version
                )));
            }
            self.state.apply(&event.decode::<A::Event>()?);
            self.version = event.aggregateversion;
            self.last_hash.clone_from(&signed.hash);
        }
        self.sequence = sequence;
        let types = commit.iter().map(|signed| signed.event.event_type.as_str());
        self.commands.push(first.commandid, first.time, sequence, first.aggregateversion, types);
        Ok(())
    }
}

/// The event store. Cheap to clone.
#[derive(Clone)]
pub struct EventStore {
    client: Client,
    keys: Arc<KeyRing>,
    appender: Appender,
    snapshots: Snapshots,
}

/// What an append needs to know of a claim.
struct ClaimState {
    holder: Option<String>,
    sequence: u64,
    version: u32,
    last_hash: String,
}

impl EventStore {
    /// A store over a connection.
    #[must_use]
    pub fn new(client: Client, keys: Arc<KeyRing>, options: &StoreOptions) -> Self {
        let appender = Appender::new(client.clone(), options.grouping);
        let snapshots = Snapshots::new(client.clone(), Arc::clone(&keys), options.cache);
        EventStore { client, keys, appender, snapshots }
    }

    /// The key ring it verifies and signs with.
    #[must_use]
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// Writes the snapshots that are due, now.
    pub async fn flush(&self) {
        self.snapshots.flush().await;
    }

    /// Drops what is kept in memory, so that the next load is a cold one.
    pub fn forget(&self) {
        self.snapshots.forget();
    }

    /// An aggregate as it stands at the end of the log.
    pub async fn load<A: Aggregate>(&self, aggregate: &AggregateRef) -> Result<Loaded<A>, StoreError> {
        let subject = aggregate.event_subject();
        if let Some(cached) = self.snapshots.cached::<A>(&subject) {
            return Ok(cached);
        }
        self.load_cold(aggregate, &subject).await
    }

    // A snapshot and the subject's last message are one quick read each, cold or warm; the tail is read only when more
    // than that message is missing.
    async fn load_cold<A: Aggregate>(&self, aggregate: &AggregateRef, subject: &str) -> Result<Loaded<A>, StoreError> {
        let stream = aggregate.service.event_stream();
        let (snapshot, last) =
            tokio::join!(self.snapshots.stored::<A>(subject), read::last(&self.client, &stream, subject));
        let mut loaded = snapshot.unwrap_or_default();
        let Some(last) = last? else { return Ok(Loaded::default()) };
        if last.sequence == loaded.sequence {
            return Ok(loaded);
        }
        if last.sequence < loaded.sequence {
            // A snapshot from another log: worthless.
            loaded = Loaded::default();
        }
        let commit = self.decode(aggregate, &last)?;
        if loaded.is_followed_by(&commit) {
            loaded.fold(&commit, last.sequence).map_err(|error| untrusted(aggregate, last.sequence, error))?;
        } else {
            self.catch_up(aggregate, subject, &mut loaded).await?;
        }
        Ok(loaded)
    }

    // Brings what may be behind the log to its end.
    async fn refresh<A: Aggregate>(
        &self,
        aggregate: &AggregateRef,
        subject: &str,
        loaded: &mut Loaded<A>,
    ) -> Result<(), StoreError> {
        if loaded.version > 0 {
            return self.catch_up(aggregate, subject, loaded).await;
        }
        *loaded = self.load_cold(aggregate, subject).await?;
        Ok(())
    }

    async fn catch_up<A: Aggregate>(
        &self,
        aggregate: &AggregateRef,
        subject: &str,
        loaded: &mut Loaded<A>,
    ) -> Result<(), StoreError> {
        let stream = aggregate.service.event_stream();
        for stored in read::tail(&self.client, &stream, subject, loaded.sequence + 1).await? {
            let commit = self.decode(aggregate, &stored)?;
            loaded.fold(&commit, stored.sequence).map_err(|error| untrusted(aggregate, stored.sequence, error))?;
        }
        Ok(())
    }

    fn decode(&self, aggregate: &AggregateRef, stored: &Stored) -> Result<Vec<Signed>, StoreError> {
        commit::decode(&self.keys, &stored.payload).map_err(|error| untrusted(aggregate, stored.sequence, error))
    }

    /// Decides a command of an authenticated actor and stores what follows. The same command again gives the first outcome.
    pub async fn execute<A: Aggregate>(
        &self,
        aggregate: &AggregateRef,
        envelope: &CommandEnvelope,
        actor: &Actor,
    ) -> Result<Outcome, StoreError> {
        match A::Command::from_data(&envelope.command_type, envelope.data.get()) {
            Ok(command) => self.execute_and::<A>(aggregate, envelope, (command, actor), None).await,
            Err(error) => Ok(Outcome::rejected(envelope.id, unreadable(&error))),
        }
    }

    /// The same for a command that was read from its envelope, with what the platform does at once when it is accepted, in the
    /// same commit. What is refused of that is left away.
    pub async fn execute_and<A: Aggregate>(
        &self,
        aggregate: &AggregateRef,
        envelope: &CommandEnvelope,
        (command, actor): (A::Command, &Actor),
        next: Option<(A::Command, Actor)>,
    ) -> Result<Outcome, StoreError> {
        if let Err(rejection) = check_address::<A>(aggregate, &command, envelope.data.get()) {
            return Ok(Outcome::rejected(envelope.id, rejection));
        }
        if A::tenant_rule(&command) == TenantRule::Members && !actor.may_enter(&aggregate.tenant) {
            let denied = Rejection::new("ORG_ACCESS_DENIED", "the actor does not belong to this organization");
            return Ok(Outcome::rejected(envelope.id, denied));
        }
        // Before the aggregate looks: none of them can forget the limits of who acts for somebody.
        if let Some(authority) = &actor.authority
            && let Err(rejection) = authority.check(aggregate, &envelope.command_type)
        {
            return Ok(Outcome::rejected(envelope.id, rejection));
        }
        let subject = aggregate.event_subject();
        let context = envelope.context(actor);
        let (mut unanswered, mut searched) = (None, false);
        let slot = self.snapshots.slot::<A>(&subject);
        // What lay in memory may be behind the log, when another process has decided meanwhile; what nobody has looked at, too.
        let (mut loaded, mut current) = match slot.take() {
            Some(cached) => (cached, false),
            None if A::begins(&command) => (Loaded::default(), false),
            None => (self.load_cold(aggregate, &subject).await?, true),
        };
        for attempt in 0..ATTEMPTS {
            if let Some((sequence, events)) = loaded.commands.find(envelope.id) {
                slot.put(loaded);
                return Ok(accepted(envelope.id, aggregate, sequence, events, unanswered.is_none()));
            }
            if !searched && loaded.commands.may_have_forgotten(envelope.time) {
                searched = true;
                if let Some((sequence, events)) = self.find_decided(aggregate, &subject, envelope).await? {
                    slot.put(loaded);
                    return Ok(accepted(envelope.id, aggregate, sequence, events, true));
                }
            }
            let decision = loaded.state.decide(command.clone(), actor, envelope.time);
            // An append would meet what happened elsewhere; a decision without one has to look.
            if !current && decision.as_ref().map_or(true, |decision| decision.events.is_empty()) {
                let behind = loaded.sequence;
                self.refresh(aggregate, &subject, &mut loaded).await?;
                current = true;
                if loaded.sequence != behind {
                    continue;
                }
            }
            let decision = match decision {
                Ok(decision) => decision,
                Err(rejection) => {
                    slot.put(loaded);
                    return Ok(Outcome::rejected(envelope.id, rejection));
                }
            };
            if decision.events.is_empty() {
                slot.put(loaded);
                return Ok(Outcome { position: None, ..accepted(envelope.id, aggregate, 0, Vec::new(), false) });
            }
            let decision = match next.clone() {
                Some((command, by)) => with_next(&loaded.state, decision, command, &by, envelope.time),
                None => decision,
            };
            match self.commit(aggregate, &subject, &context, &mut loaded, &decision.events, &decision.claims).await {
                Ok(Ok(stored)) => {
                    let refs = stored.iter().map(|event| reference(event)).collect();
                    let outcome = Outcome {
                        stored: if envelope.returnevents { stored } else { Vec::new() },
                        ..accepted(envelope.id, aggregate, loaded.sequence, refs, false)
                    };
                    self.snapshots.put_changed(&subject, &slot, loaded).await;
                    return Ok(outcome);
                }
                Ok(Err(rejection)) => {
                    slot.put(loaded);
                    return Ok(Outcome::rejected(envelope.id, rejection));
                }
                // No repetition makes it smaller.
                Err(StoreError::Encode(EncodeError::TooLarge(bytes))) => {
                    slot.put(loaded);
                    return Ok(Outcome::rejected(envelope.id, too_large(bytes)));
                }
                Err(StoreError::Append(AppendError::Conflict)) => unanswered = None,
                Err(StoreError::Append(AppendError::Unavailable(reason))) => {
                    tracing::warn!(%aggregate, attempt, reason, "append not answered, looking whether it was stored");
                    tokio::time::sleep(Duration::from_millis(20 << attempt)).await;
                    unanswered = Some(AppendError::Unavailable(reason));
                }
                Err(error) => return Err(error),
            }
            self.refresh(aggregate, &subject, &mut loaded).await?;
            current = true;
        }
        // Not refused: it may yet be found stored.
        if let Some(error) = unanswered {
            return Err(error.into());
        }
        let busy = "the aggregate changed during each of 8 attempts; send the command again";
        Ok(Outcome::rejected(envelope.id, Rejection::new("CONFLICT", busy)))
    }

    // Looks in the log for a command: it cannot have been stored long before its own time.
    async fn find_decided(
        &self,
        aggregate: &AggregateRef,
        subject: &str,
        envelope: &CommandEnvelope,
    ) -> Result<Option<(u64, Vec<EventRef>)>, StoreError> {
        let stream = aggregate.service.event_stream();
        let since = envelope.time - MAX_SKEW * 2;
        let of_command = |stored: &Stored| {
            let events = commit::decode(&self.keys, &stored.payload).ok()?;
            let decided = events.first().is_some_and(|e| e.event.commandid == envelope.id);
            decided.then_some(events)
        };
        let found = read::find(&self.client, &stream, subject, since, |stored| of_command(stored).is_some()).await?;
        Ok(found.and_then(|stored| {
            Some((stored.sequence, of_command(&stored)?.iter().map(|e| reference(&e.event)).collect()))
        }))
    }

    async fn commit<A: Aggregate>(
        &self,
        aggregate: &AggregateRef,
        subject: &str,
        context: &Context,
        loaded: &mut Loaded<A>,
        events: &[A::Event],
        claims: &[ClaimChange],
    ) -> Result<Result<Vec<Arc<Event>>, Rejection>, StoreError> {
        let signed = sign_commit(&self.keys, aggregate, context, loaded.version, &loaded.last_hash, events)?;
        let (payload, content_type) = commit::encode(&signed);
        let mut messages = vec![Append {
            subject: subject.to_owned(),
            message_id: context.command_id.commit_id().to_string(),
            expected: loaded.sequence,
            content_type,
            payload: payload.clone(),
        }];
        for change in claims {
            match self.claim(aggregate, context, change).await? {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => {}
                Err(rejection) => return Ok(Err(rejection)),
            }
        }
        // Before it is appended: what follows the log may have it before this does.
        commit::remember(&self.keys, &payload, &signed);
        loaded.sequence = self.appender.append(aggregate.service, messages).await?;
        for event in events {
            loaded.state.apply(event);
        }
        let version = loaded.version + 1;
        let types = signed.iter().map(|one| one.event.event_type.as_str());
        loaded.commands.push(context.command_id, context.at, loaded.sequence, version, types);
        if let Some(last) = signed.last() {
            loaded.version = last.event.aggregateversion;
            loaded.last_hash.clone_from(&last.hash);
        }
        Ok(Ok(signed.into_iter().map(|one| one.event).collect()))
    }

    // The message that changes a claim; none when it already stands as wanted.
    async fn claim(
        &self,
        aggregate: &AggregateRef,
        context: &Context,
        change: &ClaimChange,
    ) -> Result<Result<Option<Append>, Rejection>, StoreError> {
        let wanted = change.claim();
        let address = AggregateRef::new(aggregate.service, wanted.tenant.clone(), claim::KIND, &wanted.name);
        let Ok(address) = address else {
            return Ok(Err(Rejection::invalid(format!("'{}' cannot be claimed as a name", wanted.name))));
        };
        let state = self.claim_state(&address).await?;
        let taking = matches!(change, ClaimChange::Take(_));
        let held_by_us = state.holder.as_ref() == Some(&wanted.holder);
        match (taking, held_by_us) {
            (true, true) | (false, false) => return Ok(Ok(None)),
            (true, false) if state.holder.is_some() => {
                return Ok(Err(Rejection::new(wanted.taken, taken_text(&wanted.name))));
            }
            _ => {}
        }
        let data = claim::ClaimData { name: wanted.name.clone(), holder: wanted.holder.clone() };
        let data = canonical::to_raw(&data).map_err(EncodeError::from)?;
        let event_type = claim::event_type(aggregate.service, taking);
        let signed =
            sign_data(&self.keys, &address, context, state.version, &state.last_hash, vec![(event_type, data)])?;
        let (payload, content_type) = commit::encode(&signed);
        let message_id = uuid::Uuid::new_v5(&context.command_id.commit_id(), wanted.name.as_bytes()).to_string();
        Ok(Ok(Some(Append {
            subject: address.event_subject(),
            message_id,
            expected: state.sequence,
            content_type,
            payload,
        })))
    }

    // A claim's messages hold one event each, and the last says who has it.
    async fn claim_state(&self, address: &AggregateRef) -> Result<ClaimState, StoreError> {
        let stream = address.service.event_stream();
        let Some(stored) = read::last(&self.client, &stream, &address.event_subject()).await? else {
            return Ok(ClaimState { holder: None, sequence: 0, version: 0, last_hash: GENESIS.to_owned() });
        };
        let malformed = |error| untrusted(address, stored.sequence, error);
        let mut events = self.decode(address, &stored)?;
        let signed = events.pop().ok_or_else(|| malformed(DecodeError::Envelope("an empty batch".to_owned())))?;
        let data = symbia_events::read_data(&signed.event.event_type, signed.event.data.get()).map_err(malformed)?;
        Ok(ClaimState {
            holder: claim::holder_after(&signed.event.event_type, data),
            sequence: stored.sequence,
            version: signed.event.aggregateversion,
            last_hash: signed.hash,
        })
    }
}

fn with_next<A: Aggregate>(
    state: &A,
    mut decision: Decision<A::Event>,
    command: A::Command,
    by: &Actor,
    at: OffsetDateTime,
) -> Decision<A::Event> {
    let mut after = state.clone();
    decision.events.iter().for_each(|event| after.apply(event));
    if let Ok(next) = after.decide(command, by, at) {
        decision.events.extend(next.events);
        decision.claims.extend(next.claims);
    }
    decision
}

fn accepted(
    command_id: CommandId,
    aggregate: &AggregateRef,
    sequence: u64,
    events: Vec<EventRef>,
    repeated: bool,
) -> Outcome {
    let position = Some(Position { service: aggregate.service, sequence });
    let (status, stored) = (OutcomeStatus::Accepted, Vec::new());
    Outcome { command_id, status, events, stored, position, repeated, rejection: None }
}

fn reference(event: &Event) -> EventRef {
    EventRef { event_type: event.event_type.clone(), version: event.aggregateversion }
}

fn untrusted(aggregate: &AggregateRef, sequence: u64, error: DecodeError) -> StoreError {
    StoreError::Untrusted { aggregate: aggregate.to_string(), sequence, error }
}

fn too_large(bytes: usize) -> Rejection {
    let text = format!("what is to be stored has {bytes} bytes, sealed and written out; the limit is {MAX_DATA}");
    Rejection::new("TOO_LARGE", text)
}

fn unreadable(error: &DecodeError) -> Rejection {
    match error {
        DecodeError::UnknownType(name) => Rejection::new(
            "UNKNOWN_COMMAND",
            format!("'{name}' is no command of this aggregate; docs/asyncapi.json lists them"),
        ),
        other => Rejection::invalid(other.to_string()),
    }
}

fn taken_text(name: &str) -> String {
    let purpose = name.split(':').next().unwrap_or(name);
    match purpose {
        "bootstrap" => "the platform has its first super admin already".to_owned(),
        _ => format!("this {purpose} is taken: choose another"),
    }
}

/// Names the shape of a snapshot: another shape is dropped on reading.
pub(crate) fn snapshot_shape<A: Aggregate>() -> String {
    format!("{}/{}/{}", A::Event::SERVICE, A::Event::AGGREGATE, A::STATE_VERSION)
}
