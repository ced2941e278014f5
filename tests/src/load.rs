//! Writers that never stop asking: over REST and on the command bus. What was acknowledged is remembered, and later looked
//! for in the log.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use async_nats::{Client, jetstream};
use serde_json::{Value, json};
use symbia_commands::{
    Actor, CommandEnvelope, OutcomeStatus,
    identity::{CreateOrganization, OrganizationCommand, RenameOrganization},
};
use symbia_events::{AggregateRef, CommandId, KeyRing, Service, commit};
use symbia_nats::{bus::CommandBus, log::LogReader};
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::apart::Apart;

/// How long a writer repeats what it wants done before the platform counts as not healed.
const PATIENCE: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(50);

/// Something that the platform said is done.
#[derive(Clone, Debug)]
enum Acknowledged {
    /// An outcome: this command, so many events.
    Command { id: CommandId, subject: String, events: usize },
    /// An answer over REST: an event of this kind whose data has this member with this value.
    Thing { event: &'static str, member: &'static str, id: String },
}

/// What the writers share.
#[derive(Default)]
struct Ledger {
    acknowledged: Mutex<Vec<Acknowledged>>,
    // Per writer, so that one who is stuck is noticed.
    done: Vec<AtomicU64>,
    unexpected: Mutex<Vec<String>>,
}

/// Writers at work.
pub struct Load {
    ledger: Arc<Ledger>,
    stop: CancellationToken,
    writers: JoinSet<anyhow::Result<()>>,
}

impl Load {
    /// Starts `rest` writers of organizations and members over REST, and `raw` ones on the command bus.
    pub async fn start(apart: &Apart, rest: usize, raw: usize) -> anyhow::Result<Self> {
        let done = (0..rest + raw).map(|_| AtomicU64::new(0)).collect();
        let ledger = Arc::new(Ledger { done, ..Ledger::default() });
        let stop = CancellationToken::new();
        let mut writers = JoinSet::new();
        let mut people = Vec::new();
        for number in 0..rest {
            people.push(Person::register(apart.api(), number).await?);
        }
        for number in 0..rest {
            let guest = people[(number + 1) % rest].email.clone();
            writers.spawn(people[number].clone().write(number, guest, Arc::clone(&ledger), stop.clone()));
        }
        let keys = Arc::new(apart.keys()?);
        for number in rest..rest + raw {
            let (nats, keys, ledger) = (apart.nats().await?, Arc::clone(&keys), Arc::clone(&ledger));
            writers.spawn(write_raw(nats, keys, number, ledger, stop.clone()));
        }
        Ok(Load { ledger, stop, writers })
    }

    /// Waits until every writer got something done from now on.
    pub async fn all_go_on(&self) -> anyhow::Result<()> {
        let before: Vec<u64> = self.counts();
        let began = Instant::now();
        loop {
            let stuck = self.counts().iter().zip(&before).filter(|(now, then)| now <= then).count();
            if stuck == 0 {
                return Ok(());
            }
            self.ledger.well()?;
            ensure!(began.elapsed() < PATIENCE, "{stuck} writers got nothing done within {PATIENCE:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn counts(&self) -> Vec<u64> {
        self.ledger.done.iter().map(|done| done.load(Ordering::Relaxed)).collect()
    }

    /// Lets every writer finish what it began; how much was acknowledged.
    pub async fn finish(&mut self) -> anyhow::Result<usize> {
        self.stop.cancel();
        while let Some(writer) = self.writers.join_next().await {
            writer??;
        }
        self.ledger.well()?;
        Ok(self.ledger.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len())
    }

    /// Looks for everything acknowledged in the log: there, and there once.
    pub async fn check(&self, nats: Client, keys: &KeyRing) -> anyhow::Result<()> {
        let log = Log::read(nats, keys).await?;
        for acknowledged in self.ledger.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let (found, wanted) = match acknowledged {
                Acknowledged::Command { id, subject, events } => (log.of_command(*id, subject), *events),
                Acknowledged::Thing { event, member, id } => (log.of_thing(event, member, id), 1),
            };
            ensure!(found == wanted, "{found} events instead of {wanted} for {acknowledged:?}");
        }
        Ok(())
    }
}

impl Ledger {
    fn acknowledge(&self, writer: usize, what: Acknowledged) {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(what);
        self.done[writer].fetch_add(1, Ordering::Relaxed);
    }

    fn well(&self) -> anyhow::Result<()> {
        let unexpected = self.unexpected.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(unexpected.is_empty(), "{unexpected:?}");
        Ok(())
    }

    fn unexpected(&self, what: String) -> anyhow::Error {
        self.unexpected.lock().unwrap_or_else(PoisonError::into_inner).push(what.clone());
        anyhow::Error::msg(what)
    }
}

#[derive(Clone)]
struct Person {
    api: String,
    http: reqwest::Client,
    address: String,
    email: String,
    token: String,
}

impl Person {
    async fn register(api: String, number: usize) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
        let email = format!("writer-{number}@example.test");
        let mut person = Person {
            api,
            http,
            address: format!("10.0.{}.{}", number / 250, number % 250 + 1),
            email,
            token: String::new(),
        };
        let body = json!({ "email": person.email, "password": "a writer's password", "name": "Writer", "orgName": format!("First {number}") });
        let answer = person.post("/api/auth/register", &body, None).await?;
        let token = answer["token"].as_str().with_context(|| format!("no token: {answer}"))?;
        token.clone_into(&mut person.token);
        Ok(person)
    }

    async fn write(
        self,
        number: usize,
        guest: String,
        ledger: Arc<Ledger>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        for round in 0.. {
            if stop.is_cancelled() {
                break;
            }
            let body = json!({ "name": format!("Organization {number} {round}") });
            let org = self.post("/api/orgs", &body, Some(&ledger)).await?;
            let id = org["id"].as_str().context("an organization without id")?.to_owned();
            let path = format!("/api/orgs/{id}/members/invite");
            ledger.acknowledge(number, Acknowledged::Thing { event: "organization-created", member: "orgId", id });
            let body = json!({ "email": guest, "role": "member" });
            let member = self.post(&path, &body, Some(&ledger)).await?;
            let id = member["id"].as_str().context("a membership without id")?.to_owned();
            ledger.acknowledge(number, Acknowledged::Thing { event: "member-added", member: "membershipId", id });
        }
        Ok(())
    }

    /// Repeats a request, with the same idempotency key, until it is done.
    async fn post(&self, path: &str, body: &Value, ledger: Option<&Ledger>) -> anyhow::Result<Value> {
        let key = Uuid::new_v4().to_string();
        let began = Instant::now();
        let mut last = String::new();
        while began.elapsed() < PATIENCE {
            let mut request = self.http.post(format!("{}{path}", self.api)).json(body);
            request = request.header("idempotency-key", &key).header("x-forwarded-for", &self.address);
            if !self.token.is_empty() {
                request = request.bearer_auth(&self.token);
            }
            let answer = match request.send().await {
                Ok(answer) => answer,
                // The API is down.
                Err(error) => {
                    last = error.to_string();
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let status = answer.status().as_u16();
            let retry_after = answer.headers().contains_key("retry-after");
            last = match answer.text().await {
                Ok(text) => text,
                Err(error) => error.to_string(),
            };
            match status {
                200 => {
                    // Cut off while it was read: ask again.
                    if let Ok(value) = serde_json::from_str(&last) {
                        return Ok(value);
                    }
                }
                202 | 429 => {}
                // A crash of the database takes the last moments of the read models along, until they are folded again: one's
                // own organization is not there, or not one's own, so long.
                403 | 404 => {}
                503 if retry_after => {}
                _ => {
                    let what = format!("POST {path}: {status} {last}");
                    return Err(ledger
                        .map_or_else(|| anyhow::Error::msg(what.clone()), |ledger| ledger.unexpected(what.clone())));
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("POST {path} was not done within {PATIENCE:?}; last answer: {last}")
    }
}

async fn write_raw(
    nats: Client,
    keys: Arc<KeyRing>,
    number: usize,
    ledger: Arc<Ledger>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let bus = CommandBus::open(nats).await?;
    while !stop.is_cancelled() {
        let (org_id, aggregate) = organization()?;
        let found = OrganizationCommand::from(CreateOrganization {
            org_id: org_id.clone(),
            name: format!("Raw {number}"),
            slug: format!("raw-{org_id}"),
            plan_id: None,
            membership_id: Uuid::new_v4().to_string(),
            owner_id: Uuid::new_v4().to_string(),
        });
        let renamed =
            (0..4).map(|round| RenameOrganization { org_id: org_id.clone(), name: format!("Raw {number} {round}") });
        for command in std::iter::once(found).chain(renamed.map(OrganizationCommand::from)) {
            let now = OffsetDateTime::now_utc();
            let actor = Actor::system("test");
            let envelope = CommandEnvelope::new(&keys, &aggregate, &command, &actor, CommandId::random(), now)?;
            let events = send(&bus, &aggregate, &envelope, &ledger).await?;
            let subject = aggregate.event_subject();
            ledger.acknowledge(number, Acknowledged::Command { id: envelope.id, subject, events });
        }
    }
    Ok(())
}

/// A new organization's id and address.
pub fn organization() -> anyhow::Result<(String, AggregateRef)> {
    let id = Uuid::new_v4().to_string();
    let aggregate = AggregateRef::new(Service::Identity, id.parse()?, "organization", &id)?;
    Ok((id, aggregate))
}

// The same command until there is an outcome.
async fn send(
    bus: &CommandBus,
    aggregate: &AggregateRef,
    envelope: &CommandEnvelope,
    ledger: &Ledger,
) -> anyhow::Result<usize> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        match bus.send(aggregate, envelope, Duration::from_secs(10)).await {
            Ok(outcome) if outcome.status == OutcomeStatus::Accepted => return Ok(outcome.events.len()),
            Ok(outcome) => return Err(ledger.unexpected(format!("{aggregate}: {outcome:?}"))),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    bail!("command {} was not decided within {PATIENCE:?}", envelope.id)
}

/// The event log of identity, indexed.
struct Log {
    commands: HashMap<(CommandId, String), usize>,
    things: HashMap<(String, String), usize>,
}

impl Log {
    /// Reads and verifies everything. Fails when a command stands in more than one message of a subject.
    async fn read(nats: Client, keys: &KeyRing) -> anyhow::Result<Self> {
        let js = jetstream::new(nats);
        let last = js.get_stream(Service::Identity.event_stream()).await?.cached_info().state.last_sequence;
        let mut reader = LogReader::open(js, Service::Identity, 0, Vec::new()).await?;
        let mut log = Log { commands: HashMap::new(), things: HashMap::new() };
        while reader.position() < last {
            for message in reader.next_batch(1000, Duration::from_secs(5)).await? {
                let events = commit::decode(keys, &message.payload)?;
                let Some(command) = events.first().map(|e| e.event.commandid) else { continue };
                let twice = log.commands.insert((command, message.subject.clone()), events.len()).is_some();
                ensure!(!twice, "command {command} is twice in {}", message.subject);
                for signed in events {
                    let data: Value = serde_json::from_str(signed.event.data.get())?;
                    let kind = signed.event.event_type.split('.').nth(3).unwrap_or_default().to_owned();
                    for member in ["orgId", "membershipId"] {
                        if let Some(id) = data[member].as_str() {
                            *log.things.entry((format!("{kind} {member}"), id.to_owned())).or_default() += 1;
                        }
                    }
                }
            }
        }
        Ok(log)
    }

    fn of_command(&self, id: CommandId, subject: &str) -> usize {
        self.commands.get(&(id, subject.to_owned())).copied().unwrap_or_default()
    }

    fn of_thing(&self, event: &str, member: &str, id: &str) -> usize {
        self.things.get(&(format!("{event} {member}"), id.to_owned())).copied().unwrap_or_default()
    }
}
